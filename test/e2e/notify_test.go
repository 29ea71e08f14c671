// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// What the director tells the service manager (sd_notify(3)). TestReady is about whether it is true.
func TestServiceManager(t *testing.T) {
	t.Parallel()
	f := newFarm(t, 2)
	f.configure(standard("rr", 1, 1)...)
	path := filepath.Join(t.TempDir(), "notify")
	manager := get(net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"}))(t)
	defer manager.Close()
	d := f.launchWith("NOTIFY_SOCKET=" + path)

	mustTell(t, manager, "READY=1")

	f.reload()
	mustTell(t, manager, "RELOADING=1\nMONOTONIC_USEC=")
	mustTell(t, manager, "READY=1\nSTATUS=reloaded")

	f.writeConfig(badConfig)
	d.hangup("event=reload_refused")
	mustTell(t, manager, "RELOADING=1\nMONOTONIC_USEC=")
	mustTell(t, manager, fmt.Sprintf("READY=1\nSTATUS=reload refused: %s:2:1: servces: unknown key", f.configFile()))

	if code := d.stop(); code != 0 {
		t.Errorf("exit %d after SIGTERM, want 0", code)
	}
	mustTell(t, manager, "STOPPING=1")
}

// Ready means that the first packet is served, also when no former run left anything.
func TestReady(t *testing.T) {
	t.Parallel()
	f := newFarm(t, 2)
	f.configure(standard("rr", 1, 1)...)
	for range 10 {
		d := f.launch()
		d.waitLog("event=ready", 1)
		before, _, _ := strings.Cut(d.log.String(), "event=ready")
		if n := strings.Count(before, "event=real_reachable"); n != 2*len(families) {
			t.Errorf("ready, but %d real servers were reachable before, want two of each family:\n%s", n, d.log.tail())
		}
		for _, family := range families {
			if name, err := f.queryFor(family.vip, onePort, time.Second); err != nil {
				t.Errorf("%s: ready, but a datagram is not answered: %q, %v", family.name, name, err)
			}
		}
		d.kill()
		must(t, os.RemoveAll(f.stateDir()))
	}
}

// mustTell fails unless the next message begins with the text.
func mustTell(t *testing.T, manager *net.UnixConn, want string) {
	t.Helper()
	must(t, manager.SetReadDeadline(time.Now().Add(20*time.Second)))
	buf := make([]byte, 4096)
	n, err := manager.Read(buf)
	must(t, err)
	if got := string(buf[:n]); !strings.HasPrefix(got, want) {
		t.Errorf("service manager was told %q, want %q", got, want)
	}
}
