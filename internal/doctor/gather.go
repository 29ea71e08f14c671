// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"time"

	"xdplvs/bpf"
	"xdplvs/internal/nexthop"
)

// Gather finds everything out, within the time, which is positive: what is not known then is told as
// such in the Facts. It asks the network with ARP requests and neighbour solicitations, loads
// the program and throws it away, and changes nothing. It works in the network namespace of the
// process.
func Gather(ctx context.Context, config *Config, timeout time.Duration) (*Facts, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	f := &Facts{Config: config, Sysctls: map[string]string{}}
	if err := f.readKernel(); err != nil {
		return nil, err
	}
	trial := make(chan func(*Machine), 1)
	go func() { trial <- try() }() // cannot be stopped, but ends soon
	f.readDoor(ctx)
	f.resolve(ctx, timeout/3)
	f.survey(ctx, timeout/4)
	select {
	case result := <-trial:
		result(&f.Machine)
	case <-ctx.Done():
		f.Machine.TrialLate = timeout
	}
	return f, nil
}

// readKernel reads what takes no time.
func (f *Facts) readKernel() error {
	if err := f.readLinks(); err != nil {
		return err
	}
	f.readEntrances()
	f.readMachine()
	f.readSysctls()
	f.readIPVS()
	return nil
}

// try loads the program, and gives what is to be noted.
func try() func(*Machine) {
	trial, err := bpf.Try()
	return func(m *Machine) {
		if m.Trial = trial; err != nil {
			m.TrialError = err.Error()
		}
	}
}

// probing asks real servers faster than a director does.
var probing = nexthop.Options{Retry: 250 * time.Millisecond, Fails: 3}

// resolve finds the ways to the real servers.
func (f *Facts) resolve(ctx context.Context, wait time.Duration) {
	var targets []netip.Addr
	for _, real := range f.reached() {
		targets = append(targets, real.addr)
	}
	if len(targets) == 0 {
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	options := probing
	options.FirstWait = wait
	resolver := nexthop.New(nil, options)
	resolver.SetTargets(targets)
	var done sync.WaitGroup
	var failed error
	done.Go(func() {
		failed = resolver.Run(ctx)
		cancel()
	})
	select {
	case <-resolver.Synced():
	case <-ctx.Done():
	}
	f.Hops = resolver.Hops()
	cancel()
	done.Wait()
	if failed != nil {
		f.HopsError = failed.Error()
	}
}

// survey asks who has the virtual addresses, this host's own, and those of the real servers.
func (f *Facts) survey(ctx context.Context, wait time.Duration) {
	inquiries := f.inquiries()
	if len(inquiries) == 0 {
		return
	}
	claims, err := nexthop.Survey(ctx, inquiries, wait)
	f.Claims = claims
	if err != nil {
		f.AskError = err.Error()
	}
}

// inquiries are the questions: where clients or real servers may be.
func (f *Facts) inquiries() (list []nexthop.Inquiry) {
	links := f.ways()
	for _, l := range f.fronts() {
		links = appendNew(links, l)
	}
	for _, l := range links {
		if !l.Ethernet || !l.Up || !l.Carrier {
			continue // said elsewhere
		}
		for _, vip := range f.vips() {
			list = append(list, nexthop.Inquiry{Link: l.Index, Addr: vip})
		}
		for _, a := range l.Addresses {
			if addr := a.Prefix.Addr(); !slices.Contains(f.vips(), addr) && !addr.IsLinkLocalUnicast() {
				list = append(list, nexthop.Inquiry{Link: l.Index, Addr: addr})
			}
		}
	}
	return append(list, f.neighbours()...)
}

// neighbours are the real servers in a network of this host.
func (f *Facts) neighbours() (list []nexthop.Inquiry) {
	for _, real := range f.reached() {
		hop := f.Hops[real.addr]
		if l := f.routed(hop); l != nil && !hop.Local && hop.Gateway.WithZone("") == real.addr {
			list = append(list, nexthop.Inquiry{Link: l.Index, Addr: real.addr})
		}
	}
	return list
}

// Examine is Gather and Judge.
func Examine(ctx context.Context, config *Config, timeout time.Duration) (*Report, error) {
	if timeout <= 0 {
		return nil, errors.New("no time to look")
	}
	f, err := Gather(ctx, config, timeout)
	if err != nil {
		return nil, err
	}
	return Judge(f), nil
}
