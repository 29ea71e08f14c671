// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// say sends a message of a call from a new socket, and returns who got it.
func (f *farm) say(vip netip.Addr, method, call string) (string, error) {
	conn, err := f.dialUDP(vip, onePort)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	return ask(conn, fmt.Sprintf("%s sip:bob@example.com SIP/2.0\r\nVia: SIP/2.0/UDP pc33\r\n%s\r\nContent-Length: 0\r\n\r\n", method, call), patience)
}

// mustSay fails unless the server gets the message.
func (f *farm) mustSay(what, server string, vip netip.Addr, method, call string) {
	f.t.Helper()
	if got, err := f.say(vip, method, call); err != nil || got != server {
		f.t.Errorf("%s: %s of %q reached %q (%v), want %s", what, method, call, got, err, server)
	}
}

// Each SIP call has a real server of its own, while the daemon is dead, too; what has no Call-ID is dropped.
func TestSIPCalls(t *testing.T) {
	t.Parallel()
	f := newFarm(t, 2)
	f.configure(with("one_packet: true, persistence: {engine: sip, timeout: 5m, netmask: 0}", both("sip", "udp", onePort, "rr", 1, 1))...)
	d := f.start()
	servers := map[string]string{}
	for _, family := range families {
		for i := range 8 {
			call := fmt.Sprintf("Call-ID: %s-%d@pc33.example.com", family.name, i)
			servers[call] = get(f.say(family.vip, "INVITE", call))(t)
			f.mustSay("at once", servers[call], family.vip, "ACK", strings.Replace(call, "Call-ID", "i", 1))
		}
	}
	d.kill()
	f.mustGoOn("without daemon", servers)
	f.start()
	f.mustGoOn("after a restart", servers)
	f.mustListCalls(servers)
	for _, family := range families {
		if name, err := f.queryFor(family.vip, onePort, time.Second); err == nil {
			t.Errorf("%s answered what has no Call-ID", name)
		}
		n := strings.TrimSpace(f.output("persistence", "delete", "service "+ofFamily("sip", family.vip)))
		if n != "8" {
			t.Errorf("%s calls of %s were forgotten, want 8", n, family.name)
		}
	}
}

// mustGoOn fails unless every call reaches its server still; it returns how many each has.
func (f *farm) mustGoOn(what string, servers map[string]string) {
	f.t.Helper()
	calls := map[string]int{}
	for call, server := range servers {
		vip := vip4
		if strings.Contains(call, families[1].name) {
			vip = vip6
		}
		f.mustSay(what, server, vip, "BYE", call)
		calls[server]++
	}
	if calls["rs1"] != calls["rs2"] {
		f.t.Errorf("%s: the calls are spread %v", what, calls)
	}
}

// mustListCalls fails unless the calls are shown with their real servers.
func (f *farm) mustListCalls(servers map[string]string) {
	f.t.Helper()
	listed := map[string]string{}
	for _, c := range f.templates() {
		for i := range f.reals {
			if f.addrOf(i, c.Virtual.Addr()) == c.Real.Addr() {
				listed["Call-ID: "+c.CallID] = realName(i)
			}
		}
		if !c.Client.Addr().IsUnspecified() || c.Client.Addr().Is4() != c.Virtual.Addr().Is4() {
			f.t.Errorf("the call %s is shown of client %s", c.CallID, c.Client)
		}
	}
	if fmt.Sprint(listed) != fmt.Sprint(servers) {
		f.t.Errorf("listed are the calls\n%v, want\n%v", listed, servers)
	}
}
