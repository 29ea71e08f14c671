// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// What a client gets while no real server can take its connection.
func TestAnswers(t *testing.T) {
	t.Parallel()
	f := newFarm(t, 1)
	for _, family := range families {
		must(t, f.director.AddAddr("lo", netip.PrefixFrom(family.vip, family.vip.BitLen())))
	}
	get(f.director.ServeHTTP("director", everywhere(3000)...))(t)
	answers := []struct {
		name string
		port uint16
		wait time.Duration
		want error // of the client's connect; nil: the director's own stack answers
	}{
		{"unreachable", 1000, patience, unix.ECONNREFUSED},
		{"reset", 2000, patience, unix.ECONNREFUSED},
		{"pass", 3000, patience, nil},
		{"drop", 4000, 300 * time.Millisecond, os.ErrDeadlineExceeded},
	}
	var services []service
	for _, a := range answers {
		pair := both(a.name, "tcp", a.port, "rr", 0)
		pair[0].keys, pair[1].keys = "answer: "+a.name, "answer: "+a.name
		services = append(services, pair...)
	}
	f.configure(services...)
	f.start()
	for _, family := range families {
		for _, a := range answers {
			t.Run(family.name+" "+a.name, func(t *testing.T) {
				f := f.on(t)
				if err := f.connectTo(netip.AddrPortFrom(family.vip, a.port), a.wait); !errors.Is(err, a.want) {
					t.Errorf("connect: %v, want %v", err, a.want)
				}
				if s := f.service(ofFamily(a.name, family.vip)); s.NoReal == 0 || s.Counters.Conns != 0 {
					t.Errorf("service counts %d packets without a real server and %d connections, want some and 0", s.NoReal, s.Counters.Conns)
				}
			})
		}
	}
	if t.Failed() {
		t.Logf("verdicts:\n%s", f.output("stats", "--verdicts"))
	}
}

// connectTo makes a TCP connection of the client's and closes it. Without an answer within the wait
// the error is os.ErrDeadlineExceeded.
func (f *farm) connectTo(addr netip.AddrPort, wait time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), wait)
	defer cancel()
	conn, err := f.client.DialContext(ctx, "tcp", addr.String())
	var late net.Error
	switch {
	case err == nil:
		return conn.Close()
	case errors.As(err, &late) && late.Timeout(), ctx.Err() != nil:
		return os.ErrDeadlineExceeded
	default:
		return err
	}
}
