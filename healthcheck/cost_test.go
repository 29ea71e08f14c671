// SPDX-License-Identifier: Apache-2.0

package healthcheck

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// farmVariable makes this test binary a farm of web servers instead of running tests.
const farmVariable = "HEALTHCHECK_FARM"

func TestMain(m *testing.M) {
	if os.Getenv(farmVariable) != "" {
		runFarm()
	}
	os.Exit(m.Run())
}

// runFarm answers on all of loopback, until its input ends.
func runFarm() {
	listener, err := net.Listen("tcp4", "0.0.0.0:0")
	if err != nil {
		panic(err)
	}
	fmt.Println(listener.Addr().(*net.TCPAddr).Port)
	go http.Serve(listener, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "all is well") }))
	bufio.NewReader(os.Stdin).ReadString('\n')
	os.Exit(0)
}

// farm starts one in another process, so that its work is not ours, and gives its port.
func farm(t testing.TB) uint16 {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), farmVariable+"=1")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		cmd.Wait()
	})
	var port uint16
	if _, err := fmt.Fscan(out, &port); err != nil {
		t.Fatal(err)
	}
	return port
}

// spent is the processor time of this process.
func spent() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// TestCost: 5,000 checks per minute cost less than 5 % of one core. Others may use the machine, which makes
// everything dearer: the best of some rounds counts.
func TestCost(t *testing.T) {
	if raceDetector {
		t.Skip("the race detector costs more than the checks")
	}
	const targets, interval, attempts = 250, 3 * time.Second, 5 // 83 checks per second are 5,000 per minute
	m := NewManager(Options{})
	if err := m.Set(farmChecks(farm(t), targets, interval)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- m.Run(ctx) }()
	defer func() { cancel(); <-ended }()
	time.Sleep(interval) // the first probes are spread over it
	best, before := 1.0, made(t, m)
	for range attempts {
		begin, used := time.Now(), spent()
		time.Sleep(interval)
		best = min(best, float64(spent()-used)/float64(time.Since(begin)))
		count := made(t, m)
		perMinute := float64(count-before) / interval.Minutes()
		before = count
		t.Logf("%.0f checks per minute, at best %.1f %% of a core", perMinute, 100*best)
		if perMinute < 4500 || perMinute > 5500 {
			t.Errorf("%.0f checks per minute, want 5,000", perMinute)
		}
		if best <= 0.05 {
			return
		}
	}
	t.Errorf("%.1f %% of a core, more than 5 %%", 100*best)
}

// farmChecks are checks by HTTP and TCP of as many servers.
func farmChecks(port uint16, targets int, interval time.Duration) map[string]Check {
	checkers := []Checker{
		must(NewHTTP(HTTPOptions{Host: "www.example.org", URLs: []HTTPURL{{Path: "/alive", Body: Pattern{Regex: "all is (well|fine)"}}}})),
		must(NewTCP(TCPOptions{})),
	}
	checks := make(map[string]Check)
	for i := range targets {
		at := Target{Address: netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 1, byte(i)}), port)}
		checks[fmt.Sprint(i)] = Check{Target: at, Checker: checkers[i%2], Timing: Timing{Interval: interval, Spread: interval}}
	}
	return checks
}

// made is how many checks were made, all of which must say up.
func made(t *testing.T, m *Manager) (total uint64) {
	t.Helper()
	for name, s := range m.States() {
		if s.Verdict != Up || s.Failures > 0 {
			t.Errorf("%s: %s", name, s.Last)
		}
		total += s.Checks
	}
	return total
}

// BenchmarkCheck is what a check costs, with the server's part.
func BenchmarkCheck(b *testing.B) {
	ca := newAuthority(b)
	config := &tls.Config{Certificates: []tls.Certificate{ca.valid()}}
	respond := func(c net.Conn) {
		if r, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
			fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Path: %s\r\n\r\nok", r.URL.Path)
		}
	}
	mail := func(c net.Conn) {
		r := bufio.NewReader(c)
		fmt.Fprint(c, "220 ready\r\n")
		for {
			line, err := r.ReadString('\n')
			if err != nil {
				return
			}
			fmt.Fprint(c, map[bool]string{true: "250 hello\r\n", false: "221 bye\r\n"}[strings.HasPrefix(line, "EHLO")])
		}
	}
	for _, c := range []struct {
		name    string
		checker Checker
		target  Target
	}{
		{"tcp", must(NewTCP(TCPOptions{})), serve(b, func(net.Conn) {})},
		{"http", must(NewHTTP(HTTPOptions{})), serve(b, respond)},
		{"https", must(NewHTTP(HTTPOptions{TLS: &TLSClient{Verify: "full", ServerName: "www.example.org", CAFile: ca.file}})),
			serve(b, func(c net.Conn) { respond(tls.Server(c, config)) })},
		{"smtp", must(NewSMTP(SMTPOptions{})), serve(b, mail)},
		{"udp", must(NewUDP(UDPOptions{Reply: true})), serveUDP(b, func(r []byte) [][]byte { return [][]byte{r} })},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if r := c.checker.Check(b.Context(), c.target); r.Verdict != Up {
					b.Fatal(r)
				}
			}
		})
	}
}

// BenchmarkManager is what a result costs beside the check itself, with 10,000 checks.
func BenchmarkManager(b *testing.B) {
	m := NewManager(Options{})
	r := newRunner(b.Context(), m)
	checks := make(map[string]Check)
	for i := range 10_000 {
		checks[fmt.Sprint(i)] = Check{Target: target(i), Checker: fixed{name: "up"}}
	}
	r.replace(checks)
	var all []*shared
	for _, s := range r.probes {
		s.cancel = func() {}
		all = append(all, s)
	}
	up := good(L7OK, "fine")
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		s := all[i%len(all)]
		r.agenda.Drop(s)
		s.running, s.begun = true, time.Now()
		r.watch.Set(s, s.begun)
		r.running++
		r.finish(outcome{s, up})
	}
}
