// SPDX-License-Identifier: Apache-2.0

package realserver

import (
	"flag"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"xdplvs/director"
)

var update = flag.Bool("update", false, "write the golden files")

func addrs(texts ...string) (list []netip.Addr) {
	for _, text := range texts {
		list = append(list, netip.MustParseAddr(text))
	}
	return list
}

// specs are one of each kind.
var specs = map[string]Spec{
	"dr": {Method: director.DirectRouting, VIPs: addrs("192.0.2.10", "192.0.2.11", "2001:db8::10")},
	"dr-interface": {
		Method: director.DirectRouting, VIPs: addrs("192.0.2.10"), Interface: "eth0.100",
	},
	"dr-ipv6": {Method: director.DirectRouting, VIPs: addrs("2001:db8::10")},
	"tun-ipip": {
		Method: director.Tunnel, VIPs: addrs("192.0.2.10"), Own: addrs("10.0.0.11"), Encap: IPIP, MTU: 1500,
		Gateways: addrs("10.0.0.254"), Interface: "eth0",
	},
	"tun-both-families": {
		Method: director.Tunnel, VIPs: addrs("192.0.2.10", "2001:db8::10"), Own: addrs("10.0.0.11"), Encap: IPIP, MTU: 1500,
		Gateways: addrs("10.0.0.254", "fd00::fe"), Interface: "eth0",
	},
	"tun-ipv6-outside": {
		Method: director.Tunnel, VIPs: addrs("192.0.2.10"), Own: addrs("fd00::11"), Encap: IPIP, MTU: 1500,
		Gateways: addrs("10.0.0.254"), Interface: "eth0",
	},
	"tun-ipv6-both": {
		Method: director.Tunnel, VIPs: addrs("192.0.2.10", "2001:db8::10"), Own: addrs("fd00::11"), Encap: IPIP, MTU: 9000,
	},
	"tun-gue": {
		Method: director.Tunnel, VIPs: addrs("192.0.2.10", "2001:db8::10"), Own: addrs("10.0.0.11", "fd00::11"), Encap: GUE,
		Port: 6080, MTU: 1500, Gateways: addrs("10.0.0.254", "fd00::fe"), Interface: "eth0",
	},
	"tun-gre": {
		Method: director.Tunnel, VIPs: addrs("192.0.2.10", "2001:db8::10"), Own: addrs("10.0.0.11"), Encap: GRE, MTU: 1600,
	},
	"tun-gre-checksum": {
		Method: director.Tunnel, VIPs: addrs("192.0.2.10", "2001:db8::10"), Own: addrs("10.0.0.11", "fd00::11"), Encap: GRE, Checksum: true,
		MTU: 1500, Gateways: addrs("10.0.0.254", "fd00::fe"), Interface: "eth0",
	},
	"tun-present-routes": {
		Method: director.Tunnel, VIPs: addrs("192.0.2.10", "2001:db8::10"), Own: addrs("10.0.0.11"), Encap: GRE, MTU: 1500,
	},
	"nat": {Method: director.NAT, Directors: addrs("10.0.0.2", "fd00::2"), Interface: "eth0"},
}

// TestGolden: each kind for each system. That a script is no mistake is asked of sh.
func TestGolden(t *testing.T) {
	for name, spec := range specs {
		if err := spec.Check(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for _, system := range Systems {
			for _, remove := range []bool{false, true} {
				file := name + "." + string(system)
				if remove {
					file += ".remove"
				}
				t.Run(file, func(t *testing.T) {
					text, err := Render(Build(spec), system, remove)
					if err != nil {
						text = "error: " + err.Error() + "\n"
					} else {
						mustParse(t, text)
					}
					golden(t, filepath.Join("testdata", file+".txt"), text)
				})
			}
		}
	}
}

// mustParse fails unless sh can read the script, and not in part: -n says nothing of a file that ends
// in the middle of a here-document.
func mustParse(t *testing.T, text string) {
	t.Helper()
	cmd := exec.Command("sh", "-n")
	cmd.Stdin = strings.NewReader(text)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("sh: %v: %s\n%s", err, out, text)
	}
	if begun, ended := strings.Count(text, "<<'END'\n"), strings.Count(text, "\nEND\n"); begun != ended {
		t.Errorf("%d here-documents begin, %d end:\n%s", begun, ended, text)
	}
}

func golden(t *testing.T, path, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs (go test -update writes it)\ngot:\n%s\nwant:\n%s", path, got, want)
	}
}
