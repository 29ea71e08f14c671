// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

// session is a TCP connection on which a client asks who is there, again and again.
type session struct {
	conn   net.Conn
	r      *bufio.Reader
	server string // who answered first
}

// session opens one that the server answers.
func (f *farm) session(vip netip.Addr, port uint16, server string) *session {
	f.t.Helper()
	for range 10 {
		s := f.anySession(vip, port)
		if s.server == server {
			return s
		}
	}
	f.t.Fatalf("no connection to port %d of %s that %s answers", port, vip, server)
	return nil
}

func (f *farm) anySession(vip netip.Addr, port uint16) *session {
	f.t.Helper()
	conn := get(f.client.DialContext(context.Background(), "tcp", netip.AddrPortFrom(vip, port).String()))(f.t)
	f.t.Cleanup(func() { conn.Close() })
	s := &session{conn: conn, r: bufio.NewReader(conn)}
	s.server = get(s.ask(patience))(f.t)
	return s
}

func (s *session) ask(wait time.Duration) (server string, err error) {
	if _, err := io.WriteString(s.conn, "GET / HTTP/1.1\r\nHost: web\r\n\r\n"); err != nil {
		return "", err
	}
	return s.answer(wait)
}

// answer waits for the answer to an earlier question.
func (s *session) answer(wait time.Duration) (server string, err error) {
	if err := s.conn.SetReadDeadline(time.Now().Add(wait)); err != nil {
		return "", err
	}
	resp, err := http.ReadResponse(s.r, nil)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return strings.TrimSpace(string(body)), err
}

// socketTo opens a UDP socket that the server answers.
func (f *farm) socketTo(vip netip.Addr, port uint16, server string) heldSocket {
	f.t.Helper()
	for range 10 {
		conn := get(f.dialUDP(vip, port))(f.t)
		f.t.Cleanup(func() { conn.Close() })
		again := func() (string, error) { return ask(conn, "still there?", patience) }
		if name := get(again())(f.t); name == server {
			return heldSocket{server, again}
		}
	}
	f.t.Fatalf("no socket to port %d of %s that %s answers", port, vip, server)
	return heldSocket{}
}

// mustBe fails unless the answer is the server's.
func (f *farm) mustBe(what, server string, answer func() (string, error)) {
	f.t.Helper()
	if name, err := answer(); err != nil || name != server {
		f.t.Errorf("%s is answered by %q (%v), want %s", what, name, err, server)
	}
}

// mustReset fails unless the client sees at once that the connection is reset.
func (f *farm) mustReset(what string, s *session) {
	f.t.Helper()
	start := time.Now()
	name, err := s.ask(patience)
	if !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
		f.t.Errorf("%s is answered by %q (%v), want a reset", what, name, err)
	}
	if took := time.Since(start); took > time.Second {
		f.t.Errorf("%s is reset after %v", what, took)
	}
}

// mustBeSilent fails unless there is no answer for a while.
func (f *farm) mustBeSilent(what string, s *session) {
	f.t.Helper()
	if name, err := s.ask(time.Second); !errors.Is(err, os.ErrDeadlineExceeded) {
		f.t.Errorf("%s is answered by %q (%v), want silence", what, name, err)
	}
}

// with gives services further keys.
func with(keys string, services []service) []service {
	for i := range services {
		services[i].keys = keys
	}
	return services
}

// A real server is removed, and added again: what becomes of its connections is the service's choice.
func TestOnRemove(t *testing.T) {
	t.Parallel()
	f := newFarm(t, 2)
	services := func(weights ...int) []service {
		return join(both("kept", "tcp", webPort, "rr", weights...),
			with("on_remove: reset", both("reset", "tcp", altPort, "rr", weights...)),
			both("moved", "udp", dnsPort, "rr", weights...),
			with("on_remove: keep", both("stays", "udp", onePort, "rr", weights...)))
	}
	f.configure(services(1, 1)...)
	f.start()
	held := f.holdDownloads("rs2")
	var kept, reset, paused []*session
	var moved, stays []heldSocket
	for _, family := range families {
		kept = append(kept, f.session(family.vip, webPort, "rs2"))
		reset = append(reset, f.session(family.vip, altPort, "rs2"))
		paused = append(paused, f.session(family.vip, altPort, "rs2"))
		moved = append(moved, f.socketTo(family.vip, dnsPort, "rs2"))
		stays = append(stays, f.socketTo(family.vip, onePort, "rs2"))
	}
	f.configure(services(1, absent)...)
	f.reload()
	held.goOn()
	for i, family := range families {
		f.mustBe(family.name+": what is kept", "rs2", func() (string, error) { return kept[i].ask(patience) })
		f.mustReset(family.name+": what is to be reset", reset[i])
		f.mustBe(family.name+": a flow that is scheduled anew", "rs1", moved[i].ask)
		f.mustBe(family.name+": a flow that is kept", "rs2", stays[i].ask)
	}
	pass(5 * time.Second) // sweeps come by
	for i, family := range families {
		f.mustReset(family.name+": what paused", paused[i])
	}
	f.configure(services(1, 1)...)
	f.reload()
	for i, family := range families {
		f.mustBe(family.name+": what was kept", "rs2", func() (string, error) { return kept[i].ask(patience) })
		f.mustBe(family.name+": the flow that was kept", "rs2", stays[i].ask)
		f.mustBe(family.name+": the flow that was moved", "rs1", moved[i].ask)
	}
	held.finish()
}

// Connections that can never go on do not hold the row of a removed real server.
func TestRemovedForGood(t *testing.T) {
	t.Parallel()
	f := newFarm(t, 3)
	configure := func(weights ...int) {
		text := f.config("eth0", join(with("on_remove: reschedule", both("web", "tcp", webPort, "rr", weights...)), both("dns", "udp", dnsPort, "rr", weights...))...)
		f.writeConfig(strings.Replace(text, "real_servers: 256", "real_servers: 8", 1))
	}
	configure(1, 1)
	f.start()
	for _, family := range families {
		f.session(family.vip, webPort, "rs2")
		f.socketTo(family.vip, dnsPort, "rs2")
	}
	configure(1)
	f.reload()
	configure(1, absent, 1) // there is room for rs3 when rs2 has left
	if r := f.run("reload"); r.code != 1 || !strings.Contains(r.stderr, "4 new real servers, room for 0") {
		t.Errorf("reload: %+v, want it refused", r)
	}
	took := eventually(t, 4*patience, func() error {
		if r := f.run("reload"); r.code != 0 {
			return errors.New(r.stderr)
		}
		return nil
	})
	t.Logf("the rows were free after %v", took)
	f.awaitReachable("rs3")
	f.mustRecount(f.snapshot())
}

// IPVS's semantics: packets of a removed real server's connections are dropped, and go on when it is
// back; with expire_nodest_conn they are scheduled anew.
func TestIPVSSemantics(t *testing.T) {
	t.Parallel()
	f := newFarm(t, 2)
	services := func(weights ...int) []service {
		return join(with("semantics: ipvs", both("web", "tcp", webPort, "rr", weights...)),
			with("semantics: ipvs, expire_nodest_conn: true", both("dns", "udp", dnsPort, "rr", weights...)))
	}
	f.configure(services(1, 1)...)
	d := f.start()
	var waiting []*session
	var moved []heldSocket
	for _, family := range families {
		waiting = append(waiting, f.session(family.vip, webPort, "rs2"))
		moved = append(moved, f.socketTo(family.vip, dnsPort, "rs2"))
	}
	f.configure(services(1, absent)...)
	f.reload()
	for i, family := range families {
		f.mustBeSilent(family.name+": a removed real server's connection", waiting[i])
		f.mustBe(family.name+": its flow", "rs1", moved[i].ask)
	}
	d.kill() // whoever adds it again
	f.configure(services(1, 1)...)
	f.start()
	for i, family := range families {
		f.mustBe(family.name+": the connection", "rs2", func() (string, error) { return waiting[i].answer(2 * patience) })
	}
}

// A real server vanishes, and comes back.
func TestOnDown(t *testing.T) {
	t.Parallel()
	f := newFarm(t, 2)
	f.configure(join(both("kept", "tcp", webPort, "rr", 1, 1),
		with("on_down: reset", both("reset", "tcp", altPort, "rr", 1, 1)),
		both("moved", "udp", dnsPort, "rr", 1, 1))...)
	f.start()
	var kept, reset, other []*session
	var moved []heldSocket
	for _, family := range families {
		kept = append(kept, f.session(family.vip, webPort, "rs2"))
		reset = append(reset, f.session(family.vip, altPort, "rs2"))
		other = append(other, f.session(family.vip, altPort, "rs1"))
		moved = append(moved, f.socketTo(family.vip, dnsPort, "rs2"))
	}
	must(t, f.reals[1].eth0.SetUp(false))
	eventually(t, noticed, func() error { return f.reach("rs2", false, "no answer to") })
	for i, family := range families {
		f.mustReset(family.name+": a vanished real server's connection", reset[i])
		f.mustBe(family.name+": another's", "rs1", func() (string, error) { return other[i].ask(patience) })
		f.mustBe(family.name+": its flow", "rs1", moved[i].ask)
		f.mustBeSilent(family.name+": what is kept", kept[i])
	}
	must(t, f.reals[1].eth0.SetUp(true))
	eventually(t, 2*patience, func() error { return f.reachable("rs2") })
	for i, family := range families {
		f.mustBe(family.name+": what was kept", "rs2", func() (string, error) { return kept[i].answer(4 * patience) })
		f.session(family.vip, altPort, "rs2")
	}
}

// Timeouts that are set at run time are in force at once, until the configuration is read again.
func TestTimeoutsAtRunTime(t *testing.T) {
	t.Parallel()
	f := newFarm(t, 1)
	f.writeConfig(f.config("eth0", standard("rr", 1)...) + "timeouts: {tcp: 10m, tcp_close: 20}\n")
	d := f.start()
	f.mustSet("Timeout (tcp tcpfin udp): 600 120 300\n", "tcp_close              20s\n", "sctp_init              1m1s\n")
	for _, family := range families {
		f.session(family.vip, webPort, "rs1")
		f.socketTo(family.vip, dnsPort, "rs1")
	}
	if got := f.output("connections", "count"); got != "4\n" {
		t.Errorf("connections count printed %q, want 4", got)
	}
	want := "Timeout (tcp tcpfin udp): 1 120 1\nin force until the next reload or restart, which make the configuration's valid again\n"
	if got := f.output("timeouts", "set", "tcp=1", "udp=1s"); got != want {
		t.Errorf("timeouts set printed %q, want %q", got, want)
	}
	eventually(t, patience, func() error {
		if got := f.output("connections", "count"); got != "0\n" {
			return fmt.Errorf("connections count printed %q, want 0", got)
		}
		return nil
	})
	f.output("timeouts", "set", "0", "30", "0")
	var all map[string]string
	f.decode(&all, "timeouts")
	if all["tcp"] != "1s" || all["tcpfin"] != "30s" || all["tcp_close"] != "20s" || len(all) != 26 {
		t.Errorf("timeouts -o json are %v", all)
	}
	f.reload()
	f.mustSet("Timeout (tcp tcpfin udp): 600 120 300\n")
	f.output("timeouts", "set", "tcp_none=3s")
	f.mustSet("tcp_none               3s\n")
	d.kill()
	f.start()
	f.mustSet("Timeout (tcp tcpfin udp): 600 120 300\n", "tcp_none               2s\n")
}

// mustSet fails unless director timeouts prints the lines.
func (f *farm) mustSet(lines ...string) {
	f.t.Helper()
	out := f.output("timeouts")
	for _, line := range lines {
		if !strings.Contains(out, line) {
			f.t.Errorf("timeouts has no line %q:\n%s", line, out)
		}
	}
}

// A real server with an upper threshold of 2: the third connection goes elsewhere, until one of the
// two has ended.
func TestThresholds(t *testing.T) {
	t.Parallel()
	f := newFarm(t, 2)
	limit := strings.NewReplacer(`"10.0.0.11", weight: 1`, `"10.0.0.11", weight: 1, upper: 2`, `"fd00::11", weight: 1`, `"fd00::11", weight: 1, upper: 2`)
	f.writeConfig(limit.Replace(f.config("eth0", both("web", "tcp", webPort, "rr", 1, 1)...)) + "timeouts: {tcpfin: 1}\n")
	f.start()
	for _, family := range families {
		served := map[string][]*session{}
		for range 6 {
			s := f.anySession(family.vip, webPort)
			served[s.server] = append(served[s.server], s)
		}
		if len(served["rs1"]) != 2 || len(served["rs2"]) != 4 {
			t.Fatalf("%s: rs1 serves %d connections, rs2 %d; want 2 and 4", family.name, len(served["rs1"]), len(served["rs2"]))
		}
		name := ofFamily("web", family.vip)
		if r := f.realState(name, "rs1"); !r.Overloaded || r.Upper != 2 || r.Lower != 0 {
			t.Errorf("%s: rs1 is %+v", family.name, r)
		}
		line := fmt.Sprintf("  -> %-28s 2          0          2          0           overloaded\n", netip.AddrPortFrom(f.addrOf(0, family.vip), webPort))
		if out := f.output("list", "--thresholds", name); !strings.Contains(out, line) {
			t.Errorf("list --thresholds has no line %q:\n%s", line, out)
		}
		must(t, served["rs1"][0].conn.Close())
		took := eventually(t, 2*patience, func() error {
			if s := f.anySession(family.vip, webPort); s.server != "rs1" {
				return errors.New("rs1 gets no connection")
			}
			return nil
		})
		t.Logf("%s: rs1 served again after %v", family.name, took)
	}
	f.mustRecount(f.snapshot())
}

// What is deleted is gone from the table at once, and nothing else is.
func TestDeleteConnections(t *testing.T) {
	t.Parallel()
	f := newFarm(t, 2)
	f.configure(standard("rr", 1, 1)...)
	f.start()
	held := f.holdDownloads("rs1")
	for _, family := range families {
		for _, server := range []string{"rs1", "rs2"} {
			f.session(family.vip, webPort, server)
			f.socketTo(family.vip, dnsPort, server)
		}
	}
	count := func(want string, filter ...string) {
		t.Helper()
		if got := f.output(append([]string{"connections", "count"}, filter...)...); got != want+"\n" {
			t.Errorf("connections count %v printed %q, want %s", filter, got, want)
		}
	}
	for _, family := range families {
		rs2, dns := f.addrOf(1, family.vip).String(), ofFamily("dns", family.vip)
		before := f.output("connections", "count", "real", rs2)
		if got := f.output("connections", "delete", "real", rs2); got != before || before == "0\n" {
			t.Errorf("connections delete real %s printed %q, it counted %q before", rs2, got, before)
		}
		count("0", "real", rs2)
		var deleted struct{ Deleted int }
		f.decode(&deleted, "connections", "delete", "service", dns, "protocol", "udp")
		if deleted.Deleted == 0 {
			t.Errorf("no connection of %s was deleted", dns)
		}
		count("0", "service", dns)
		f.mustSpread(f.query, family.vip, dnsPort, map[string]int{"rs1": 1, "rs2": 1})
	}
	if r := f.run("connections", "delete"); r.code != 2 || !strings.Contains(r.stderr, "want a FILTER that says which connections to delete, or --all") {
		t.Errorf("connections delete: %+v", r)
	}
	held.goOn()
	held.finish()
	f.output("connections", "delete", "--all")
	count("0")
	f.mustRecount(f.snapshot())
}
