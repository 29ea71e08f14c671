// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// held is the lock that one director of a state has.
type held struct{ file *os.File }

// lockName is the file that daemons lock, beside their socket.
const lockName = "director.pid"

// lock makes sure that no other director works on the same state. The lock
// lies beside the socket; the kernel gives it up when the process ends.
func lock(socket string) (*held, error) {
	path := filepath.Join(filepath.Dir(socket), lockName)
	for {
		h, err := lockAt(path)
		if err != nil || h.isAt(path) {
			return h, err
		}
		h.release() // its last holder has removed the file meanwhile
	}
}

func lockAt(path string) (*held, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("make run directory: %w", err)
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		defer f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("another director is running: %s holds %s", holder(path), path)
		}
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	if err := errors.Join(f.Truncate(0), write(f, fmt.Sprintf("%d\n", os.Getpid()))); err != nil {
		return nil, errors.Join(fmt.Errorf("write %s: %w", path, err), f.Close())
	}
	return &held{f}, nil
}

// lockState makes sure that no other director works on the same pinned state,
// whatever its socket: the lock is on the directory itself.
func lockState(dir string) (*held, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("open state: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		defer f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("another director is running: %s holds %s", locker(f), dir)
		}
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	return &held{f}, nil
}

// locker names the process that holds a lock on the file, which the kernel
// lists by inode (proc(5), /proc/locks).
func locker(f *os.File) string {
	var stat unix.Stat_t
	locks, err := os.ReadFile("/proc/locks")
	if err != nil || unix.Fstat(int(f.Fd()), &stat) != nil {
		return "another process"
	}
	inode := fmt.Sprintf("%02x:%02x:%d", unix.Major(stat.Dev), unix.Minor(stat.Dev), stat.Ino)
	for line := range strings.Lines(string(locks)) {
		if fields := strings.Fields(line); len(fields) > 5 && fields[5] == inode && fields[1] == "FLOCK" {
			return process(fields[4])
		}
	}
	return "another process"
}

// process is a process as people look for it: "pid 4711 (director)".
func process(pid string) string {
	name, err := os.ReadFile("/proc/" + pid + "/comm")
	if err != nil {
		return "pid " + pid
	}
	return fmt.Sprintf("pid %s (%s)", pid, strings.TrimSpace(string(name)))
}

func write(f *os.File, text string) error {
	_, err := f.WriteAt([]byte(text), 0)
	return err
}

// holder names the process that wrote the lock, as "pid 4711 (director)".
func holder(path string) string {
	text, err := os.ReadFile(path)
	pid := strings.TrimSpace(string(text))
	if err != nil || pid == "" {
		return "a process that has not written its number yet"
	}
	return process(pid)
}

func (h *held) release() { h.file.Close() }

// isAt reports whether the locked file has the path still.
func (h *held) isAt(path string) bool {
	mine, err := h.file.Stat()
	there, err2 := os.Lstat(path)
	return err == nil && err2 == nil && os.SameFile(mine, there)
}
