// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"xdplvs/director"
	"xdplvs/internal/door"
)

// serviceUser is a user that nobody is.
const serviceUser = 64998

const systemdFiles = "../../contrib/systemd"

// capabilities are those that the systemd unit gives, as setpriv writes them: +net_admin,+bpf.
func capabilities(t *testing.T) string {
	t.Helper()
	unit := string(get(os.ReadFile(filepath.Join(systemdFiles, "director.service")))(t))
	if !strings.Contains(unit, "\nProtectKernelTunables=yes\n") {
		t.Error("the unit lets the director write sysctls, which it need not")
	}
	_, list, ok := strings.Cut(unit, "\nAmbientCapabilities=")
	list, _, _ = strings.Cut(list, "\n")
	if !ok || list == "" {
		t.Fatal("the unit has no AmbientCapabilities")
	}
	var words []string
	for _, name := range strings.Fields(list) {
		words = append(words, "+"+strings.ToLower(strings.TrimPrefix(name, "CAP_")))
	}
	return strings.Join(words, ",")
}

// readOnlySysctls runs a command to which they are what ProtectKernelTunables=yes makes of them.
const readOnlySysctls = `mount --bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys && exec "$@"`

// asService is the farm with files that the service's user may use: a program, a run directory, and
// a state whose parent only root could pass through, as systemd mounts the bpffs.
func (f *farm) asService() (command []string, state string) {
	f.t.Helper()
	dir := get(os.MkdirTemp("", fmt.Sprintf("%s%d.", programPrefix, os.Getpid())))(f.t)
	f.t.Cleanup(func() { must(f.t, os.RemoveAll(dir)) })
	must(f.t, os.Chmod(dir, 0o711))
	f.dir = filepath.Join(dir, "run")
	must(f.t, os.Mkdir(f.dir, 0o755))
	must(f.t, os.Chown(f.dir, serviceUser, serviceUser))
	copied := filepath.Join(dir, "director")
	must(f.t, os.WriteFile(copied, get(os.ReadFile(program))(f.t), 0o755))

	must(f.t, os.Mkdir(f.stateDir(), 0o700))
	state = filepath.Join(f.stateDir(), "director")
	if out, err := exec.Command(filepath.Join(systemdFiles, "prepare-state"), state, fmt.Sprint(serviceUser)).CombinedOutput(); err != nil {
		f.t.Fatalf("prepare-state: %v\n%s", err, out)
	}
	caps := capabilities(f.t)
	return []string{"unshare", "--mount", "sh", "-c", readOnlySysctls, "sh", "setpriv", fmt.Sprintf("--reuid=%d", serviceUser), fmt.Sprintf("--regid=%d", serviceUser), "--clear-groups",
		"--inh-caps=-all," + caps, "--ambient-caps=" + caps, "--bounding-set=-all," + caps, "--no-new-privs", copied}, state
}

// The capabilities of the systemd unit are enough, without root: to load, attach, resolve, hold
// addresses, take over after a kill, and detach.
func TestWithoutRoot(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("setpriv"); err != nil {
		t.Skip("setpriv is not installed")
	}
	f := newFarm(t, 2)
	command, state := f.asService()
	services := join(standard("rr", 1, 1), both("alt", "tcp", altPort, "wlc", 1, 1))
	config := strings.Replace(f.config("eth0", services...), "state_dir: "+f.stateDir(), "state_dir: "+state, 1) +
		fmt.Sprintf("addresses:\n  - {address: %s, mode: answer}\n  - {address: %q, mode: interface}\n", vip4, vip6)
	f.writeConfig(config)
	must(t, os.Chmod(f.configFile(), 0o644))

	d := f.launchBy(command, nil, nil)
	d.waitLog("event=ready", 1)
	f.mustSpread(f.fetch, vip4, webPort, map[string]int{"rs1": 3, "rs2": 3})
	f.mustSpread(f.query, vip6, dnsPort, map[string]int{"rs1": 2, "rs2": 2})
	f.reload()
	d.kill()
	f.mustSpread(f.fetch, vip6, webPort, map[string]int{"rs1": 1, "rs2": 1})

	again := f.launchBy(command, []string{"--detach"}, nil)
	again.waitLog("event=ready", 1)
	if strings.Contains(again.log.String(), "tables_replaced") {
		t.Errorf("the tables were not taken over:\n%s", again.log)
	}
	if n := f.service("web6").Counters.Conns; n != 2 {
		t.Errorf("%d connections, want the 2 of before", n)
	}
	if code := again.stop(); code != 0 {
		t.Errorf("exit %d:\n%s", code, again.log)
	}
	if pins := glob(state, ""); len(pins) > 0 {
		t.Errorf("left pinned: %v", pins)
	}
}

// Marks of the firewall bring packets, and probes via services go, with the unit's capabilities and without a sysctl that can be
// written, on a host that filters sources strictly.
func TestMarksWithoutRoot(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("setpriv"); err != nil {
		t.Skip("setpriv is not installed")
	}
	f := newLab(t)
	f.forwarding(f.director)
	must(t, f.director.Sysctl("net.ipv4.conf.all.rp_filter", "1"))
	twoNetworks(f)
	for _, r := range f.reals {
		f.defaultRoute(r.Host, director4.String(), director6.String())
	}
	f.defaultRoute(f.director, "10.1.0.1", "fd01::1") // even a loose filter wants some route to the source
	markByNFT(f)
	command, state := f.asService()
	config := strings.Replace(f.firewalled("eth0, eth1", "nat"), "state_dir: "+f.stateDir(), "state_dir: "+state, 1)
	f.writeConfig(config + f.mapped("nat", 7000))
	must(t, os.Chmod(f.configFile(), 0o644))
	d := f.launchBy(command, []string{"--detach"}, nil)
	d.waitLog("event=ready", 1)
	for _, family := range families {
		f.mustStay("as the unit runs it", family.vip)
		f.condition("nat"+family.name, "rs1", director.Up)
	}
	if code := d.stop(); code != 0 {
		t.Errorf("exit %d:\n%s", code, d.log)
	}
	if links := f.onDirector("ip", "-o", "link"); strings.Contains(links, door.Near) {
		t.Errorf("left behind:\n%s", links)
	}
}
