// SPDX-License-Identifier: Apache-2.0

package nexthop

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"
)

const (
	// surveyRounds is how often each question is asked: a frame may be lost.
	surveyRounds = 3
	// surveyRate bounds the questions per second.
	surveyRate = 2000
)

// An Inquiry is the question who has an address on a link.
type Inquiry struct {
	Link int // ifindex
	Addr netip.Addr
}

// A Claim is what a station on the link says: that it has the address.
type Claim struct {
	Inquiry
	MAC [6]byte
}

// Survey asks on Ethernet links who has addresses, and gives every station that claimed one within
// the time, each once; this host's own answers are not heard. Where a Resolver believes the newest
// answer, a survey wants all of them: more than one, or one for an address that nobody else should
// have, is a conflict.
//
// Questions are ARP requests, by turns from an address of the link and from none (RFC 5227 probe,
// which no filter by source refuses), and neighbour solicitations. The error tells what could not
// be asked; the claims are valid all the same. It needs CAP_NET_RAW, and works in the network
// namespace of the calling thread.
func Survey(ctx context.Context, inquiries []Inquiry, wait time.Duration) ([]Claim, error) {
	k, err := openKernel(0)
	if err != nil {
		return nil, fmt.Errorf("open kernel tables: %w", err)
	}
	defer k.close()
	s := &survey{
		kernel: k, asked: make(map[Inquiry]bool), wires: make(map[portKey]*wire), faults: make(map[string]error),
		claims: make(map[Claim]bool),
	}
	defer s.close()
	if err := s.read(); err != nil {
		return nil, fmt.Errorf("read kernel tables: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	s.ask(ctx, s.open(inquiries), wait/surveyRounds)
	<-ctx.Done()
	return s.result()
}

// A survey is one run of Survey.
type survey struct {
	kernel    *tables
	links     linkTable
	addresses addressTable
	asked     map[Inquiry]bool // not written once wires are open
	wires     map[portKey]*wire
	faults    map[string]error // by text: each is told once

	mu     sync.Mutex
	claims map[Claim]bool
}

func (s *survey) read() (err error) {
	if s.links, err = s.kernel.links(); err == nil {
		s.addresses, err = s.kernel.addresses()
	}
	return err
}

// open opens the wires and gives the inquiries that have one, each once. The wires hear from the
// beginning, so all inquiries are known before the first is opened.
func (s *survey) open(inquiries []Inquiry) (open []Inquiry) {
	for _, i := range inquiries {
		if !s.asked[i] {
			s.asked[i] = true
			open = append(open, i)
		}
	}
	return slices.DeleteFunc(open, func(i Inquiry) bool {
		k := portKey{i.Link, i.Addr.Is6()}
		if _, tried := s.wires[k]; !tried {
			s.wires[k] = s.wire(k)
		}
		return s.wires[k] == nil
	})
}

// wire opens one; nil says that it cannot be, and the fault is noted.
func (s *survey) wire(k portKey) *wire {
	l := s.links[k.link]
	fault := l.fault()
	if l.index == 0 {
		fault = fmt.Sprintf("no link of index %d", k.link)
	}
	if fault != "" {
		s.fault(errors.New(fault))
		return nil
	}
	w, err := s.kernel.openWire(l, k.v6, s.hear)
	if err != nil {
		s.fault(fmt.Errorf("open socket on %s: %w", l.name, err))
		return nil
	}
	return w
}

func (s *survey) fault(err error) { s.faults[err.Error()] = err }

// hear notes a claim, if somebody wants to know.
func (s *survey) hear(heard sighting) {
	i := Inquiry{heard.key.link, heard.key.addr}
	if !s.asked[i] || heard.mac == (mac{}) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.claims[Claim{i, heard.mac}] = true
}

// ask asks everything in rounds, which begin so much apart if the rate allows it.
func (s *survey) ask(ctx context.Context, inquiries []Inquiry, each time.Duration) {
	start, at := time.Now(), time.Time{}
	for round := range surveyRounds {
		at = later(at, start.Add(time.Duration(round)*each))
		for n, i := range inquiries {
			if !sleepUntil(ctx, at) {
				if round == 0 {
					s.fault(fmt.Errorf("the time was enough to ask for %d of %d addresses", n, len(inquiries)))
				}
				return
			}
			at = at.Add(time.Second / surveyRate)
			if err := s.question(i, round); err != nil {
				s.fault(fmt.Errorf("ask for %s on %s: %w", i.Addr, s.links[i.Link].name, err))
			}
		}
	}
}

// sleepUntil is false when ctx ends before.
func sleepUntil(ctx context.Context, at time.Time) bool {
	wait := time.Until(at)
	if wait <= 0 {
		return ctx.Err() == nil
	}
	select {
	case <-ctx.Done():
		return false
	case <-time.After(wait):
		return true
	}
}

func (s *survey) question(i Inquiry, round int) error {
	from, err := s.source(i, round)
	if err != nil {
		return err
	}
	return s.wires[portKey{i.Link, i.Addr.Is6()}].ask(question{from: from, mac: s.links[i.Link].mac, target: i.Addr})
}

// source chooses whom to ask from. Never from the address itself, nor from another one in doubt:
// that would announce it.
func (s *survey) source(i Inquiry, round int) (netip.Addr, error) {
	if i.Addr.Is6() {
		return s.addresses.source6(neighKey{i.Link, i.Addr})
	}
	if round%2 == 0 {
		for _, a := range s.addresses[i.Link] {
			if own := a.prefix.Addr(); own.Is4() && a.usable && !s.asked[Inquiry{i.Link, own}] {
				return own, nil
			}
		}
	}
	return netip.IPv4Unspecified(), nil
}

func (s *survey) close() {
	for _, w := range s.wires {
		if w != nil {
			w.close()
		}
	}
}

func compareClaims(a, b Claim) int {
	return cmp.Or(a.Addr.Compare(b.Addr), cmp.Compare(a.Link, b.Link), slices.Compare(a.MAC[:], b.MAC[:]))
}

// result gives the claims in a fixed order.
func (s *survey) result() ([]Claim, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	claims := slices.SortedFunc(maps.Keys(s.claims), compareClaims)
	var faults []error
	for _, text := range slices.Sorted(maps.Keys(s.faults)) {
		faults = append(faults, s.faults[text])
	}
	return claims, errors.Join(faults...)
}
