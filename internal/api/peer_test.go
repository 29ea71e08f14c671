// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

func TestRoleOf(t *testing.T) {
	opts := ServerOptions{AdminGroup: 10, ReadGroup: 20}
	own := uint32(os.Geteuid())
	for name, test := range map[string]struct {
		opts ServerOptions
		peer peer
		want role
	}{
		"root":                    {opts, peer{uid: 0, groups: []uint32{0}}, admin},
		"own user":                {opts, peer{uid: own, groups: []uint32{99}}, admin},
		"admin by primary group":  {opts, peer{uid: 4000, groups: []uint32{10}}, admin},
		"admin by a second group": {opts, peer{uid: 4000, groups: []uint32{99, 10, 20}}, admin},
		"reader":                  {opts, peer{uid: 4000, groups: []uint32{99, 20}}, reader},
		"stranger":                {opts, peer{uid: 4000, groups: []uint32{99}}, nobody},
		"no groups configured":    {ServerOptions{}, peer{uid: 4000, groups: []uint32{10, 20}}, nobody},
		"root's group is no key":  {ServerOptions{}, peer{uid: 4000, groups: []uint32{0}}, nobody},
	} {
		t.Run(name, func(t *testing.T) {
			if got := test.opts.roleOf(&test.peer); got != test.want {
				t.Errorf("role %d, want %d", got, test.want)
			}
		})
	}
}

func TestLookupGroup(t *testing.T) {
	for text, want := range map[string]uint32{"root": 0, "4321": 4321} {
		if got, err := LookupGroup(text); got != want || err != nil {
			t.Errorf("%s: %d, %v", text, got, err)
		}
	}
	_, err := LookupGroup("no-such-group")
	wantError(t, err, `look up group "no-such-group": no such group`)
}

// TestAccess asks as other users, through the kernel's credentials.
func TestAccess(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("becoming other users needs root")
	}
	reloads := 0
	b := &fakeBackend{conns: 1, snapshot: bigSnapshot(1, 1), reload: func(context.Context) error { reloads++; return nil }}
	path, _ := start(t, b, ServerOptions{AdminGroup: 54310, ReadGroup: 54320})
	openPath(t, path)
	for name, test := range map[string]struct {
		uid, gid     int
		groups       []uint32
		read, change int
		text         string
	}{
		"root":     {0, 0, nil, 200, 200, ""},
		"admin":    {54000, 54310, nil, 200, 200, ""},
		"admin 2":  {54000, 54999, []uint32{1, 2, 54310}, 200, 200, ""},
		"many":     {54000, 54999, append(manyGroups(100), 54310), 200, 200, ""},
		"reader":   {54000, 54320, nil, 200, 403, "uid 54000 may not change: that is for root, members of group 54310"},
		"reader 2": {54000, 54999, []uint32{54320}, 200, 403, "uid 54000 may not change"},
		"stranger": {54000, 54999, nil, 403, 403, "uid 54000 may not read: that is for root, members of group 54320, members of group 54310"},
	} {
		t.Run(name, func(t *testing.T) {
			before := reloads
			dial := dialAs(path, test.uid, test.gid, test.groups)
			wantAnswer(t, dial, http.MethodGet, pathSnapshot, test.read, "")
			wantAnswer(t, dial, http.MethodGet, pathConnections, test.read, "")
			wantAnswer(t, dial, http.MethodGet, pathTimeouts, test.read, "")
			wantAnswer(t, dial, http.MethodPost, pathReload, test.change, test.text)
			wantAnswer(t, dial, http.MethodDelete, pathConnections+"?all=true", test.change, test.text)
			if test.change == 403 {
				wantAnswer(t, dial, http.MethodPatch, pathTimeouts, 403, test.text)
			}
			if done := reloads - before; (done == 1) != (test.change == 200) {
				t.Errorf("%d reloads", done)
			}
		})
	}
}

// openPath lets everybody reach the socket: the server's own check is what is tested.
func openPath(t *testing.T, path string) {
	t.Helper()
	if err := os.Chmod(path, 0o666); err != nil {
		t.Fatal(err)
	}
	for dir := filepath.Dir(path); dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

func manyGroups(n int) (groups []uint32) {
	for i := range n {
		groups = append(groups, uint32(60000+i))
	}
	return groups
}

func wantAnswer(t *testing.T, dial func(context.Context, string, string) (net.Conn, error), method, path string, want int, text string) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}
	req, _ := http.NewRequest(method, "http://director"+path, nil)
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	if resp.StatusCode != want || !strings.Contains(string(body), text) {
		t.Errorf("%s %s: %s %s, want %d %s", method, path, resp.Status, body, want, text)
	}
}

// dialAs connects as another user. Credentials belong to a thread in Linux:
// the one that is changed ends with its goroutine, which never unlocks it.
func dialAs(path string, uid, gid int, groups []uint32) func(context.Context, string, string) (net.Conn, error) {
	return func(context.Context, string, string) (c net.Conn, err error) {
		done := make(chan struct{})
		go func() {
			defer close(done)
			runtime.LockOSThread()
			if err = become(uid, gid, groups); err == nil {
				c, err = rawDial(path)
			}
		}()
		<-done
		return c, err
	}
}

func become(uid, gid int, groups []uint32) error {
	var first unsafe.Pointer
	if len(groups) > 0 {
		first = unsafe.Pointer(&groups[0])
	}
	_, _, e1 := syscall.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(groups)), uintptr(first), 0)
	_, _, e2 := syscall.RawSyscall(unix.SYS_SETRESGID, uintptr(gid), uintptr(gid), uintptr(gid))
	_, _, e3 := syscall.RawSyscall(unix.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid))
	for _, errno := range []syscall.Errno{e1, e2, e3} {
		if errno != 0 {
			return errno
		}
	}
	return nil
}

func rawDial(path string) (net.Conn, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "socket")
	defer f.Close()
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		return nil, err
	}
	return net.FileConn(f)
}

// TestNoCredentials: a listener that is no unix socket serves nobody.
func TestNoCredentials(t *testing.T) {
	before := runtime.NumGoroutine()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	serve(t, l, &fakeBackend{}, ServerOptions{}, before)
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", l.Addr().String())
	}
	wantAnswer(t, dial, http.MethodGet, pathVersion, 403, "the kernel does not tell who asks")
	_, err = peerOf(&net.TCPConn{})
	if err == nil || errors.Is(err, unix.ENOTSOCK) {
		t.Errorf("peerOf: %v", err)
	}
}
