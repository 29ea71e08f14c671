// SPDX-License-Identifier: Apache-2.0

package ipvsadm

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"xdplvs/director"
)

func (d *table) want(t *testing.T, want, stdin string, args ...string) {
	t.Helper()
	if got := d.ipvsadm(stdin, args...); got != want {
		t.Errorf("ipvsadm %s\n got %s\nwant %s", strings.Join(args, " "), got, want)
	}
}

// TestRoundTrip: what -S prints, -R makes of nothing, in one step.
func TestRoundTrip(t *testing.T) {
	for _, name := range []string{"reals", "services", "proc"} {
		d := newTable()
		for _, s := range recording(t, name) {
			if strings.HasPrefix(s.line, "ipvsadm -A") || strings.HasPrefix(s.line, "ipvsadm -a") {
				d.shell(s.line)
			}
		}
		rules := strings.TrimSuffix(d.ipvsadm("", "-Sn"), "= 0\n")
		rules = strings.ReplaceAll(rules, "-A -f -1 -s wlc\n", "") // ipvsadm cannot read that either
		again := newTable()
		again.want(t, "= 0\n", rules, "-R")
		again.want(t, rules+"= 0\n", "", "-Sn")
		if again.requests != 1 || len(again.services) < 4 {
			t.Errorf("%s: %d services in %d requests", name, len(again.services), again.requests)
		}
	}
}

// TestRestoreFails: where one line cannot be, the others are made, as ipvsadm does.
func TestRestoreFails(t *testing.T) {
	d := newTable()
	d.want(t, "--stderr\nService already exists\n= 0\n", "-A -f 1\n-A -f 1\n-A -f 2\n", "-R")
	d.want(t, "-A -f 1 -s wlc\n-A -f 2 -s wlc\n= 0\n", "", "-S", "-n")
}

// TestEditKeeps: -E and -e set what ipvsadm knows, and leave alone what it does not.
func TestEditKeeps(t *testing.T) {
	d := newTable()
	d.want(t, "= 0\n", "", "-A", "-t", "192.0.2.1:80")
	d.want(t, "= 0\n", "", "-a", "-t", "192.0.2.1:80", "-r", "10.0.0.1", "-w", "7", "-x", "9")
	s := &d.services[0]
	if s.Conns != director.IPVSConnPolicy(false) {
		t.Errorf("semantics are not IPVS's: %+v", s.Conns)
	}
	s.Name, s.Answer, s.Reals[0].Name = "web", director.AnswerDrop, "rs1"
	d.want(t, "= 0\n", "", "-E", "-t", "192.0.2.1:80", "-s", "rr")
	d.want(t, "= 0\n", "", "-e", "-t", "192.0.2.1:80", "-r", "10.0.0.1", "-m")
	s = &d.services[0]
	r := s.Reals[0]
	if s.Name != "web" || s.Answer != director.AnswerDrop || s.Scheduler != "rr" {
		t.Errorf("service %+v", s)
	}
	if r.Name != "rs1" || r.Method != director.NAT || r.Weight != 1 || r.Upper != 0 {
		t.Errorf("real server %+v", r)
	}
}

// TestConnections: clients by persistence are shown as IPVS shows templates.
func TestConnections(t *testing.T) {
	at := netip.MustParseAddrPort
	d := newTable()
	d.conns = []director.Conn{
		{Protocol: director.TCP, Client: at("198.51.100.7:40000"), Virtual: at("192.0.2.1:80"), Real: at("10.0.0.1:8080"), State: "ESTABLISHED", Expires: 899 * time.Second},
		{Protocol: director.UDP, Client: at("[2001:db8::7]:53"), Virtual: at("[2001:db8::1]:53"), Real: at("[fd00::1]:53"), State: "UDP", Expires: -time.Second},
		{Client: at("198.51.100.0:0"), Virtual: at("0.0.0.0:0"), Real: at("10.0.0.1:0"), State: "ASSURED", Mark: 258, Expires: 6000 * time.Second},
	}
	d.want(t, `IPVS connection entries
pro expire state       source             virtual            destination
TCP 14:59  ESTABLISHED 198.51.100.7:40000 192.0.2.1:80       10.0.0.1:8080
UDP 00:00  UDP         [2001:db8::7]:53   [2001:db8::1]:53   [fd00::1]:53
IP  100:00  ASSURED     198.51.100.0:0     0.0.1.2:0          10.0.0.1:0
= 0
`, "", "-Lnc")
}

// TestNoDirector: the error is the one that scripts know, and tells what is meant here.
func TestNoDirector(t *testing.T) {
	d := newTable()
	d.gone = errors.New("connect to /run/director/director.sock: connection refused")
	const want = "--stderr\nCan't initialize ipvs: connect to /run/director/director.sock: connection refused\n" +
		"Are you sure that IP Virtual Server is built in the kernel or as module?\n= 2\n"
	for _, args := range [][]string{{"-Ln"}, {"-S"}, {"-A", "-f", "1"}, {"-Z"}, {"--set", "1", "2", "3"}, {"-L", "--timeout"}} {
		d.want(t, want, "", args...)
	}
}

// named knows some names.
type named struct{}

func (named) Host(name string) (netip.Addr, bool) {
	return netip.MustParseAddr("192.0.2.1"), name == "web.example"
}

func (named) HostName(a netip.Addr) string {
	return map[string]string{"192.0.2.1": "web.example", "fd00::1": "rs1.example"}[a.String()]
}

func (named) Port(name string, p director.Protocol) (uint16, bool) {
	return 80, name == "http" && p == director.TCP
}

func (named) PortName(port uint16, _ director.Protocol) string {
	return map[uint16]string{80: "http"}[port]
}

// TestNames: names are read, and shown unless -n is there.
func TestNames(t *testing.T) {
	d := newTable()
	run := func(args ...string) string {
		var out strings.Builder
		code := Run(t.Context(), Env{Stdout: &out, Stderr: &out, Director: d, Names: named{}, Program: "ipvsadm"}, args)
		return fmt.Sprintf("%s= %d\n", out.String(), code)
	}
	run("-A", "-t", "web.example:http", "-s", "rr")
	run("-a", "-t", "192.0.2.1:80", "-r", "10.0.0.1:8080", "-m")
	run("-A", "-t", "[2001:db8::1]:80")
	run("-a", "-t", "[2001:db8::1]:80", "-r", "fd00::1")
	if got, want := run("-S"), "-A -t web.example:http -s rr\n-a -t web.example:http -r 10.0.0.1:8080 -m -w 1\n"+
		"-A -t [2001:db8::1]:http -s wlc\n-a -t [2001:db8::1]:http -r rs1.example:http -g -w 1\n= 0\n"; got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if got, want := run("-Sn", "-L"), "invalid option `-L'\n= 2\n"; got != want {
		t.Errorf("got %s", got)
	}
}

// TestSystemNames reads a file as services(5) has it.
func TestSystemNames(t *testing.T) {
	file := filepath.Join(t.TempDir(), "services")
	text := "# comment\nhttp\t80/tcp\twww # WorldWideWeb\nhttp-alt 8080/tcp\ndomain 53/udp\nbroken\nodd x/tcp\nhuge 70000/tcp\nother 80/tcp\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	n := &SystemNames{Services: file}
	for name, want := range map[string]uint16{"http": 80, "www": 80, "http-alt": 8080, "domain": 0, "huge": 0} {
		if port, ok := n.Port(name, director.TCP); port != want || ok != (want != 0) {
			t.Errorf("%s is %d, %v", name, port, ok)
		}
	}
	if got := n.PortName(80, director.TCP) + n.PortName(53, director.UDP) + n.PortName(53, director.TCP); got != "httpdomain" {
		t.Errorf("names %s", got)
	}
}

// FuzzRun holds that no command line and no rules make ipvsadm panic, or end with a code that it has not.
func FuzzRun(f *testing.F) {
	f.Add("-A -t 192.0.2.1:80 -s wlc -p 300 -M 255.255.255.0", "")
	f.Add("-R", "-A -f 7 -6 -b sh-port -s sh\n-a -f 7 -6 -r fd00::1 -i --tun-type gue --tun-port 6080\n-Sn\n")
	f.Add("--set 1 2 3 -- -L", "")
	f.Add("-at[2001:db8::1]:80 -r10.0.0.1 -w=5", "")
	f.Fuzz(func(t *testing.T, line, stdin string) {
		d := newTable()
		got := d.ipvsadm(stdin, strings.Fields(line)...)
		code := got[strings.LastIndex(got, "= "):]
		if code != "= 0\n" && code != "= 1\n" && code != "= 2\n" && code != "= 255\n" {
			t.Errorf("%q: %s", line, got)
		}
		for i := range d.services {
			if err := d.services[i].Validate(); err != nil {
				t.Errorf("%q made %v", line, err)
			}
		}
	})
}
