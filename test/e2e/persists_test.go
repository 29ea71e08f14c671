// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// networkd is where systemd has it.
const networkd = "/lib/systemd/systemd-networkd"

// byNetworkd runs a script as on a host that systemd-networkd configures, then that, until the host has what it should have. In
// a mount namespace the script's files are nobody else's. Without udev, of which a /sys that cannot be written is the sign,
// systemd-networkd waits for nobody; and there is no bus for networkctl to ask.
const byNetworkd = `set -e
mount -t tmpfs none /etc/systemd
mount -t tmpfs none /etc/sysctl.d
mount -t tmpfs none /run
mount -t sysfs -o ro none /sys
mkdir -p /etc/systemd/network /run/systemd/netif/links /run/systemd/netif/leases /run/systemd/netif/lldp /run/bin
chmod -R a+rwX /run
printf '[Match]\nName=eth0\n[Network]\nAddress=%s/24\nAddress=%s/64\n' > /etc/systemd/network/10-eth0.network
printf '#!/bin/sh\necho "  Network File: /etc/systemd/network/10-eth0.network"\n' > /run/bin/networkctl
chmod +x /run/bin/networkctl
PATH=/run/bin:$PATH sh "$1" >/run/script
SYSTEMD_LOG_TARGET=console %s >/run/log 2>&1 &
for i in $(seq 300); do
	sleep 0.1
	(ip -o address show dev lo; ip -4 route; ip -6 route) >/run/state
	if grep -q '%s' /run/state && grep -q '%s' /run/state; then break; fi
done
kill $!
grep -E 'Unknown|Failed to parse|Invalid' /run/log || :
cat /run/state`

// What is written for systemd-networkd is what that understands, and makes a real server.
func TestRealServerNetworkd(t *testing.T) {
	t.Parallel()
	if _, err := os.Stat(networkd); err != nil {
		t.Skip(err)
	}
	f := newFarm(t, 0)
	for i, c := range []struct{ args, first, second string }{
		{"dr --vip 192.0.2.10 --vip 2001:db8:1::10", "inet 192.0.2.10/32 ", "inet6 2001:db8:1::10/128 "},
		{"nat --director 10.0.0.2 --director fd00::2", "default via 10.0.0.2 dev eth0 proto static", "default via fd00::2 dev eth0 proto static"},
	} {
		r := f.addBare(i)
		script := filepath.Join(t.TempDir(), "script")
		args := strings.Fields("realserver " + c.args + " --interface eth0 --for systemd-networkd")
		must(t, os.WriteFile(script, []byte(mustRunOn(t, r.Host, args...)), 0o600))
		job := fmt.Sprintf(byNetworkd, r.addr4, r.addr6, networkd, c.first, c.second)
		out := string(get(r.Run(context.Background(), "unshare", "-m", "sh", "-c", job, "sh", script))(t))
		if !strings.Contains(out, c.first) || !strings.Contains(out, c.second) || strings.Contains(out, "/etc/systemd") {
			t.Errorf("%s: systemd-networkd has\n%s", c.args, out)
		}
	}
	f.configureOn("eth0", standard("rr", 1)...) // the one that is prepared for dr is one
	f.reals = f.reals[:1]
	f.start()
	for _, family := range families {
		f.mustSpread(f.fetch, family.vip, webPort, map[string]int{"rs1": 3})
	}
	asker := f.host("asker")
	f.connect(asker, f.sw, "eth0", "10.0.0.200/24")
	if who := f.whoHas(asker, vip4); who != "" {
		t.Errorf("%s answers ARP for %s", who, vip4)
	}
}
