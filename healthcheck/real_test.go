// SPDX-License-Identifier: Apache-2.0

package healthcheck

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// The tests in real_*_test.go run against the servers that people have: Debian's packages, which
// tools/install.sh installs, in directories of their own, on loopback, and not as root.

// program finds a program, or skips the test because its package is not installed.
func program(t testing.TB, debian, path string) string {
	t.Helper()
	if found, err := filepath.Glob(path); err == nil && len(found) > 0 {
		return found[len(found)-1] // the newest version
	}
	t.Skipf("needs %s of Debian's package %s", path, debian)
	return ""
}

// nobody is who runs servers: nobody if we are root, else ourselves.
func nobody() *syscall.Credential {
	if os.Geteuid() != 0 {
		return nil
	}
	return &syscall.Credential{Uid: 65534, Gid: 65534}
}

// directory makes one that belongs to nobody.
func directory(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "healthcheck")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	give(t, dir, 0o755)
	return dir
}

// give makes a file nobody's.
func give(t testing.TB, path string, mode os.FileMode) {
	t.Helper()
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
	if who := nobody(); who != nil {
		if err := os.Chown(path, int(who.Uid), int(who.Gid)); err != nil {
			t.Fatal(err)
		}
	}
}

// write writes a file of nobody's; $name is replaced by the value behind the name.
func write(t testing.TB, path, text string, values ...string) string {
	t.Helper()
	text = strings.NewReplacer(values...).Replace(text)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	give(t, path, 0o644)
	return path
}

// keyPair writes a certificate into a server's directory.
func keyPair(t testing.TB, ca *authority, dir string) {
	t.Helper()
	certFile, keyFile := ca.files(ca.valid())
	for from, to := range map[string]string{certFile: "cert.pem", keyFile: "key.pem", ca.file: "ca.pem"} {
		text, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, to), string(text))
	}
	give(t, filepath.Join(dir, "key.pem"), 0o600)
}

// freePort is one that nobody listens at as yet, neither by TCP nor by UDP.
func freePort(t testing.TB) Target {
	t.Helper()
	for range 50 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		address := l.Addr().String()
		l.Close()
		if c, err := net.ListenPacket("udp", address); err == nil {
			c.Close()
			return Target{Address: netip.MustParseAddrPort(address)}
		}
	}
	t.Fatal("no port is free")
	return Target{}
}

func portText(t Target) string { return fmt.Sprint(t.Address.Port()) }

// as runs a command to its end.
func as(t testing.TB, who *syscall.Credential, name string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: who}
	output, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", cmd, err, output)
	}
	return string(output)
}

// log is what a server prints.
type serverLog struct {
	mu sync.Mutex
	b  bytes.Buffer
}

// Write is io.Writer's.
func (l *serverLog) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *serverLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// daemon is a server that runs in the foreground, until the test ends or stop.
type daemon struct {
	cmd  *exec.Cmd
	log  *serverLog
	once sync.Once
}

// runDaemon starts a server and waits until it can be connected to.
func runDaemon(t testing.TB, who *syscall.Credential, at Target, name string, args ...string) *daemon {
	t.Helper()
	d := &daemon{cmd: exec.Command(name, args...), log: &serverLog{}}
	d.cmd.Dir = "/"
	d.cmd.Stdout, d.cmd.Stderr = d.log, d.log
	d.cmd.WaitDelay = time.Second
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Credential: who, Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.stop)
	if at.Address.IsValid() {
		d.await(t, must(NewTCP(TCPOptions{})), at)
	}
	return d
}

// await waits until a check says up.
func (d *daemon) await(t testing.TB, c Checker, at Target) {
	t.Helper()
	var r Result
	for begin := time.Now(); time.Since(begin) < 30*time.Second; time.Sleep(20 * time.Millisecond) {
		if r = askWithin(t, c, at, 5*time.Second); r.Verdict == Up {
			return
		}
	}
	t.Fatalf("%s does not work: %s\n%s", d.cmd, r, d.log)
}

// stop ends the server and all that it has started.
func (d *daemon) stop() {
	d.once.Do(func() {
		group := -d.cmd.Process.Pid
		syscall.Kill(group, syscall.SIGTERM)
		kill := time.AfterFunc(5*time.Second, func() { syscall.Kill(group, syscall.SIGKILL) })
		d.cmd.Wait()
		kill.Stop()
		syscall.Kill(group, syscall.SIGKILL)
	})
}

// realCheck is one check of a real server.
type realCheck struct {
	name    string
	checker Checker
	target  Target
	want    string
}

func runReal(t *testing.T, d *daemon, checks []realCheck) {
	t.Helper()
	for _, c := range checks {
		t.Run(c.name, func(t *testing.T) {
			wants(t, ask(t, c.checker, c.target), c.want)
			if t.Failed() && d != nil {
				t.Logf("%s printed:\n%s", d.cmd, d.log)
			}
		})
	}
}
