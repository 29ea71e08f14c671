// SPDX-License-Identifier: Apache-2.0

package healthcheck

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// here is a target for checks that connect to nothing.
var here = Target{Address: netip.MustParseAddrPort("192.0.2.1:80"), Real: netip.MustParseAddrPort("10.0.0.11:8080")}

// command writes a script that anybody may run.
func command(t testing.TB, text string) string {
	t.Helper()
	dir := t.TempDir()
	for d := dir; d != os.TempDir() && len(d) > 1; d = filepath.Dir(d) { // for those who run it as nobody
		os.Chmod(d, 0o755)
	}
	path := filepath.Join(dir, "check")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestExternal(t *testing.T) {
	for _, c := range []struct {
		name, script string
		o            ExternalOptions
		want         string
		factor       int
	}{
		{"up", "exit 0", ExternalOptions{}, "up PROCOK: exit status 0", 100},
		{"down, with a reason", "echo disk full >&2; echo more; exit 1", ExternalOptions{}, "down PROCERR/1: exit status 1: disk full", 0},
		{"arguments of keepalived", `test "$*" = "-a 10.0.0.11:8080"`, ExternalOptions{Args: []string{"-a", "{address}:{port}"}}, "up PROCOK", 100},
		{"arguments of ldirectord", `echo "$*"`, ExternalOptions{Convention: "ldirectord", VirtualAddress: "192.0.2.1", VirtualPort: 80, Args: []string{"-v"}},
			"up PROCOK: exit status 0: 192.0.2.1 80 10.0.0.11 8080 -v", 100},
		{"mark of ldirectord", `echo "$*"`, ExternalOptions{Convention: "ldirectord", VirtualAddress: "7"}, "up PROCOK: exit status 0: 7 0 10.0.0.11 8080", 100},
		{"ldirectord knows no weights", "exit 52", ExternalOptions{Convention: "ldirectord", VirtualAddress: "7"}, "down PROCERR/52: exit status 52", 0},
		{"dynamic, 0", "exit 0", ExternalOptions{Convention: "keepalived-dynamic"}, "up PROCOK: exit status 0", 100},
		{"dynamic, 1", "exit 1", ExternalOptions{Convention: "keepalived-dynamic"}, "down PROCERR/1", 0},
		{"dynamic, lowest", "exit 2", ExternalOptions{Convention: "keepalived-dynamic"}, "up PROCOK/2", 0},
		{"dynamic, a percentage", "exit 52", ExternalOptions{Convention: "keepalived-dynamic"}, "up PROCOK/52", 50},
		{"dynamic, too much", "exit 255", ExternalOptions{Convention: "keepalived-dynamic"}, "up PROCOK/255", 100},
		{"dynamic, a weight", "exit 12", ExternalOptions{Convention: "keepalived-dynamic", Weight: 40}, "up PROCOK/12", 25},
		{"killed by somebody", "kill -9 $$", ExternalOptions{}, "unknown PROCERR: ", 0},
		{"environment", `echo "$CHECK_ADDRESS $CHECK_PORT $CHECK_VIRTUAL_ADDRESS $CHECK_VIRTUAL_PORT $X $HOME"`,
			ExternalOptions{VirtualAddress: "192.0.2.1", VirtualPort: 80, Env: []string{"X=y"}}, "up PROCOK: exit status 0: 10.0.0.11 8080 192.0.2.1 80 y", 100},
		{"much output", "head -c 3000000 /dev/zero | tr '\\0' x", ExternalOptions{}, "up PROCOK: exit status 0: xxx", 100},
		{"nothing to read", "read x; echo got $x", ExternalOptions{}, "up PROCOK: exit status 0: got", 100},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.o.Command = command(t, c.script)
			r := ask(t, must(NewExternal(c.o)), here)
			wants(t, r, c.want)
			if r.Factor != c.factor {
				t.Errorf("a factor of %d %%, want %d %%", r.Factor, c.factor)
			}
		})
	}
}

// TestExternalEnds has commands that do not, with children.
func TestExternalEnds(t *testing.T) {
	pids := filepath.Join(t.TempDir(), "pids")
	if err := os.WriteFile(pids, nil, 0o666); err != nil {
		t.Fatal(err)
	}
	os.Chmod(pids, 0o666)
	os.Chmod(filepath.Dir(pids), 0o755)
	os.Chmod(filepath.Dir(filepath.Dir(pids)), 0o755)
	const children = "sleep 1000 & echo $! >> %[1]s; echo $$ >> %[1]s; trap '' TERM\n"
	slow := command(t, fmt.Sprintf(children, pids)+"echo working; wait; sleep 1000")
	wants(t, askWithin(t, must(NewExternal(ExternalOptions{Command: slow})), here, shortTime),
		"down PROCTOUT: "+slow+" did not end in time, and was killed: working")
	quick := command(t, fmt.Sprintf(children, pids)+"exit 0")
	wants(t, ask(t, must(NewExternal(ExternalOptions{Command: quick})), here), "up PROCOK: exit status 0")

	text, err := os.ReadFile(pids)
	if err != nil || len(strings.Fields(string(text))) != 4 {
		t.Fatalf("the commands ran as %q, %v", text, err)
	}
	for _, field := range strings.Fields(string(text)) {
		pid, _ := strconv.Atoi(field)
		if !gone(pid) {
			t.Errorf("process %d is still there", pid)
		}
	}
}

// gone waits until a process has ended; its parent may still have to notice.
func gone(pid int) bool {
	for range 200 {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil || strings.Contains(string(stat), ") Z ") {
			return true
		}
		time.Sleep(10 * time.Millisecond)
	}
	return false
}

// TestExternalCancelled: a director that ends is no reason to call a server down.
func TestExternalCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	time.AfterFunc(50*time.Millisecond, cancel)
	r := must(NewExternal(ExternalOptions{Command: command(t, "sleep 1000")})).Check(ctx, here)
	wants(t, r, "unknown SOCKERR: ")
}

func TestExternalUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to run commands as somebody else")
	}
	who := command(t, `echo "$(id -un) $(id -gn) $(id -G | wc -w)"`)
	wants(t, ask(t, must(NewExternal(ExternalOptions{Command: who})), here), "up PROCOK: exit status 0: nobody nogroup 1")
	wants(t, ask(t, must(NewExternal(ExternalOptions{Command: who, User: "daemon", Group: "mail"})), here), "up PROCOK: exit status 0: daemon mail 1")
	wants(t, ask(t, must(NewExternal(ExternalOptions{Command: who, User: "root"})), here), "up PROCOK: exit status 0: root root 1")
}

func TestExternalMistakes(t *testing.T) {
	plain := filepath.Join(t.TempDir(), "plain")
	if err := os.WriteFile(plain, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		o    ExternalOptions
		want string
	}{
		{ExternalOptions{Command: "check"}, `external check: command: "check" is no absolute path`},
		{ExternalOptions{Command: "/nonexistent"}, "external check: command: stat /nonexistent: no such file"},
		{ExternalOptions{Command: plain}, "plain: permission denied"},
		{ExternalOptions{Convention: "nagios"}, `external check: convention: unknown "nagios" (known: ldirectord, keepalived, keepalived-dynamic)`},
		{ExternalOptions{Convention: "ldirectord"}, "external check: virtual address: missing"},
		{ExternalOptions{Weight: 3}, "external check: weight: 3 is only for keepalived-dynamic"},
		{ExternalOptions{User: "no-such-user"}, "external check: user: user: unknown user no-such-user"},
		{ExternalOptions{User: "root", Group: "no-such-group"}, "unknown group no-such-group"},
		{ExternalOptions{Group: "mail"}, "external check: user: missing beside a group"},
		{ExternalOptions{Env: []string{"X"}}, `external check: env[0]: "X" is not NAME=value`},
	} {
		_, err := NewExternal(c.o)
		wantError(t, err, c.want)
	}
	// What vanishes later is not the server's fault.
	path := command(t, "exit 0")
	c := must(NewExternal(ExternalOptions{Command: path}))
	os.Remove(path)
	wants(t, ask(t, c, here), "unknown SOCKERR: "+path+": no such file or directory")
}

func TestFile(t *testing.T) {
	dir := t.TempDir()
	flag := filepath.Join(dir, "10.0.0.11:8080")
	path := filepath.Join(dir, "{address}:{port}")
	check := func(o FileOptions, want string, factor int) {
		t.Helper()
		o.Path = path
		r := ask(t, must(NewFile(o)), here)
		wants(t, r, want)
		if r.Factor != factor {
			t.Errorf("a factor of %d %%, want %d %%", r.Factor, factor)
		}
	}
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(flag, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	check(FileOptions{}, "up L7OK: "+flag+" is not there", 100)
	check(FileOptions{Mode: "required"}, "drain L7STS: "+flag+" is not there", 0)
	check(FileOptions{Mode: "required", Down: true}, "down L7STS: "+flag+" is not there", 0)
	check(FileOptions{Mode: "weight"}, "up L7OK", 100)
	write("new disks\nby joe\n")
	check(FileOptions{}, "drain L7STS: "+flag+" is there: new disks", 0)
	check(FileOptions{Down: true}, "down L7STS: "+flag+" is there: new disks", 0)
	check(FileOptions{Mode: "required"}, "up L7OK: "+flag+" is there", 100)
	check(FileOptions{Mode: "weight"}, `unknown SOCKERR: `+flag+`: "new disks" is no factor between 0 and 100`, 0)
	for text, factor := range map[string]int{"30\n": 30, "0": 0, "100 %\n": 100} {
		write(text)
		check(FileOptions{Mode: "weight"}, "up L7OK: "+flag+": "+strconv.Itoa(factor)+" %", factor)
	}
	for _, text := range []string{"", "101", "-1"} {
		write(text)
		check(FileOptions{Mode: "weight"}, "unknown SOCKERR", 0)
	}
	os.Remove(flag)
	if err := syscall.Mkfifo(flag, 0o644); err != nil {
		t.Fatal(err)
	}
	check(FileOptions{}, "drain L7STS: "+flag+" is there", 0) // and nobody waits for a writer
	_, err := NewFile(FileOptions{Path: "x", Mode: "weight", Down: true})
	wantError(t, err, `file check: path: "x" is no absolute path`)
	wantError(t, err, "file check: down: a weight flags nothing")
	_, err = NewFile(FileOptions{Path: "/x", Mode: "flag"})
	wantError(t, err, `file check: mode: unknown "flag" (known: maintenance, required, weight)`)
}

// fixed is a checker that always finds the same.
type fixed struct {
	name string
	Result
}

func (f fixed) Check(context.Context, Target) Result { return f.Result }
func (f fixed) Identity() string                     { return "fixed:" + f.name }

func TestCombined(t *testing.T) {
	up, up50 := fixed{"up", good(L7OK, "fine")}, fixed{"up50", Result{Verdict: Up, Code: L7OK, Factor: 50, Text: "half", Warning: "soon"}}
	down, lagging := fixed{"down", fail(L4CON, 0, "refused").Result}, fixed{"lagging", Result{Verdict: Down, Code: L7STS, Reserve: true, Lag: time.Minute, Text: "lag"}}
	drain, unknown := fixed{"drain", draining(L7STS, 421, "go away").Result}, fixed{"unknown", unsent("no socket").Result}
	panics := fixed{name: "panics"}
	for _, c := range []struct {
		name    string
		n       int // 0: all
		list    []Checker
		want    string
		factor  int
		reserve bool
	}{
		{"all up", 0, []Checker{up, up50, up50}, "up L7OK: fine; half; half", 25, false},
		{"all, one down", 0, []Checker{up, down, up50}, "down L4CON: 2 of 3 up, want 3: refused", 0, false},
		{"all, one unknown", 0, []Checker{up, unknown}, "unknown SOCKERR: 1 of 2 up, want 2: no socket", 0, false},
		{"all, down and unknown", 0, []Checker{unknown, down}, "down L4CON: 0 of 2 up, want 2: refused", 0, false},
		{"all, one drains", 0, []Checker{up, drain}, "drain L7STS/421: go away", 0, false},
		{"all, one in reserve", 0, []Checker{up, lagging}, "down L7STS: 1 of 2 up, want 2: lag", 0, true},
		{"all, reserve and dead", 0, []Checker{lagging, down}, "down L7STS: 0 of 2 up, want 2: lag", 0, false},
		{"any", 1, []Checker{down, up50, unknown, up}, "up L7OK: fine", 100, false},
		{"any, none", 1, []Checker{down, down}, "down L4CON: 0 of 2 up, want 1: refused", 0, false},
		{"any, none but unknown", 1, []Checker{down, unknown}, "unknown SOCKERR: 0 of 2 up, want 1: no socket", 0, false},
		{"any, only one that drains", 1, []Checker{down, drain}, "drain L7STS/421: go away", 0, false},
		{"two of three", 2, []Checker{up, down, up50}, "up L7OK: fine; half", 50, false},
		{"two of three, too few", 2, []Checker{up, down, down}, "down L4CON: 1 of 3 up, want 2: refused", 0, false},
		{"two of three, the drain is not needed", 2, []Checker{drain, up, up50}, "up L7OK: fine; half", 50, false},
		{"one that panics", 0, []Checker{panicking{panics}}, "unknown SOCKERR: the checker failed: oh no", 0, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.n == 0 {
				c.n = len(c.list)
			}
			r := ask(t, must(NewAtLeast(c.n, c.list...)), here)
			wants(t, r, c.want)
			if r.Factor != c.factor || r.Reserve != c.reserve {
				t.Errorf("factor %d %%, reserve %t; want %d %%, %t", r.Factor, r.Reserve, c.factor, c.reserve)
			}
		})
	}
	if r := ask(t, must(NewAll(up50, up)), here); r.Warning != "soon" {
		t.Errorf("the warning is %q", r.Warning)
	}
	all, again := must(NewAll(up, down)), must(NewAll(up, down))
	if all.Identity() == must(NewAny(up, down)).Identity() || all.Identity() != again.Identity() {
		t.Error("all and any are the same, or all is not the same as itself")
	}
	_, err := NewAll()
	wantError(t, err, "combined check: checkers: missing")
	_, err = NewAtLeast(3, up, down)
	wantError(t, err, "combined check: n: 3 of 2 checkers cannot be")
	_, err = NewAny(up, nil)
	wantError(t, err, "combined check: checkers: one is missing")
}

// panicking is a checker with a bug.
type panicking struct{ fixed }

func (panicking) Check(context.Context, Target) Result { panic("oh no") }
