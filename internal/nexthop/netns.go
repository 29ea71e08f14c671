// SPDX-License-Identifier: Apache-2.0

package nexthop

import (
	"fmt"
	"runtime"

	"github.com/vishvananda/netns"
)

// A namespace is a network namespace in which sockets are opened, from whatever thread.
type namespace struct{ handle netns.NsHandle }

// currentNamespace takes hold of the namespace of the calling thread.
func currentNamespace() (namespace, error) {
	runtime.LockOSThread() // Get names the thread to /proc
	defer runtime.UnlockOSThread()
	handle, err := netns.Get()
	if err != nil {
		return namespace{}, fmt.Errorf("get network namespace: %w", err)
	}
	return namespace{handle}, nil
}

func (n namespace) close() { n.handle.Close() }

// do calls f in the namespace, on a goroutine of its own: its thread can be thrown away should it
// not find back.
func (n namespace) do(f func() error) error {
	done := make(chan error, 1)
	go func() { done <- n.inside(f) }()
	return <-done
}

// inside calls f on this goroutine's thread, which ends with the goroutine if its own namespace
// cannot be restored (a goroutine that ends locked takes its thread along).
func (n namespace) inside(f func() error) error {
	runtime.LockOSThread()
	home, err := netns.Get()
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("get network namespace: %w", err)
	}
	defer home.Close()
	if home.Equal(n.handle) { // setns would need CAP_SYS_ADMIN
		defer runtime.UnlockOSThread()
		return f()
	}
	if err := netns.Set(n.handle); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("enter network namespace: %w", err)
	}
	defer func() {
		if netns.Set(home) == nil {
			runtime.UnlockOSThread()
		}
	}()
	return f()
}
