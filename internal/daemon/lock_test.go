// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestLock: of two with one socket the second is told the first's number and name.
func TestLock(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "run", "director.sock")
	first, err := lock(socket)
	if err != nil {
		t.Fatal(err)
	}
	_, err = lock(socket)
	if err == nil {
		t.Fatal("two have the lock")
	}
	path := filepath.Join(filepath.Dir(socket), "director.pid")
	expectText(t, "error", err.Error(), "another director is running: pid "+fmt.Sprint(os.Getpid())+" (daemon.test)", path)
	text, err := os.ReadFile(path)
	if err != nil || string(text) != fmt.Sprintln(os.Getpid()) {
		t.Errorf("file has %q, %v", text, err)
	}
	first.release()
	second, err := lock(socket)
	if err != nil {
		t.Fatal(err)
	}
	second.release()
}

// TestLockFile: what lies there already, and what cannot be made.
func TestLockFile(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "director.sock")
	path := filepath.Join(filepath.Dir(socket), "director.pid")
	if err := os.WriteFile(path, []byte("4194304999 and more\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	hold, err := lock(socket) // whoever wrote that is gone
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil || string(text) != fmt.Sprintln(os.Getpid()) {
		t.Errorf("file has %q, %v", text, err)
	}
	if err := os.Truncate(path, 0); err != nil {
		t.Fatal(err)
	}
	if _, err = lock(socket); err == nil {
		t.Fatal("two have the lock")
	}
	expectText(t, "error", err.Error(), "a process that has not written its number yet")
	hold.release()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc/hostname", path); err != nil {
		t.Fatal(err)
	}
	if _, err = lock(socket); err == nil {
		t.Error("a symbolic link is followed")
	}
	if _, err = lock("/dev/null/director.sock"); err == nil {
		t.Error("no error for a directory that cannot be")
	}
}

// TestLockState: of two with one state the second is told the first, whatever
// their sockets. The holder is another process here.
func TestLockState(t *testing.T) {
	dir := t.TempDir()
	holder := exec.Command("flock", "--exclusive", dir, "sh", "-c", "echo held; sleep 60")
	out, err := holder.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := holder.Start(); err != nil {
		t.Skipf("flock(1) of util-linux is missing: %v", err)
	}
	defer func() {
		_ = holder.Process.Kill()
		_ = holder.Wait()
	}()
	if _, err := out.Read(make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	_, err = lockState(dir)
	if err == nil {
		t.Fatal("two have the lock")
	}
	expectText(t, "error", err.Error(), "another director is running: pid "+fmt.Sprint(holder.Process.Pid)+" (flock)", dir)
	if _, err := lockState(filepath.Join(dir, "missing")); err == nil {
		t.Error("no error for a directory that there is not")
	}
	own, err := lockState(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	own.release()
}
