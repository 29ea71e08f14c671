// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"bytes"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"xdplvs/director"
)

// TestSharedPorts: ports of fullnat that the kernel may give away are counted, reserved ones are not.
func TestSharedPorts(t *testing.T) {
	for _, c := range []struct {
		given, reserved string
		ports           director.PortRange
		want            int
		text            string // of an error
	}{
		{"32768\t60999\n", "\n", director.DefaultLocalPorts, 0, ""},
		{"32768\t60999\n", "\n", director.PortRange{First: 1024, Last: 32769}, 2, ""},
		{"1024\t65535\n", "\n", director.PortRange{First: 2000, Last: 2009}, 10, ""},
		{"1024\t65535\n", "2000-2004,2007\n", director.PortRange{First: 2000, Last: 2009}, 4, ""},
		{"1024 65535 3", "\n", director.PortRange{}, 0, `parse port range "1024-65535-3"`},
		{"1024 65535", "web\n", director.PortRange{}, 0, `parse port range "web"`},
	} {
		dir := t.TempDir()
		for name, text := range map[string]string{"ip_local_port_range": c.given, "ip_local_reserved_ports": c.reserved} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		own, err := readOwnPorts(dir + "/")
		if c.text != "" {
			if err == nil || err.Error() != c.text {
				t.Errorf("%q, %q: error %v, want %s", c.given, c.reserved, err, c.text)
			}
			continue
		}
		if got := own.shared(c.ports); err != nil || got != c.want {
			t.Errorf("%q, %q: %d ports of %s are shared, %v; want %d", c.given, c.reserved, got, c.ports, err, c.want)
		}
	}
}

// TestWarnPorts: it is told only who forwards by fullnat, with ports that are the kernel's.
func TestWarnPorts(t *testing.T) {
	own, err := readOwnPorts(sysctlIPv4)
	if err != nil {
		t.Fatal(err)
	}
	for _, method := range []director.Method{director.NAT, director.FullNAT} {
		var log bytes.Buffer
		d := &daemon{log: slog.New(slog.NewTextHandler(&log, nil))}
		want := director.Desired{Locals: director.LocalEnds{Ports: own.given},
			Services: []director.Service{{Reals: []director.RealServer{{Method: method}}}}}
		d.warnPorts(&want)
		if told := strings.Contains(log.String(), "ports_shared"); told != (method == director.FullNAT) {
			t.Errorf("%s: log is %q", method, log.String())
		}
	}
}

// TestOwnAddresses: a loopback address is there on every host.
func TestOwnAddresses(t *testing.T) {
	list, err := ownAddresses()
	if err != nil || !slices.Contains(list, netip.MustParseAddr("127.0.0.1")) {
		t.Errorf("addresses %v, %v", list, err)
	}
}
