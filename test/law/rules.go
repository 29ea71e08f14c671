// SPDX-License-Identifier: Apache-2.0

package law

// Module is the path of the module that the rules are for.
const Module = "xdplvs"

// Law says who may import whom. Directories are below the module's root and stand for all below them,
// unless those have a line of their own; a package may always import what lies below itself.
type Law struct {
	// Own maps a directory to the directories of this module that it may import.
	Own map[string][]string
	// Pure directories decide without the world: they may not import these packages.
	Pure  []string
	World []string
	// Libraries maps another module, or a part of it, to the directories that may import it.
	Libraries map[string][]string
}

// anywhere allows a library to every directory.
var anywhere = []string{"."}

// DirectorLaw is the import law of this module: imports go downward only. Test files stand outside.
var DirectorLaw = Law{
	Own: map[string][]string{
		// The bottom knows nobody.
		"bpf":             {},
		"scheduler":       {},
		"defense":         {},
		"internal/agenda": {},

		"healthcheck": {"internal/agenda"},

		"director": {"bpf", "scheduler", "defense"},
		"configs":  {"director", "healthcheck", "internal/api", "internal/health", "internal/notify"},

		"internal/arpnd":      {},
		"internal/nexthop":    {"internal/agenda", "internal/arpnd"},
		"internal/atomicfile": {},
		"internal/vip":        {"director", "internal/agenda", "internal/arpnd", "internal/atomicfile"},
		"internal/genl":       {},
		"internal/offload":    {"internal/genl"},
		"internal/health":     {"director", "healthcheck"},
		"internal/notify":     {"director", "healthcheck", "internal/health"},
		"internal/door":       {"internal/offload"},
		"internal/api":        {"director"},
		"internal/markimport": {"director"},
		"internal/metrics":    {"director"},
		"internal/pcap":       {},
		"internal/explain":    {"bpf", "director", "internal/packet", "internal/pcap"},
		"internal/trace":      {"bpf", "director", "internal/api/connfilter"},
		"internal/realserver": {"director", "internal/genl"},
		"internal/doctor":     {"bpf", "director", "internal/door", "internal/genl", "internal/nexthop", "internal/offload"},
		"internal/ipvsadm":    {"director"},
		"internal/importer":   {"configs", "director", "internal/ipvsadm"},
		"internal/cli":        {"director", "internal/api", "internal/doctor", "internal/ipvsadm", "internal/markimport", "internal/pcap", "internal/realserver"},
		// The one place where parts meet; but for the importer, the only one that knows the file format.
		"internal/daemon": {"bpf", "configs", "defense", "director", "healthcheck", "internal/api", "internal/arpnd", "internal/atomicfile", "internal/doctor", "internal/door", "internal/explain", "internal/health", "internal/importer", "internal/metrics", "internal/nexthop", "internal/notify", "internal/offload", "internal/trace", "internal/vip"},
		"cmd/director":    {"director", "internal/cli", "internal/daemon", "internal/doctor"},

		// Not in the product.
		"internal/testkit":  {},
		"internal/netlab":   {"bpf", "internal/offload"},
		"internal/programs": {},
		"internal/bench":    {"bpf", "director", "scheduler", "internal/api", "internal/netlab"},
		"test":              {"bpf", "director", "internal/api", "internal/bench", "internal/netlab", "internal/programs"},
		"tools":             {},
	},
	Pure:  []string{"scheduler", "defense"},
	World: []string{"net", "os", "syscall", "log", "log/slog"},
	Libraries: map[string][]string{
		"github.com/cilium/ebpf":         {"bpf"},
		"gopkg.in/yaml.v3":               {"configs"},
		"github.com/prometheus":          {"internal/metrics"},
		"github.com/spf13":               {"internal/cli"},
		"github.com/coreos/go-systemd":   {"internal/daemon"},
		"github.com/vishvananda/netlink": {"internal/door", "internal/genl", "internal/nexthop", "internal/offload", "internal/vip", "internal/realserver", "internal/doctor", "internal/netlab"},
		"github.com/vishvananda/netns":   {"internal/nexthop", "internal/netlab"},
		"github.com/mdlayher":            {"internal/arpnd"},
		"golang.org/x/net":               {"internal/arpnd", "healthcheck"},
		"github.com/go-sql-driver/mysql": {"healthcheck", "test/uses"},
		"github.com/jackc/pgx":           {"healthcheck"},
		"github.com/go-ldap/ldap":        {"healthcheck"},
		"github.com/quic-go/quic-go":     {"test"},
		"golang.org/x/sync":              anywhere,
		"golang.org/x/sys":               anywhere,
	},
}

// MaxFunctionLines is the length of the longest function, in Go and in C.
const MaxFunctionLines = 80

// Licences by kind of file.
const (
	apache = "Apache-2.0"
	bpf    = "GPL-2.0-only OR BSD-2-Clause"
)
