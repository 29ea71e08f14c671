// SPDX-License-Identifier: Apache-2.0

package netlab

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"
)

// namespaceDir is where iproute2 looks for named namespaces.
const namespaceDir = "/run/netns"

func namespacePath(nsName string) string { return filepath.Join(namespaceDir, nsName) }

// shareNamespaceDir makes namespaceDir a shared mount point, as `ip netns add` does. If we left that
// to ip, its bind mount would cover namespaces we had mounted before, and those could then no longer
// be removed (EBUSY).
func shareNamespaceDir() error {
	if err := os.MkdirAll(namespaceDir, 0o755); err != nil {
		return fmt.Errorf("make namespace directory: %w", err)
	}
	dir, err := os.Open(namespaceDir)
	if err != nil {
		return fmt.Errorf("open namespace directory: %w", err)
	}
	defer dir.Close()
	// iproute2 takes the same lock; without it two labs could both add a mount.
	if err := unix.Flock(int(dir.Fd()), unix.LOCK_EX); err != nil {
		return fmt.Errorf("lock %s: %w", namespaceDir, err)
	}
	err = unix.Mount("", namespaceDir, "none", unix.MS_SHARED|unix.MS_REC, "")
	if errors.Is(err, unix.EINVAL) { // not a mount point yet
		if err := unix.Mount(namespaceDir, namespaceDir, "none", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			return fmt.Errorf("bind %s to itself: %w", namespaceDir, err)
		}
		err = unix.Mount("", namespaceDir, "none", unix.MS_SHARED|unix.MS_REC, "")
	}
	if err != nil {
		return fmt.Errorf("share mount %s: %w", namespaceDir, err)
	}
	return nil
}

// createNamespace makes a named network namespace and returns a file descriptor of it. On an error
// nothing is left behind.
func createNamespace(nsName string) (fd int, err error) {
	path := namespacePath(nsName)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDONLY, 0o444)
	if err != nil {
		return -1, fmt.Errorf("create namespace: %w", err)
	}
	f.Close()
	if err := mountNewNamespace(path); err != nil {
		return -1, errors.Join(fmt.Errorf("create namespace: %w", err), os.Remove(path))
	}
	fd, err = unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, errors.Join(fmt.Errorf("open namespace %s: %w", nsName, err), removeNamespace(nsName))
	}
	return fd, nil
}

// mountNewNamespace binds a new network namespace to path. It does so on a thread of its own that
// ends with the goroutine, because that thread is never unlocked.
func mountNewNamespace(path string) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			result <- fmt.Errorf("unshare: %w", err)
			return
		}
		if err := unix.Mount("/proc/thread-self/ns/net", path, "none", unix.MS_BIND, ""); err != nil {
			result <- fmt.Errorf("mount %s: %w", path, err)
			return
		}
		result <- nil
	}()
	return <-result
}

// removeNamespace takes the name away; the kernel removes the namespace itself when nothing uses it
// any more. A namespace that is already gone is no error.
func removeNamespace(nsName string) error {
	path := namespacePath(nsName)
	err := unix.Unmount(path, unix.MNT_DETACH)
	// EINVAL: a file without a mount, left by a run that died between creating and mounting.
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unmount %s: %w", path, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove namespace: %w", err)
	}
	return nil
}

// within runs fn on the calling goroutine with its thread moved into the namespace that enter sets,
// and moves the thread back. If that fails the thread stays locked to the goroutine and dies with
// it, so that no other goroutine ever runs in the wrong namespace.
func within(enter func() error, fn func() error) (err error) {
	runtime.LockOSThread()
	old, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("open current namespace: %w", err)
	}
	if err := enter(); err != nil {
		unix.Close(old)
		runtime.UnlockOSThread()
		return err
	}
	// Deferred, so that it also happens when fn panics or ends the goroutine (testing.T.FailNow).
	defer func() {
		back := unix.Setns(old, unix.CLONE_NEWNET)
		unix.Close(old)
		if back != nil {
			err = errors.Join(err, fmt.Errorf("return to previous namespace: %w", back))
			return
		}
		runtime.UnlockOSThread()
	}()
	return fn()
}
