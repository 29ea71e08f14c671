// SPDX-License-Identifier: Apache-2.0

// Package netlab builds small networks out of Linux network namespaces: hosts, switches and the
// wires between them, with real servers to talk to. The end-to-end tests, the demo and the
// benchmarks run in it. It needs root.
//
// A namespace is named, so that a person can look inside while a test runs:
//
//	ip netns list
//	ip netns exec e2e.4711.8kz0.x3f1.client tcpdump -ni eth0
//
// Every wire carries frames that are at most MTU-sized and have finished checksums, as a physical
// one would; see offload.go for how, and why XDP programs need it.
package netlab

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
)

// Lab is a set of namespaces that belongs to one test, demo or benchmark. Its methods, and those of
// everything made from it, may be called from any goroutine.
type Lab struct {
	owner  owner
	prefix string
	random string

	creating sync.Mutex // held while a host is made, so that Close finds it whole

	// mu guards what follows and keeps the hosts' descriptors open: they are used under the shared
	// lock, closed under the other, for a closed number soon means another file.
	mu      sync.RWMutex
	hosts   []*Host
	closers []io.Closer // ended by Close, last first
	closed  bool
}

// errClosed is wrapped by what is asked of a lab, or of one of its hosts, after Close.
var errClosed = fmt.Errorf("lab is closed: %w", os.ErrClosed)

// validName restricts prefixes and host names to what is safe in a file name and holds no dot,
// because the dot separates the fields of a namespace's name.
var validName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$`)

// New returns an empty lab whose namespaces are called prefix.PID.START.RANDOM.HOST; PID and START
// (clock ticks since boot, base 36) identify the owner, this process, to CleanStale. The prefix
// consists of letters, digits, "-" and "_". The error wraps os.ErrPermission without root.
func New(prefix string) (*Lab, error) {
	if os.Geteuid() != 0 {
		return nil, fmt.Errorf("new lab %q: needs root: %w", prefix, os.ErrPermission)
	}
	if !validName.MatchString(prefix) {
		return nil, fmt.Errorf("new lab %q: prefix does not match %v", prefix, validName)
	}
	self, err := ownerOf(os.Getpid())
	if err != nil {
		return nil, fmt.Errorf("new lab %q: %w", prefix, err)
	}
	if err := shareNamespaceDir(); err != nil {
		return nil, fmt.Errorf("new lab %q: %w", prefix, err)
	}
	return &Lab{owner: self, prefix: prefix, random: strings.ToLower(rand.Text()[:6])}, nil
}

// Close ends the lab's servers and listeners, kills every process that runs inside its namespaces (a
// person's shell too) and removes the namespaces. It goes on after an error and returns all of them
// joined; a second call does nothing and returns nil. It may be called while another goroutine still
// builds the lab: that one gets an error which wraps os.ErrClosed. Connections from DialContext
// belong to the caller: the kernel keeps a namespace, nameless, until the last of them is closed.
func (l *Lab) Close() error {
	hosts, closers := l.takeAll()
	var errs []error
	for _, c := range slices.Backward(closers) {
		if err := c.Close(); err != nil && !errors.Is(err, os.ErrClosed) && !isNetClosed(err) {
			errs = append(errs, err)
		}
	}
	errs = append(errs, killInside(namesOf(hosts)))
	for _, h := range slices.Backward(hosts) {
		errs = append(errs, h.release(), removeNamespace(h.nsName))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("close lab %q: %w", l.prefix, err)
	}
	return nil
}

// takeAll marks the lab closed and hands over what it owned, the first time only.
func (l *Lab) takeAll() ([]*Host, []io.Closer) {
	l.creating.Lock()
	defer l.creating.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	hosts, closers := l.hosts, l.closers
	l.hosts, l.closers, l.closed = nil, nil, true
	return hosts, closers
}

// track makes Close close c. On a lab that is already closed it closes c itself and returns an error
// that wraps os.ErrClosed.
func (l *Lab) track(c io.Closer) error {
	l.mu.Lock()
	closed := l.closed
	if !closed {
		l.closers = append(l.closers, c)
	}
	l.mu.Unlock()
	if closed {
		return errors.Join(errClosed, c.Close())
	}
	return nil
}

// ended tells whether Close was called.
func (l *Lab) ended() bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.closed
}

// add enters h into the lab, or fails if the lab is closed or the name is taken.
func (l *Lab) add(h *Host) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return errClosed
	}
	for _, other := range l.hosts {
		if other.name == h.name {
			return fmt.Errorf("name is taken: %w", os.ErrExist)
		}
	}
	l.hosts = append(l.hosts, h)
	return nil
}

func namesOf(hosts []*Host) []string {
	names := make([]string, len(hosts))
	for i, h := range hosts {
		names[i] = h.nsName
	}
	return names
}
