// SPDX-License-Identifier: Apache-2.0

package netlab

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// helperPrefix, in the environment, makes the test binary a program that owns a lab with this prefix
// and waits to be killed.
const helperPrefix = "NETLAB_TEST_OWN_LAB"

func TestMain(m *testing.M) {
	if prefix := os.Getenv(helperPrefix); prefix != "" {
		ownLabForever(prefix)
	}
	os.Exit(m.Run())
}

// ownLabForever prints the namespaces of a lab in which a process runs, then "." and waits.
func ownLabForever(prefix string) {
	l, err := New(prefix)
	for _, name := range []string{"one", "two"} {
		if err != nil {
			break
		}
		var h *Host
		if h, err = l.Host(name); err == nil {
			fmt.Println(h.NSName())
			err = h.Start(h.Command(context.Background(), "sleep", "1000"))
		}
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println(".")
	select {}
}

func exists(nsName string) bool {
	_, err := os.Stat(namespacePath(nsName))
	return err == nil
}

func TestNames(t *testing.T) {
	l := newLab(t)
	h := need(l.Host("real-1"))(t)
	if h.Name() != "real-1" {
		t.Errorf("Name() = %q", h.Name())
	}
	prefix, o, ok := parseNamespaceName(h.NSName())
	if !ok || prefix != "netlabtest" || o.pid != os.Getpid() || !o.alive() {
		t.Errorf("%q is read as prefix %q, owner %+v, ok %v", h.NSName(), prefix, o, ok)
	}
	out, err := exec.Command("ip", "netns", "exec", h.NSName(), "ip", "-br", "link").CombinedOutput()
	if err != nil || !strings.HasPrefix(string(out), "lo ") || strings.Count(string(out), "\n") != 1 {
		t.Errorf("ip netns exec: %v: %s", err, out)
	}
}

func TestNamesRefused(t *testing.T) {
	l := newLab(t)
	need(l.Host("twice"))(t)
	if _, err := l.Switch("twice"); !errors.Is(err, os.ErrExist) {
		t.Errorf("second host with the same name: %v", err)
	}
	for _, bad := range []string{"", "a.b", "a/b", "..", "-a", strings.Repeat("a", 65)} {
		if _, err := New(bad); err == nil {
			t.Errorf("New(%q) is accepted", bad)
		}
		if _, err := l.Host(bad); err == nil {
			t.Errorf("Host(%q) is accepted", bad)
		}
	}
}

func TestParseNamespaceNameOfOthers(t *testing.T) {
	for _, name := range []string{"", "blue", "cni-1234", "a.b.c.d.e", "a.1.z.r", "a.0.z.r.h", "a.-1.z.r.h", "a.1.!.r.h"} {
		if _, _, ok := parseNamespaceName(name); ok {
			t.Errorf("%q is taken for ours", name)
		}
	}
}

func TestLabsInParallel(t *testing.T) {
	for range 4 {
		t.Run("lab", func(t *testing.T) {
			t.Parallel()
			p := newPair(t)
			must(t, ping(p.a, "10.0.0.2"))
		})
	}
}

func TestCloseIsIdempotent(t *testing.T) {
	p := newPair(t)
	must(t, p.lab.Close())
	must(t, p.lab.Close())
	for _, h := range []*Host{p.a, p.b, p.sw.Host()} {
		if exists(h.NSName()) {
			t.Errorf("%s is still there", h.NSName())
		}
	}
}

func TestUseAfterClose(t *testing.T) {
	p := newPair(t)
	must(t, p.lab.Close())
	_, hostErr := p.lab.Host("late")
	_, connectErr := p.a.Connect(p.sw, "eth1")
	_, listenErr := p.a.Listen("tcp", "10.0.0.1:80")
	_, dialErr := p.a.DialContext(context.Background(), "tcp", "10.0.0.1:80")
	_, serveErr := p.a.ServeUDPEcho()
	_, runErr := p.a.Run(context.Background(), "true")
	_, netlinkErr := p.a.Netlink()
	for what, err := range map[string]error{
		"Host": hostErr, "Connect": connectErr, "Listen": listenErr, "DialContext": dialErr,
		"ServeUDPEcho": serveErr, "Run": runErr, "Netlink": netlinkErr,
		"AddAddr": p.a.AddAddr("eth0", prefixes("10.0.0.9/24")[0]), "SetMTU": p.aEnd.SetMTU(1400),
		"Sysctl": p.a.Sysctl("net.ipv4.ip_forward", "1"), "AcceptXDP": p.aEnd.AcceptXDP(),
	} {
		if !errors.Is(err, os.ErrClosed) {
			t.Errorf("%s after Close: %v", what, err)
		}
	}
}

func TestCloseWhileBuilding(t *testing.T) {
	l := newLab(t)
	var building sync.WaitGroup
	var err error
	building.Go(func() {
		var sw *Switch
		sw, err = l.Switch("sw")
		for i := 0; err == nil; i++ {
			var h *Host
			if h, err = l.Host(fmt.Sprintf("h%d", i)); err == nil {
				_, err = h.Connect(sw, "eth0", prefixes("10.0.0.1/8")...)
			}
		}
	})
	time.Sleep(50 * time.Millisecond)
	must(t, l.Close())
	building.Wait()
	if !errors.Is(err, os.ErrClosed) {
		t.Errorf("the builder got: %v", err)
	}
	if left, _ := filepath.Glob(namespacePath("*." + l.random + ".*")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

func TestCloseAfterPartialFailure(t *testing.T) {
	l := newLab(t)
	a, b := need(l.Host("a"))(t), need(l.Host("b"))(t)
	// A namespace of which only the file was made, as if mounting had failed.
	unmounted := &Host{lab: l, name: "c", ns: -1, nsName: namespaceName(l.prefix, l.owner, l.random, "c")}
	must(t, l.add(unmounted))
	must(t, os.WriteFile(namespacePath(unmounted.nsName), nil, 0o444))
	if _, _, err := Link(a, "eth0", prefixes("10.0.0.1/24"), b, "name-is-too-long", nil); err == nil {
		t.Error("an interface name of 16 characters is accepted")
	}
	if _, err := a.ServeHTTP("a", addrPort("127.0.0.1:80"), addrPort("192.0.2.1:80")); err == nil {
		t.Error("an address the host does not have is accepted")
	}
	must(t, l.Close())
	for _, h := range []*Host{a, b, unmounted} {
		if exists(h.NSName()) {
			t.Errorf("%s is still there", h.NSName())
		}
	}
}

func TestCreationFailureLeavesNothing(t *testing.T) {
	l := newLab(t)
	nsName := namespaceName(l.prefix, l.owner, l.random, "taken")
	must(t, os.WriteFile(namespacePath(nsName), nil, 0o444))
	if _, err := l.Host("taken"); !errors.Is(err, os.ErrExist) {
		t.Errorf("a namespace that exists: %v", err)
	}
	must(t, l.Close())
	if exists(nsName) {
		t.Error("the file is still there")
	}
}

// deadLab returns the namespaces of a lab whose owner was killed.
func deadLab(t *testing.T, prefix string) []string {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), helperPrefix+"="+prefix)
	stdout := need(cmd.StdoutPipe())(t)
	must(t, cmd.Start())
	var names []string
	lines := bufio.NewScanner(stdout)
	for lines.Scan() && lines.Text() != "." {
		names = append(names, lines.Text())
	}
	must(t, cmd.Process.Kill())
	io.Copy(io.Discard, stdout)
	cmd.Wait() // killed
	if len(names) != 2 || !exists(names[0]) || !exists(names[1]) {
		t.Fatalf("the helper has no lab: %v", names)
	}
	return names
}

func TestCleanStale(t *testing.T) {
	l := newLab(t)
	alive := need(l.Host("alive"))(t)
	dead, other := deadLab(t, l.prefix), deadLab(t, l.prefix+"-other")
	inodes := namespaceInodes(dead)
	if len(pidsInside(inodes)) == 0 {
		t.Error("no process is left behind, so this test shows little")
	}
	must(t, CleanStale(l.prefix))
	if exists(dead[0]) || exists(dead[1]) {
		t.Error("namespaces of the dead owner are still there")
	}
	if pids := pidsInside(inodes); len(pids) > 0 {
		t.Errorf("processes of the dead owner still run: %v", pids)
	}
	if !exists(alive.NSName()) {
		t.Error("the namespace of the live owner is gone")
	}
	if !exists(other[0]) {
		t.Error("the namespace with another prefix is gone")
	}
	must(t, CleanStale(l.prefix+"-other"))
	if exists(other[0]) || exists(other[1]) {
		t.Error("namespaces with the other prefix are still there")
	}
}

func TestOwnerOfReusedPid(t *testing.T) {
	self := need(ownerOf(os.Getpid()))(t)
	self.start--
	if self.alive() {
		t.Error("a process with the same pid and another start time is taken for the owner")
	}
}

// openFiles lists what the file descriptors of this process refer to.
func openFiles(t *testing.T) []string {
	t.Helper()
	entries := need(os.ReadDir("/proc/self/fd"))(t)
	var files []string
	for _, entry := range entries {
		if target, err := os.Readlink("/proc/self/fd/" + entry.Name()); err == nil {
			files = append(files, entry.Name()+" "+target)
		}
	}
	return files
}

// useEverything makes a lab, uses what holds descriptors and goroutines, and closes the lab only.
func useEverything(t *testing.T) {
	p := newPair(t)
	need(p.a.Netlink())(t)
	need(p.b.Listen("tcp", "10.0.0.2:81"))(t)
	need(p.b.ListenPacket("udp", "10.0.0.2:81"))(t)
	need(p.b.ServeHTTP("b", addrPort("10.0.0.2:80"), addrPort("[fd00::2]:80")))(t)
	need(p.b.ServeUDP("b", addrPort("10.0.0.2:53")))(t)
	need(p.b.ServeUDPEcho(addrPort("0.0.0.0:7"), addrPort("[::]:7")))(t)
	get(t, p.a.HTTPClient(time.Second), "http://10.0.0.2/")
	must(t, p.a.Start(p.a.Command(context.Background(), "sleep", "1000")))
	must(t, p.lab.Close())
}

func TestCloseReleasesEverything(t *testing.T) {
	useEverything(t) // the runtime opens some descriptors once
	files, goroutines := openFiles(t), runtime.NumGoroutine()
	for range 5 {
		useEverything(t)
	}
	deadline := time.Now().Add(5 * time.Second)
	for runtime.NumGoroutine() > goroutines && time.Now().Before(deadline) {
		time.Sleep(time.Millisecond) // a connection's goroutine ends after the server's Close
	}
	if now := runtime.NumGoroutine(); now > goroutines {
		stacks := make([]byte, 1<<20)
		t.Errorf("%d goroutines, %d before:\n%s", now, goroutines, stacks[:runtime.Stack(stacks, true)])
	}
	runtime.GC() // descriptors of killed processes (pidfd) that nobody waited for
	for _, file := range openFiles(t) {
		if !slices.Contains(files, file) && !strings.Contains(file, "pidfd") && !strings.HasSuffix(file, "/proc/"+fmt.Sprint(os.Getpid())+"/fd") {
			t.Errorf("left open: %s", file)
		}
	}
}

func TestCloseKillsProcesses(t *testing.T) {
	l := newLab(t)
	h := need(l.Host("h"))(t)
	// The shell's child must end, too.
	cmd := h.Command(context.Background(), "sh", "-c", "sleep 1000 & echo started; wait")
	stdout := need(cmd.StdoutPipe())(t)
	must(t, h.Start(cmd))
	bufio.NewReader(stdout).ReadString('\n')
	inodes := namespaceInodes([]string{h.NSName()})
	if pids := pidsInside(inodes); len(pids) != 2 {
		t.Errorf("processes inside: %v, want 2", pids)
	}
	must(t, l.Close())
	if pids := pidsInside(inodes); len(pids) > 0 {
		t.Errorf("processes inside after Close: %v", pids)
	}
	var exit *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Errorf("the caller waits for the process: %v", err)
	}
}

// TestCreationTime builds the usual lab three times, because a busy machine may spoil one. It takes
// 0.1 to 0.3 s; the limit finds waits, such as for duplicate address detection, and leaves time to an
// emulated machine.
func TestCreationTime(t *testing.T) {
	best := time.Hour
	for range 3 {
		begin := time.Now()
		l := newLab(t)
		sw := need(l.Switch("sw"))(t)
		for i, name := range []string{"client", "director", "real1", "real2", "real3"} {
			h := need(l.Host(name))(t)
			need(h.Connect(sw, "eth0", prefixes(fmt.Sprintf("10.0.0.%d/24", i+1), fmt.Sprintf("fd00::%d/64", i+1))...))(t)
		}
		best = min(best, time.Since(begin))
		must(t, l.Close())
	}
	t.Logf("1 client, 1 director, 3 real servers, 1 switch: %v", best)
	if best > 3*time.Second {
		t.Errorf("takes %v", best)
	}
}
