// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ListenOptions are the rights of the socket's file. The server checks every
// peer besides: the file's rights only decide who reaches it. A file has one
// group, so where ServerOptions name two, those who may change things must be
// members of the readers' group as well.
type ListenOptions struct {
	Mode  fs.FileMode // 0: 0660
	Group uint32      // gid the file belongs to; 0: the process's own
}

// maxSocketPath is sun_path's size without its final zero (unix(7)).
const maxSocketPath = 107

// Listen listens on a unix socket at path. It makes the directory (0755) if it
// is missing. A socket that nobody answers on is replaced; one that somebody
// does, or a file of another kind, is an error that says who or what is there.
// The socket appears at path at once with its final owner and mode. PATH.lock
// is held until the listener is closed, so that of two that start together one wins.
func Listen(path string, opts ListenOptions) (net.Listener, error) {
	l, err := listen(path, opts)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	return l, nil
}

func listen(path string, opts ListenOptions) (net.Listener, error) {
	temporary := fmt.Sprintf("%s.%d", path, os.Getpid())
	if len(temporary) > maxSocketPath {
		return nil, fmt.Errorf("path is longer than %d bytes", maxSocketPath-len(temporary)+len(path))
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	lock, err := lockFile(path + ".lock")
	if err != nil {
		return nil, err
	}
	l, err := listenLocked(path, temporary, opts)
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	l.lock = lock
	return l, nil
}

func listenLocked(path, temporary string, opts ListenOptions) (*listener, error) {
	if err := checkFree(path); err != nil {
		return nil, err
	}
	socket, err := bindPrivate(temporary)
	if err != nil {
		return nil, err
	}
	l := &listener{UnixListener: socket, path: path}
	if err := l.publish(temporary, opts); err != nil {
		return nil, errors.Join(err, socket.Close(), os.Remove(temporary))
	}
	return l, nil
}

// bindPrivate binds a socket that its owner alone can open. The kernel gives
// the file the mode of the socket's own inode, so that fchmod before bind
// leaves no moment in which others could connect.
func bindPrivate(path string) (*net.UnixListener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	config := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var chmod error
		err := raw.Control(func(fd uintptr) { chmod = unix.Fchmod(int(fd), 0o600) })
		return errors.Join(err, chmod)
	}}
	l, err := config.Listen(context.Background(), "unix", path)
	if err != nil {
		return nil, err
	}
	socket := l.(*net.UnixListener)
	socket.SetUnlinkOnClose(false) // it is renamed; listener.Close removes it
	return socket, nil
}

// listener is a socket at its final path. It removes its file when it is closed.
type listener struct {
	*net.UnixListener
	path  string
	file  fs.FileInfo // of our socket, so that a successor's is not removed
	lock  *os.File
	close sync.Once
}

// publish gives the socket its owner, mode and name, in this order.
func (l *listener) publish(temporary string, opts ListenOptions) (err error) {
	if opts.Group != 0 {
		if err := os.Chown(temporary, -1, int(opts.Group)); err != nil {
			return err
		}
	}
	mode := opts.Mode
	if mode == 0 {
		mode = 0o660
	}
	if err := os.Chmod(temporary, mode); err != nil {
		return err
	}
	if l.file, err = os.Lstat(temporary); err != nil {
		return err
	}
	return os.Rename(temporary, l.path)
}

// Addr is the path that clients use.
func (l *listener) Addr() net.Addr { return &net.UnixAddr{Name: l.path, Net: "unix"} }

// Close stops listening, removes the socket's file and gives the lock back.
func (l *listener) Close() (err error) {
	l.close.Do(func() {
		if now, statErr := os.Lstat(l.path); statErr == nil && os.SameFile(now, l.file) {
			err = os.Remove(l.path)
		}
		err = errors.Join(err, l.UnixListener.Close(), l.lock.Close())
	})
	return err
}

// checkFree tells whether path may be taken: nothing is there, or a socket
// that refuses connections.
func checkFree(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode().Type() != fs.ModeSocket {
		return errors.New("a file that is no socket is in the way")
	}
	conn, err := net.DialTimeout("unix", path, time.Second)
	if errors.Is(err, unix.ECONNREFUSED) {
		return nil
	}
	if err != nil { // no permission, or too busy to accept: not ours to remove
		return fmt.Errorf("ask who holds it: %w", cause(err))
	}
	defer conn.Close()
	return heldError(listenerPID(conn))
}

// listenerPID is the process that listens at the other end, 0 if unknown.
func listenerPID(conn net.Conn) int {
	p, err := peerOf(conn)
	if err != nil {
		return 0
	}
	return int(p.pid)
}

// lockFile takes the lock, or says who holds it. The file stays: removing a
// lock file while another waits for it would give two holders.
func lockFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = heldError(lockHolder(path))
	} else if err == nil {
		err = writeHolder(f)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func writeHolder(f *os.File) error {
	if err := f.Truncate(0); err != nil {
		return err
	}
	_, err := f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	return err
}

func lockHolder(path string) int {
	text, _ := os.ReadFile(path)
	pid, _ := strconv.Atoi(strings.TrimSpace(string(text)))
	return pid
}

// HeldError says that another process listens on the socket already.
type HeldError struct {
	PID     int    // 0: unknown
	Command string // its name, as ps shows it; may be empty
}

func heldError(pid int) error {
	comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	return &HeldError{PID: pid, Command: strings.TrimSpace(string(comm))}
}

// Error names the holder.
func (e *HeldError) Error() string {
	switch {
	case e.PID == 0:
		return "another process holds it"
	case e.Command == "":
		return fmt.Sprintf("process %d holds it", e.PID)
	default:
		return fmt.Sprintf("process %d (%s) holds it", e.PID, e.Command)
	}
}

// cause is the system's own error behind net's wrapping, which repeats the path.
func cause(err error) error {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return errno
	}
	return err
}
