// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"

	"xdplvs/internal/netlab"
)

// prefix begins the names of everything that the demo makes: /run/netns/PREFIX.…, /run/PREFIX.…,
// /sys/fs/bpf/PREFIX-….
const prefix = "lvsdemo"

// Where things lie.
const (
	namespaceDir = "/run/netns"
	filesDir     = "/run"
	pinsDir      = "/sys/fs/bpf"
)

// stage is what the demo plays on. Whatever is made is entered first, so that strike finds all of it.
type stage struct {
	binary string                  // the director's
	fail   context.CancelCauseFunc // called when the director ends unasked

	lab              *netlab.Lab
	client, director *netlab.Host
	files            string // directory of configuration, socket and log
	pins             string // the director's state_dir
	daemon           *daemon
	ports            atomic.Uint32 // how many the client has used
}

func (s *stage) config() string { return filepath.Join(s.files, "director.yaml") }
func (s *stage) socket() string { return filepath.Join(s.files, "director.sock") }
func (s *stage) log() string    { return filepath.Join(s.files, "director.log") }

// build makes the network and the servers.
func (s *stage) build(ctx context.Context) (err error) {
	if s.lab, err = netlab.New(prefix); err != nil {
		return err
	}
	sw, err := s.lab.Switch("switch")
	if err != nil {
		return err
	}
	if s.client, err = s.host(ctx, sw, "client", client4, client6); err != nil {
		return err
	}
	if s.director, err = s.host(ctx, sw, "director", director4, director6); err != nil {
		return err
	}
	for _, r := range reals {
		if err := s.real(ctx, sw, r); err != nil {
			return err
		}
	}
	// The client's router to the virtual addresses is the director.
	return errors.Join(
		s.client.AddRoute(netip.PrefixFrom(vip4, vip4.BitLen()), director4, "eth0"),
		s.client.AddRoute(netip.PrefixFrom(vip6, vip6.BitLen()), director6, "eth0"),
		s.makeFiles())
}

func (s *stage) host(ctx context.Context, sw *netlab.Switch, name string, v4, v6 netip.Addr) (*netlab.Host, error) {
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	h, err := s.lab.Host(name)
	if err != nil {
		return nil, err
	}
	_, err = h.Connect(sw, "eth0", netip.PrefixFrom(v4, 24), netip.PrefixFrom(v6, 64))
	return h, err
}

// real makes a real server for direct routing, with its servers.
func (s *stage) real(ctx context.Context, sw *netlab.Switch, r real) error {
	h, err := s.host(ctx, sw, r.name, r.v4, r.v6)
	if err != nil {
		return err
	}
	if err := h.RealServerDR(vip4, vip6); err != nil {
		return err
	}
	any4, any6 := netip.IPv4Unspecified(), netip.IPv6Unspecified()
	if _, err := h.ServeHTTP(r.name, netip.AddrPortFrom(any4, 80), netip.AddrPortFrom(any6, 80)); err != nil {
		return err
	}
	_, err = h.ServeUDP(r.name, netip.AddrPortFrom(any4, 53), netip.AddrPortFrom(any6, 53))
	return err
}

// makeFiles makes the directory of files, and names that of the pins, after the director's namespace:
// a later demo knows by it whether anybody still needs them.
func (s *stage) makeFiles() error {
	name := s.director.NSName()
	s.pins = filepath.Join(pinsDir, pinsName(name))
	s.files = filepath.Join(filesDir, name)
	return os.Mkdir(s.files, 0o700)
}

// pinsName: a bpffs takes no dots. The names have no dashes of their own.
func pinsName(nsName string) string { return strings.ReplaceAll(nsName, ".", "-") }

// strike removes everything, and goes on after an error.
func (s *stage) strike() error {
	var errs []error
	if s.daemon != nil {
		errs = append(errs, s.daemon.stop())
	}
	if s.pins != "" {
		errs = append(errs, os.RemoveAll(s.pins))
	}
	if s.files != "" {
		errs = append(errs, os.RemoveAll(s.files))
	}
	if s.lab != nil {
		errs = append(errs, s.lab.Close())
	}
	return errors.Join(errs...)
}

// logTail is how many lines of the director's log a failure shows.
const logTail = 15

// showLog prints the end of the director's log, if there is one.
func (s *stage) showLog(w io.Writer) {
	if s.files == "" {
		return
	}
	text, err := os.ReadFile(s.log())
	if err != nil || len(text) == 0 {
		return
	}
	lines := strings.SplitAfter(strings.TrimSuffix(string(text), "\n"), "\n")
	fmt.Fprintf(w, "\nThe end of the director's log:\n    %s\n",
		strings.Join(lines[max(0, len(lines)-logTail):], "    "))
}

// removeStale removes what a demo left behind that was killed (SIGKILL).
func removeStale() error {
	errs := []error{netlab.CleanStale(prefix)}
	files, _ := filepath.Glob(filepath.Join(filesDir, prefix+".*")) // fails on a bad pattern only
	pins, _ := filepath.Glob(filepath.Join(pinsDir, prefix+"-*"))
	for _, path := range append(files, pins...) {
		nsName := strings.ReplaceAll(filepath.Base(path), "-", ".")
		if _, err := os.Stat(filepath.Join(namespaceDir, nsName)); errors.Is(err, os.ErrNotExist) {
			errs = append(errs, os.RemoveAll(path))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("remove what a former demo left: %w", err)
	}
	return nil
}
