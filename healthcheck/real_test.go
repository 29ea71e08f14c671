// SPDX-License-Identifier: Apache-2.0

package healthcheck

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"xdplvs/internal/programs"
)

// The tests in real_*_test.go run against the servers that people have: Debian's packages, which
// tools/install.sh installs, in directories of their own, on loopback, and not as root.

// program finds a program, or skips the test because its package is not installed.
func program(t testing.TB, debian, path string) string {
	t.Helper()
	found, err := programs.Find(debian, path)
	if err != nil {
		t.Skip(err)
	}
	return found
}

// nobody is who runs servers.
func nobody() *syscall.Credential { return programs.Nobody() }

// directory makes one that belongs to nobody.
func directory(t testing.TB) string {
	t.Helper()
	dir, err := programs.Directory("healthcheck")
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// give makes a file nobody's.
func give(t testing.TB, path string, mode os.FileMode) {
	t.Helper()
	if err := programs.Give(path, mode); err != nil {
		t.Fatal(err)
	}
}

// write writes a file of nobody's; $name is replaced by the value behind the name.
func write(t testing.TB, path, text string, values ...string) string {
	t.Helper()
	if err := programs.Write(path, text, values...); err != nil {
		t.Fatal(err)
	}
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

// daemon is a server that runs in the foreground, until the test ends or stop.
type daemon struct{ *programs.Process }

// runDaemon starts a server and waits until it can be connected to.
func runDaemon(t testing.TB, who *syscall.Credential, at Target, name string, args ...string) *daemon {
	t.Helper()
	p, err := programs.Start(startWithUs, who, name, args...)
	if err != nil {
		t.Fatal(err)
	}
	d := &daemon{p}
	t.Cleanup(d.stop)
	if at.Address.IsValid() {
		d.await(t, must(NewTCP(TCPOptions{})), at)
	}
	return d
}

// runServer is runDaemon for a server whose configuration is written: runServer(t, at)(programs.NewNSD(…)).
func runServer(t testing.TB, at Target) func(programs.Server, error) *daemon {
	t.Helper()
	return func(s programs.Server, err error) *daemon {
		t.Helper()
		if errors.Is(err, programs.ErrMissing) {
			t.Skip(err)
		}
		if err != nil {
			t.Fatal(err)
		}
		return runDaemon(t, s.Who, at, s.Path, s.Args...)
	}
}

// startWithUs starts a process that ends when we are killed.
func startWithUs(cmd *exec.Cmd) error {
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	return cmd.Start()
}

// stop ends the server and all that it has started.
func (d *daemon) stop() { d.Stop() }

// await waits until a check says up.
func (d *daemon) await(t testing.TB, c Checker, at Target) {
	t.Helper()
	var r Result
	for begin := time.Now(); time.Since(begin) < 30*time.Second; time.Sleep(20 * time.Millisecond) {
		if r = askWithin(t, c, at, 5*time.Second); r.Verdict == Up {
			return
		}
	}
	t.Fatalf("%s does not work: %s\n%s", d.Process, r, d.Log)
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
				t.Logf("%s printed:\n%s", d.Process, d.Log)
			}
		})
	}
}
