// SPDX-License-Identifier: Apache-2.0

package api

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestListenMakesDirectoryAndMode(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a", "b", "d.sock")
	l, err := Listen(path, ListenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	wantMode(t, filepath.Dir(path), fs.ModeDir|0o755)
	wantMode(t, path, fs.ModeSocket|0o660)
	if l.Addr().String() != path {
		t.Errorf("address %s", l.Addr())
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
	wantFiles(t, filepath.Dir(path), "d.sock.lock")
}

func TestListenGroupAndMode(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("giving a file to another group needs root")
	}
	path := filepath.Join(t.TempDir(), "d.sock")
	l, err := Listen(path, ListenOptions{Mode: 0o600, Group: 4321})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	wantMode(t, path, fs.ModeSocket|0o600)
	info, _ := os.Lstat(path)
	if gid := info.Sys().(*syscall.Stat_t).Gid; gid != 4321 {
		t.Errorf("group %d", gid)
	}
}

func wantMode(t *testing.T, path string, want fs.FileMode) {
	t.Helper()
	info, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode() != want {
		t.Errorf("%s has mode %s, want %s", path, info.Mode(), want)
	}
}

func wantFiles(t *testing.T, dir string, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("files %v, want %v", got, want)
	}
}

// TestListenTwice: the second is told who the first is.
func TestListenTwice(t *testing.T) {
	path := filepath.Join(t.TempDir(), "d.sock")
	first, err := Listen(path, ListenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	_, err = Listen(path, ListenOptions{})
	wantError(t, err, fmt.Sprintf("listen on %s: process %d (api.test) holds it", path, os.Getpid()))
	var held *HeldError
	if !errors.As(err, &held) || held.PID != os.Getpid() {
		t.Errorf("%#v", err)
	}
	wantFiles(t, filepath.Dir(path), "d.sock", "d.sock.lock")
}

// TestListenForeignHolder: one who listens without our lock is not thrown out.
func TestListenForeignHolder(t *testing.T) {
	path := filepath.Join(t.TempDir(), "d.sock")
	other, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	_, err = Listen(path, ListenOptions{})
	wantError(t, err, fmt.Sprintf("process %d (api.test) holds it", os.Getpid()))
}

func TestListenReplacesStaleSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "d.sock")
	dead, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	dead.(*net.UnixListener).SetUnlinkOnClose(false) // as kill -9 leaves it
	dead.Close()
	l, err := Listen(path, ListenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if c, err := net.Dial("unix", path); err != nil {
		t.Error(err)
	} else {
		c.Close()
	}
}

// TestListenAfterKill: a killed holder's lock and socket are no obstacle.
func TestListenAfterKill(t *testing.T) {
	path := filepath.Join(t.TempDir(), "d.sock")
	child := exec.Command(os.Args[0])
	child.Env = []string{listenChild + "=" + path}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	for range 500 {
		if c, err := net.Dial("unix", path); err == nil {
			c.Close()
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	_, err := Listen(path, ListenOptions{})
	wantError(t, err, fmt.Sprintf("process %d (", child.Process.Pid))
	_ = child.Process.Kill()
	_ = child.Wait()
	wantFiles(t, filepath.Dir(path), "d.sock", "d.sock.lock")
	l, err := Listen(path, ListenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
}

// listenChild is the variable that makes this program TestListenAfterKill's other process.
const listenChild = "API_TEST_LISTEN_CHILD"

func TestMain(m *testing.M) {
	if path, ok := os.LookupEnv(listenChild); ok {
		if _, err := Listen(path, ListenOptions{}); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		time.Sleep(30 * time.Second) // until it is killed
	}
	os.Exit(m.Run())
}

func TestListenRefuses(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	long := filepath.Join(dir, strings.Repeat("x", 120))
	for name, test := range map[string]struct{ path, want string }{
		"file in the way":     {file, "a file that is no socket is in the way"},
		"directory in no way": {filepath.Join(file, "d.sock"), "not a directory"},
		"long path":           {long, "path is longer than"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Listen(test.path, ListenOptions{})
			wantError(t, err, test.want)
		})
	}
	if text, _ := os.ReadFile(file); string(text) != "precious" {
		t.Error("the file was touched")
	}
}

// TestCloseLeavesSuccessor: closing late does not remove another's socket.
func TestCloseLeavesSuccessor(t *testing.T) {
	path := filepath.Join(t.TempDir(), "d.sock")
	l, err := Listen(path, ListenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	os.Remove(path)
	other, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	l.Close()
	wantMode(t, path, fs.ModeSocket|0o755)
}
