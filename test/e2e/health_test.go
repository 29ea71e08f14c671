// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"xdplvs/director"
)

// checkTimes are those of the tests' checks: a dead server is down in 600 ms + 200 ms at the latest.
const (
	checkInterval = 300 * time.Millisecond
	checkTimeout  = 200 * time.Millisecond
	checkFall     = 2
	checkTimes    = "interval: 300ms, timeout: 200ms, fall: 2, rise: 2, jitter: 0"

	// goneIn is how long after the death of a real server the last connection may be sent to it.
	goneIn = checkInterval*checkFall + checkTimeout + 100*time.Millisecond
)

// death is a way in which a real server dies, and how it comes back.
type death struct {
	name      string
	die, rise func(f *farm, r *realServer)
	evidence  string
}

var deaths = []death{
	{name: "process killed", evidence: "L4CON",
		die: func(f *farm, r *realServer) { must(f.t, r.http.Close()) },
		rise: func(f *farm, r *realServer) {
			r.http = get(r.ServeHTTP(r.Name(), everywhere(webPort, altPort)...))(f.t)
		}},
	{name: "machine silent", evidence: "L4",
		die:  func(f *farm, r *realServer) { must(f.t, r.eth0.SetUp(false)) },
		rise: func(f *farm, r *realServer) { must(f.t, r.eth0.SetUp(true)) }},
	{name: "port firewalled", evidence: "L4TOUT",
		die: func(f *farm, r *realServer) {
			f.nft(r, "add table inet fw; add chain inet fw in { type filter hook input priority 0; }; add rule inet fw in tcp dport 80 drop")
		},
		rise: func(f *farm, r *realServer) { f.nft(r, "delete table inet fw") }},
}

func (f *farm) nft(r *realServer, commands string) {
	f.t.Helper()
	if out, err := r.Run(context.Background(), "nft", commands); err != nil {
		f.t.Fatalf("nft: %v\n%s", err, out)
	}
}

// knocking makes a connection to a service every few milliseconds, each of which waits shorter than
// a client would repeat its SYN.
type knocking struct {
	mu     sync.Mutex
	failed []time.Time // when those began that came to nothing
	stop   context.CancelFunc
	done   sync.WaitGroup
}

func (f *farm) knock(vip netip.Addr, every time.Duration) *knocking {
	ctx, cancel := context.WithCancel(context.Background())
	k := &knocking{stop: cancel}
	ticker := time.NewTicker(every)
	k.done.Go(func() {
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
				k.done.Go(func() { k.once(f, vip) })
			}
		}
	})
	f.t.Cleanup(k.end)
	return k
}

func (k *knocking) once(f *farm, vip netip.Addr) {
	begin := time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), 700*time.Millisecond)
	defer cancel()
	conn, err := f.client.DialContext(ctx, "tcp", netip.AddrPortFrom(vip, webPort).String())
	k.mu.Lock()
	defer k.mu.Unlock()
	if err != nil {
		k.failed = append(k.failed, begin)
		return
	}
	conn.Close()
}

func (k *knocking) end() {
	k.stop()
	k.done.Wait()
}

// lastFailed is when the last connection began that came to nothing; zero: none did.
func (k *knocking) lastFailed() time.Time {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.MaxFunc(append(k.failed, time.Time{}), time.Time.Compare)
}

// condition waits until a real server of a service is as it should be, and gives its health.
func (f *farm) condition(service, name string, want director.Condition) director.Health {
	f.t.Helper()
	var health director.Health
	eventually(f.t, patience, func() error {
		r := f.realState(service, name)
		if r.Health == nil || r.Health.Condition != want {
			return fmt.Errorf("%s is %+v, want %s", name, r.Health, want)
		}
		health = *r.Health
		return nil
	})
	return health
}

func checkedWeb(keys string, weights ...int) []service {
	return with("method: dr, check: {tcp: {}, "+checkTimes+"}"+keys, both("web", "tcp", webPort, "rr", weights...))
}

// A real server dies in each of three ways: new connections stop going there within the time that the
// check's intervals promise, connections of the others notice nothing, and when it is back so are its connections.
func TestDeath(t *testing.T) {
	t.Parallel()
	for _, d := range deaths {
		t.Run(d.name, func(t *testing.T) {
			f := newFarm(t, 3)
			f.configure(checkedWeb("", 1, 1, 1)...)
			daemon := f.start()
			for _, name := range []string{"web4", "web6"} {
				for i := range f.reals {
					f.condition(name, realName(i), director.Up)
				}
			}
			held := []*session{f.session(vip4, webPort, "rs2"), f.session(vip6, webPort, "rs3")}
			for _, family := range families {
				f.dies(d, family.vip, held)
			}
			for _, event := range []string{"event=real_down", "event=real_up"} {
				daemon.waitLog(event, 2)
			}
		})
	}
}

// dies lets rs1 die and come back while clients of one family connect.
func (f *farm) dies(d death, vip netip.Addr, held []*session) {
	f.t.Helper()
	service := map[bool]string{true: "web4", false: "web6"}[vip.Is4()]
	k := f.knock(vip, 10*time.Millisecond)
	defer k.end()
	time.Sleep(200 * time.Millisecond)
	if last := k.lastFailed(); !last.IsZero() {
		f.t.Errorf("a connection failed before anybody died")
	}
	died := time.Now()
	d.die(f, f.reals[0])
	health := f.condition(service, "rs1", director.Down)
	if !strings.Contains(health.Evidence, d.evidence) {
		f.t.Errorf("%s: evidence %q, want %s", d.name, health.Evidence, d.evidence)
	}
	for range 10 {
		for _, s := range held {
			f.mustBe("an established connection", s.server, func() (string, error) { return s.ask(patience) })
		}
		time.Sleep(50 * time.Millisecond)
	}
	k.end()
	last := k.lastFailed()
	if last.IsZero() {
		f.t.Errorf("%s, %s: no connection was sent to the dead real server: nothing is shown", d.name, vip)
	}
	if took := last.Sub(died); took > goneIn {
		f.t.Errorf("%s, %s: the last connection was sent to the dead real server after %v, more than %v", d.name, vip, took, goneIn)
	} else {
		f.t.Logf("%s, %s: the last connection was sent to the dead real server after %v (%v are promised)", d.name, vip, took, goneIn)
	}
	d.rise(f, f.reals[0])
	f.condition(service, "rs1", director.Up)
	f.session(vip, webPort, "rs1")
}

// A director that is killed, and one that is told to read its configuration again, go on with what was
// known of the real servers: nobody is up or down for it.
func TestHealthStays(t *testing.T) {
	t.Parallel()
	f := newFarm(t, 3)
	must(t, f.reals[0].http.Close())
	services := checkedWeb("", 1, 1, 1)
	f.configure(services...)
	daemon := f.start()
	f.condition("web4", "rs1", director.Down)
	f.condition("web4", "rs3", director.Up)
	f.condition("web6", "rs3", director.Up)
	before := f.condition("web4", "rs2", director.Up)
	time.Sleep(200 * time.Millisecond) // until it is in the file

	k := f.knock(vip4, 5*time.Millisecond)
	daemon.kill()
	daemon = f.start()
	if h := f.condition("web4", "rs1", director.Down); !strings.Contains(h.Evidence, "L4CON") {
		t.Errorf("evidence after a restart is %q", h.Evidence)
	}
	if h := f.realState("web4", "rs2").Health; h == nil || h.Condition != director.Up || !h.Since.Equal(before.Since) {
		t.Errorf("rs2 is %+v, was %+v", h, before)
	}
	services[0].keys = strings.Replace(services[0].keys, "fall: 2", "fall: 3", 1)
	f.configure(services...)
	f.reload()
	time.Sleep(500 * time.Millisecond)
	k.end()
	if last := k.lastFailed(); !last.IsZero() {
		t.Error("a connection failed")
	}
	if n := strings.Count(daemon.log.String(), "event=real_"); n != 0 {
		t.Errorf("%d real servers were told to be up or down by the new process:\n%s", n, daemon.log)
	}

	f.output("health", "down", "rs2", "web4")
	f.condition("web4", "rs2", director.Down)
	for range 6 {
		f.session(vip4, webPort, "rs3")
	}
	f.output("health", "auto", "rs2", "web4")
	f.condition("web4", "rs2", director.Up)
	var list director.HealthList
	must(t, json.Unmarshal([]byte(f.output("health", "-o", "json")), &list))
	if len(list.Services) != 2 || len(list.Services[0].Reals) != 3 || list.Services[0].Reals[1].Checks[0].Code != "L4OK" {
		t.Errorf("health is %+v", list)
	}
	history := f.output("health", "history", "rs2", "web4")
	for _, text := range []string{"unknown -> up  L4OK", "up -> down  set by hand", "down -> up  L4OK"} {
		if !strings.Contains(history, text) {
			t.Errorf("history does not have %q:\n%s", text, history)
		}
	}
}

// A real server whose connections come to nothing is checked at once, long before the interval is over,
// by direct routing, where no answer is seen, and by nat; nobody is suspected who serves.
func TestSuspected(t *testing.T) {
	t.Parallel()
	for _, d := range deaths {
		t.Run(d.name, func(t *testing.T) {
			f := newFarm(t, 2)
			f.configure(with("method: dr, check: {tcp: {}, interval: 60s, timeout: 200ms, fall: 1, jitter: 0}", both("web", "tcp", webPort, "rr", 1, 1))...)
			daemon := f.start()
			f.condition("web4", "rs1", director.Up)
			f.condition("web4", "rs2", director.Up)
			k := f.knock(vip4, 10*time.Millisecond)
			time.Sleep(2 * time.Second)
			if strings.Contains(daemon.log.String(), "event=real_suspect") {
				t.Error("somebody is suspected while all serve")
			}
			died := time.Now()
			d.die(f, f.reals[0])
			daemon.waitLog("event=real_suspect", 1)
			took := time.Since(died)
			if t.Logf("%s: suspected after %v", d.name, took); took > 500*time.Millisecond {
				t.Errorf("%s: suspected after %v", d.name, took)
			}
			f.condition("web4", "rs1", director.Down)
			k.end()
			if last := k.lastFailed().Sub(died); last > time.Second {
				t.Errorf("%s: the last connection was sent to the dead real server after %v", d.name, last)
			}
		})
	}
}

// Connections of a real server that is down get what on_down says; inhibited, they go on.
func TestOnDownChecked(t *testing.T) {
	t.Parallel()
	f := newFarm(t, 2)
	flag := f.dir + "/{address}"
	check := ", check: {file: {path: '" + flag + "', down: true}, interval: 50ms, fall: 1, rise: 1, jitter: 0}"
	services := []service{
		{name: "kept", protocol: "tcp", vip: vip4, port: webPort, scheduler: "rr", weights: []int{1, 1}, keys: "on_down: keep" + check},
		{name: "reset", protocol: "tcp", vip: vip4, port: altPort, scheduler: "rr", weights: []int{1, 1}, keys: "on_down: reset" + check},
		{name: "inhibited", protocol: "tcp", vip: vip6, port: altPort, scheduler: "rr", weights: []int{1, 1}, keys: "on_down: reset, inhibit_on_failure: true" + check},
		{name: "moved", protocol: "udp", vip: vip4, port: dnsPort, scheduler: "rr", weights: []int{1, 1}, keys: "on_down: reschedule" + check},
	}
	f.configure(services...)
	f.start()
	for _, s := range services {
		f.condition(s.name, "rs1", director.Up)
		f.condition(s.name, "rs2", director.Up)
	}
	kept, reset, inhibited := f.session(vip4, webPort, "rs1"), f.session(vip4, altPort, "rs1"), f.session(vip6, altPort, "rs1")
	moved := f.socketTo(vip4, dnsPort, "rs1")
	for _, addr := range []netip.Addr{f.reals[0].addr4, f.reals[0].addr6} {
		must(t, os.WriteFile(filepath.Join(f.dir, addr.String()), nil, 0o600))
	}
	for _, s := range services {
		f.condition(s.name, "rs1", director.Down)
	}
	f.mustBe("a connection that is kept", "rs1", func() (string, error) { return kept.ask(patience) })
	f.mustBe("one whose real server is inhibited", "rs1", func() (string, error) { return inhibited.ask(patience) })
	f.mustReset("one that is reset", reset)
	f.mustBe("a flow that moves", "rs2", moved.ask)
	for range 4 {
		f.session(vip6, altPort, "rs2")
	}
}

// Probes to real servers by nat and fullnat go past the services: their answers are the director's own.
func TestCheckedByNAT(t *testing.T) {
	t.Parallel()
	f := newFarm(t, 2)
	var services []service
	for i, method := range []string{"nat", "fullnat"} {
		for _, s := range both(method, "tcp", uint16(7000+i), "rr", 1, 1) {
			s.keys = "method: " + method + ", check: {http: /, port: 8080, " + checkTimes + "}"
			services = append(services, s)
		}
	}
	f.configure(services...)
	f.start()
	for _, s := range services {
		h := f.condition(s.name, "rs1", director.Up)
		if !strings.Contains(h.Evidence, "L7OK/200") {
			t.Errorf("%s: %+v", s.name, h)
		}
	}
	must(t, f.reals[0].http.Close())
	for _, s := range services {
		f.condition(s.name, "rs1", director.Down)
		f.condition(s.name, "rs2", director.Up)
	}
}

// A service loses its quorum and regains it; meanwhile it serves with what it has.
func TestQuorumOfService(t *testing.T) {
	t.Parallel()
	f := newFarm(t, 3)
	f.configure(checkedWeb(", quorum: 2, hysteresis: 1", 1, 1, 1)...)
	daemon := f.start()
	f.condition("web4", "rs3", director.Up)
	must(t, f.reals[0].http.Close())
	must(t, f.reals[1].http.Close())
	f.condition("web4", "rs1", director.Down)
	f.condition("web4", "rs2", director.Down)
	f.session(vip4, webPort, "rs3")
	if strings.Contains(daemon.log.String(), "event=quorum_lost") {
		t.Error("1 of 2 - 1 is no quorum")
	}
	must(t, f.reals[2].http.Close())
	daemon.waitLog("event=quorum_lost", 2)
	if out := f.output("health", "web4"); !strings.Contains(out, "QUORUM LOST 0/2") {
		t.Errorf("health shows\n%s", out)
	}
	for _, r := range f.reals {
		r.http = get(r.ServeHTTP(r.Name(), everywhere(webPort, altPort)...))(t)
	}
	daemon.waitLog("event=quorum_gained", 2)
}
