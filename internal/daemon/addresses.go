// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"path/filepath"
	"slices"
	"time"

	"xdplvs/bpf"
	"xdplvs/director"
	"xdplvs/internal/arpnd"
	"xdplvs/internal/nexthop"
	"xdplvs/internal/vip"
)

// newAddresses makes the part that holds the virtual addresses. What it took is written beside the
// socket: a directory in a bpffs, as the state's, holds no files.
func (d *daemon) newAddresses() *vip.Manager {
	return vip.New(vip.Options{
		Log:       d.log,
		Answers:   answersOf{d.plane},
		File:      filepath.Join(filepath.Dir(d.config.Socket), "addresses.json"),
		Answering: !d.plane.Fresh || d.lost,
		Identify:  d.identify,
		Resync:    5 * time.Second, // nobody tells when somebody changes the table
	})
}

// holdAddresses is for a document whose services are in force. Those addresses that are not to be
// held any more are given up when it returns.
func (d *daemon) holdAddresses(ctx context.Context, doc *document) error {
	names := map[netip.Addr]string{}
	for i := range doc.services {
		for _, r := range doc.services[i].Servers() {
			if r.Name != "" {
				names[r.Key.Addr] = r.Name + " "
			}
		}
	}
	d.names.Store(&names)
	return d.addresses.Set(ctx, doc.addresses(), doc.config.Announce)
}

// identify names the host that has a link-layer address, if it is a real server or the way to one.
func (d *daemon) identify(mac arpnd.MAC) string {
	return whoHas(mac, d.resolver.Hops(), *d.names.Load())
}

// whoHas looks for a real server that is reached at a link-layer address; names have a blank behind them.
func whoHas(mac arpnd.MAC, hops map[netip.Addr]nexthop.Hop, names map[netip.Addr]string) (who string) {
	for _, addr := range slices.SortedFunc(maps.Keys(hops), netip.Addr.Compare) {
		h := hops[addr]
		if !h.Resolved || h.DstMAC != mac {
			continue
		}
		if h.Gateway == addr {
			return fmt.Sprintf("real server %s(%s)", names[addr], addr)
		}
		if who == "" {
			who = fmt.Sprintf("the gateway to real server %s(%s)", names[addr], addr)
		}
	}
	return who
}

// answersOf is the data plane's table of addresses that it answers for.
type answersOf struct{ plane *bpf.DataPlane }

// Answered implements vip.Answers.
func (a answersOf) Answered() (map[vip.Place]arpnd.MAC, error) {
	table, err := a.plane.Answered()
	if err != nil {
		return nil, err
	}
	out := make(map[vip.Place]arpnd.MAC, len(table))
	for at, mac := range table {
		out[vip.Place(at)] = mac
	}
	return out, nil
}

// SetAnswered implements vip.Answers.
func (a answersOf) SetAnswered(p vip.Place, mac arpnd.MAC) error {
	return a.plane.SetAnswered(bpf.AnsweredAt(p), mac)
}

// DeleteAnswered implements vip.Answers.
func (a answersOf) DeleteAnswered(p vip.Place) error {
	return a.plane.DeleteAnswered(bpf.AnsweredAt(p))
}

// Addresses implements api.Backend.
func (b backend) Addresses() director.AddressList {
	return director.AddressList{Time: time.Now(), Addresses: b.d.addresses.States()}
}
