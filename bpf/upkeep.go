// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"sync/atomic"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// Repair looks whether this program is on the interface of an attachment still, and whether its link is
// pinned. If not, that is put back.
func (d *DataPlane) Repair(a *Attachment) (repaired bool, err error) {
	info, err := a.link.Info()
	if err != nil {
		return false, fmt.Errorf("look at link of interface %d: %w", a.Index, err)
	}
	program := d.objects.Programs[directorProgDirector]
	mine, err := program.Info()
	if err != nil {
		return false, fmt.Errorf("look at program: %w", err)
	}
	id, _ := mine.ID() // since Linux 4.13
	switch xdp := info.XDP(); {
	case xdp == nil || int(xdp.Ifindex) != a.Index:
		return d.attachAgain(a)
	case info.Program != id:
		if err := a.link.Update(program); err != nil {
			return false, fmt.Errorf("replace program on interface %d: %w", a.Index, err)
		}
		return true, nil
	}
	return d.pinAgain(a, info.ID)
}

// attachAgain is for a link that was detached: it is worth nothing any more.
func (d *DataPlane) attachAgain(a *Attachment) (repaired bool, err error) {
	fresh, err := attachXDP(d.objects.Programs[directorProgDirector], a.Index, a.Mode)
	if err != nil {
		return false, fmt.Errorf("somebody detached the program: attach to interface %d again: %w", a.Index, err)
	}
	if d.pins != "" {
		if err := os.Remove(d.linkPath(a)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return false, errors.Join(err, fresh.link.Close())
		}
		if err := fresh.link.Pin(d.linkPath(a)); err != nil {
			return false, errors.Join(fmt.Errorf("pin link of interface %d: %w", a.Index, err), fresh.link.Close())
		}
	}
	former := a.link
	a.link = fresh.link
	return true, former.Close()
}

// pinAgain is by another handle: what was pinned takes itself for pinned.
func (d *DataPlane) pinAgain(a *Attachment, id link.ID) (repaired bool, err error) {
	if d.pins == "" || isThere(d.linkPath(a)) {
		return false, nil
	}
	again, err := link.NewFromID(id)
	if err != nil {
		return false, fmt.Errorf("open link of interface %d: %w", a.Index, err)
	}
	defer again.Close()
	if err := again.Pin(d.linkPath(a)); err != nil {
		return false, fmt.Errorf("pin link of interface %d: %w", a.Index, err)
	}
	return true, nil
}

func isThere(path string) bool {
	_, err := os.Lstat(path)
	return !errors.Is(err, os.ErrNotExist)
}

// RepairPins pins tables again whose pins are gone, and returns how many those were.
func (d *DataPlane) RepairPins() (repaired int, err error) {
	if d.pins == "" {
		return 0, nil
	}
	for name, m := range d.objects.Maps {
		path := filepath.Join(d.pins, pinName(name))
		if !isState(name) || isThere(path) {
			continue
		}
		again, err := m.Clone()
		if err == nil {
			err = errors.Join(again.Pin(path), again.Close())
		}
		if err != nil {
			return repaired, fmt.Errorf("pin map %s again: %w", name, err)
		}
		repaired++
	}
	return repaired, nil
}

// TxPort is the interface that packets leave by at a port; 0: none.
func (d *DataPlane) TxPort(port uint16) (index int, err error) {
	var value directorBpfDevmapVal
	err = d.objects.Maps[directorMapTxPorts].Lookup(uint32(port), &value)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read transmit port %d: %w", port, err)
	}
	return int(value.Ifindex), nil
}

// Closed is what SetClosed has set.
func (d *DataPlane) Closed() (map[netip.Addr]uint32, error) {
	all := map[netip.Addr]uint32{}
	var key directorClosedKey
	var says uint32
	rows := d.objects.Maps[directorMapClosed].Iterate()
	for rows.Next(&key, &says) {
		all[netip.AddrFrom16(key.Addr).Unmap()] = says
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read closed ports: %w", err)
	}
	return all, nil
}

// sum goes on with a checksum, of FNV's kind.
func sum(h, word uint64) uint64 { return (h ^ word) * 0x100000001b3 }

// part are n rows, or as many as there are.
func part[T any](rows []T, from, n int) []T {
	from = min(from, len(rows))
	return rows[from:min(from+n, len(rows))]
}

// MarksSum is a checksum of the marking rules in force, but for what they have counted.
func (t *Tables) MarksSum() (h uint64) {
	which := atomic.LoadUint32(&t.Settings.MarkSet) % markSets
	set := &t.Settings.MarkSets[which]
	rules := part(t.MarkRules, int(set.Base), int(set.Mask)+1)
	for b := range rules {
		for w := range rules[b].Rule {
			r := &rules[b].Rule[w]
			if r.Rule == 0 {
				continue
			}
			h = sum(h, uint64(b*markWays+w)<<32|uint64(r.Rule))
			h = sum(h, uint64(r.Mark))
			for _, word := range r.Key {
				h = sum(h, word)
			}
		}
	}
	for _, s := range part(t.MarkShapes, int(which)*2*markShapes, 2*markShapes) {
		h = sum(h, uint64(s.First))
		for _, word := range s.Mask {
			h = sum(h, word)
		}
	}
	return h
}

// PrefixesSum is a checksum of the prefix lists in force.
func (t *Tables) PrefixesSum() (h uint64) {
	which := atomic.LoadUint32(&t.Settings.PrefixSet) % prefixSets
	set := &t.Settings.PrefixSets[which]
	buckets := part(t.Prefixes, int(set.Base), int(set.Mask)+1)
	for b := range buckets {
		for _, entry := range buckets[b].Entry {
			h = sum(h, entry)
		}
	}
	trees := part(t.Trees, int(which)*prefixLists*2, prefixLists*2)
	for i := range trees {
		for _, node := range trees[i].Node {
			h = sum(h, uint64(node))
		}
	}
	return h
}
