// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"xdplvs/bpf"
	"xdplvs/configs"
	"xdplvs/director"
	"xdplvs/internal/health"
	notification "xdplvs/internal/notify"
	"xdplvs/internal/testkit"
	"xdplvs/internal/vip"
)

// manager is a service manager that is notified.
type manager struct {
	t    *testing.T
	conn *net.UnixConn
}

// newManager sets NOTIFY_SOCKET.
func newManager(t *testing.T) *manager {
	t.Helper()
	dir, err := os.MkdirTemp("", "dn") // t.TempDir's names are too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close()
		os.RemoveAll(dir)
	})
	t.Setenv("NOTIFY_SOCKET", path)
	return &manager{t, conn}
}

// next is the next message.
func (m *manager) next() string {
	m.t.Helper()
	b := make([]byte, 4096)
	if err := m.conn.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		m.t.Fatal(err)
	}
	n, err := m.conn.Read(b)
	if err != nil {
		m.t.Fatalf("wait for a notification: %v", err)
	}
	return string(b[:n])
}

// expectReload reads the two messages of a reload and returns the status.
func (m *manager) expectReload() string {
	m.t.Helper()
	begin, end := m.next(), m.next()
	var usec uint64
	if n, err := fmt.Sscanf(begin, "RELOADING=1\nMONOTONIC_USEC=%d", &usec); n != 1 || usec == 0 {
		m.t.Errorf("a reload begins with %q (%v)", begin, err)
	}
	status, ok := strings.CutPrefix(end, "READY=1\nSTATUS=")
	if !ok {
		m.t.Errorf("a reload ends with %q", end)
	}
	return status
}

// half is a daemon without a kernel: a configuration and a director on tables in
// memory.
type half struct {
	*daemon
	t    *testing.T
	file string
	log  *testkit.Log
}

func newHalf(t *testing.T, config string) *half {
	t.Helper()
	h := &half{t: t, file: filepath.Join(t.TempDir(), "director.yaml"), log: &testkit.Log{}}
	h.write(config)
	loaded, err := configs.Load(h.file)
	if err != nil {
		t.Fatal(err)
	}
	h.daemon = &daemon{opts: Options{ConfigFile: h.file}, log: h.log.Logger(), config: loaded, watched: newWatched(),
		changesFile: filepath.Join(filepath.Dir(h.file), "changes.json")}
	h.recall()
	h.director = director.New(director.Options{
		Log: h.daemon.log, Tables: memory(t, loaded.Limits), Plane: noPlane{}, Clock: standClock{},
		Links: func(string) (director.Entrance, error) { return director.Entrance{}, nil },
	})
	ctx, cancel := context.WithCancel(context.Background())
	h.door, h.probes = &noDoor{}, &noDoor{}
	h.addresses = vip.New(vip.Options{Answers: noAnswers{}, File: filepath.Join(t.TempDir(), "addresses.json")})
	h.notifier = notification.New(h.daemon.log)
	h.health = health.New(health.Options{File: filepath.Join(t.TempDir(), "health.json"), Apply: h.director.SetHealth})
	var parts errgroup.Group
	parts.Go(func() error { return h.director.Run(ctx) })
	parts.Go(func() error { return h.addresses.Run(ctx) })
	parts.Go(func() error { return h.health.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		if err := parts.Wait(); err != nil {
			t.Error(err)
		}
	})
	if err := h.director.Set(t.Context(), h.doc.desired()); err != nil {
		t.Fatal(err)
	}
	return h
}

// memory makes small tables.
func memory(t *testing.T, limits director.Limits) *bpf.Tables {
	t.Helper()
	s := sizes(limits)
	s.Conns4, s.Conns6, s.CPUs = 64, 64, 1
	tables, err := bpf.NewMemoryTables(s)
	if err != nil {
		t.Fatal(err)
	}
	return tables
}

// recall reads the changes of a former run.
func (h *half) recall() {
	h.t.Helper()
	text, err := configs.Read(h.file)
	if err == nil {
		err = h.daemon.recall(text)
	}
	if err != nil {
		h.t.Fatal(err)
	}
}

// write replaces the file in one step, as an editor does.
func (h *half) write(config string) {
	h.t.Helper()
	next := h.file + ".new"
	if err := os.WriteFile(next, []byte(config), 0o600); err != nil {
		h.t.Fatal(err)
	}
	if err := os.Rename(next, h.file); err != nil {
		h.t.Fatal(err)
	}
}

func (h *half) snapshot() *director.Snapshot {
	h.t.Helper()
	s, err := h.director.Snapshot(h.t.Context())
	if err != nil {
		h.t.Fatal(err)
	}
	return s
}

// weighing is a configuration with one service, known by its weight.
func weighing(weight int) string {
	return fmt.Sprintf(`interfaces: [eth0]
services:
  - virtual: 192.0.2.1:80
    reals: [{address: 10.0.0.1, weight: %d}]
`, weight)
}

func (h *half) weight() uint32 {
	h.t.Helper()
	return h.snapshot().Services[0].Reals[0].Weight
}

func expectText(t *testing.T, what, text string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(text, part) {
			t.Errorf("%s is %q, it does not have %q", what, text, part)
		}
	}
}
