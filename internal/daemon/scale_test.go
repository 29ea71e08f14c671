// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"xdplvs/bpf"
	"xdplvs/configs"
	"xdplvs/director"
)

// standClock is a clock that stands still.
type standClock struct{}

func (standClock) Now() (uint32, error)           { return 0, nil }
func (standClock) Jiffies(d time.Duration) uint32 { return uint32(d.Milliseconds()) }
func (standClock) Duration(j int32) time.Duration { return time.Duration(j) * time.Millisecond }

// manyServices is a configuration of n services with 4 real servers each.
func manyServices(n int) []byte {
	var b strings.Builder
	b.WriteString("interfaces: [eth0]\nservices:\n")
	for i := range n {
		a, c := i>>8, i&0xff
		fmt.Fprintf(&b, "  - {virtual: \"198.18.%d.%d:80\", scheduler: wrr, reals: [10.%d.%d.1, 10.%d.%d.2, 10.%d.%d.3, 10.%d.%d.4]}\n", a, c, a, c, a, c, a, c, a, c)
	}
	return []byte(b.String())
}

// watch tells how long something took: by the clock, or, where others have the processors, of processor time.
func watch(t *testing.T) func() time.Duration {
	cpu := func() time.Duration {
		var use unix.Rusage
		if err := unix.Getrusage(unix.RUSAGE_SELF, &use); err != nil {
			t.Fatal(err)
		}
		return time.Duration(use.Utime.Nano() + use.Stime.Nano())
	}
	began, used := time.Now(), cpu()
	return func() time.Duration { return min(time.Since(began), cpu()-used) }
}

// Ten thousand services with four real servers each are read, checked and in
// force in under two seconds.
func TestTenThousandServices(t *testing.T) {
	text := manyServices(10000)
	limit := 2 * time.Second
	if raceEnabled {
		limit *= 10
	}
	parse := watch(t)
	config, err := configs.Parse("many.yaml", text)
	if err != nil {
		t.Fatal(err)
	}
	parsed := parse()
	s := sizes(config.Limits)
	s.CPUs = 2
	tables, err := bpf.NewMemoryTables(s)
	if err != nil {
		t.Fatal(err)
	}
	apply := watch(t)
	d := director.New(director.Options{
		Log: slog.New(slog.DiscardHandler), Tables: tables, Plane: noPlane{}, Clock: standClock{},
		Links: func(string) (director.Entrance, error) { return director.Entrance{}, nil },
	})
	ctx := t.Context()
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	if err := d.Set(ctx, config.Desired); err != nil {
		t.Fatal(err)
	}
	applied := apply()
	t.Logf("parsed in %v, in force after another %v", parsed.Round(time.Millisecond), applied.Round(time.Millisecond))
	if parsed+applied > limit {
		t.Errorf("took %v, at most %v", parsed+applied, limit)
	}
	begun := time.Now()
	config.Desired.Services[5000].Reals[0].Weight = 7
	if err := d.Set(ctx, config.Desired); err != nil {
		t.Fatal(err)
	}
	t.Logf("one weight changed in %v", time.Since(begun).Round(time.Millisecond))
}

// noPlane is a data plane without a kernel.
type noPlane struct{}

type nowhere struct{}

func (nowhere) AttachedMode() director.AttachMode { return director.AttachNative }

func (noPlane) Attach(int, director.AttachMode) (director.Attachment, error) { return nowhere{}, nil }
func (noPlane) Detach(director.Attachment) error                             { return nil }
func (noPlane) DetachOthers(map[int]bool) error                              { return nil }
func (noPlane) SetTxPort(uint16, int) error                                  { return nil }
func (noPlane) Verdicts() (map[string]uint64, error)                         { return nil, nil }
func (noPlane) Overflow(func(*bpf.ConnKey, *bpf.Conn) bool) error            { return nil }
func (noPlane) SweepOverflow() error                                         { return nil }
func (noPlane) ForgetDestination(*bpf.DestinationKey) error                  { return nil }
func (noPlane) SetClosed(map[netip.Addr]uint32) error                        { return nil }
func (noPlane) Closed() (map[netip.Addr]uint32, error)                       { return nil, nil }
func (noPlane) TxPort(uint16) (int, error)                                   { return 0, nil }
func (noPlane) Repair(director.Attachment) (bool, error)                     { return false, nil }
func (noPlane) RepairPins() (int, error)                                     { return 0, nil }

func (noPlane) Destinations(func(*bpf.DestinationKey, *bpf.Destination) bool) error {
	return nil
}
func (noPlane) FreeOverflow(*bpf.ConnKey) error { return nil }

func (noPlane) ExplainMark(bpf.MarkQuestion) (bpf.MarkAnswer, error) { return bpf.MarkAnswer{}, nil }
