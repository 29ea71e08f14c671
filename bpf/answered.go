// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"errors"
	"fmt"
	"math/bits"
	"net/netip"

	"github.com/cilium/ebpf"
)

// AnsweredAt is where ARP or neighbour solicitations are answered for an address: on
// an interface, and there in a VLAN.
type AnsweredAt struct {
	Addr netip.Addr
	Link int       // index of the interface that the program is on
	VLAN [2]uint16 // ids, outermost first; 0: no tag
}

func (p AnsweredAt) key() directorAnsweredKey {
	return directorAnsweredKey{
		Addr:    p.Addr.As16(),
		Ifindex: uint32(p.Link),
		Vlan:    [2]uint16{bits.ReverseBytes16(p.VLAN[0]), bits.ReverseBytes16(p.VLAN[1])},
	}
}

func answeredAt(k *directorAnsweredKey) AnsweredAt {
	return AnsweredAt{
		Addr: netip.AddrFrom16(k.Addr).Unmap(),
		Link: int(k.Ifindex),
		VLAN: [2]uint16{bits.ReverseBytes16(k.Vlan[0]), bits.ReverseBytes16(k.Vlan[1])},
	}
}

// Answered tells what is answered where, with which link-layer address. This and
// the following two may be called beside all other methods.
func (d *DataPlane) Answered() (map[AnsweredAt][6]byte, error) {
	all := map[AnsweredAt][6]byte{}
	var key directorAnsweredKey
	var value directorAnsweredMac
	rows := d.objects.Maps[directorMapAnswered].Iterate()
	for rows.Next(&key, &value) {
		all[answeredAt(&key)] = value.Mac
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read what is answered: %w", err)
	}
	return all, nil
}

// SetAnswered has questions for an address answered from now on.
func (d *DataPlane) SetAnswered(p AnsweredAt, mac [6]byte) error {
	if err := d.objects.Maps[directorMapAnswered].Put(p.key(), directorAnsweredMac{Mac: mac}); err != nil {
		return fmt.Errorf("answer for %s on interface %d: %w", p.Addr, p.Link, err)
	}
	return nil
}

// SetClosed says what becomes of packets to closed ports of some addresses (Closed…); those of others are
// left to the stack. It may be called beside all other methods.
func (d *DataPlane) SetClosed(want map[netip.Addr]uint32) error {
	m := d.objects.Maps[directorMapClosed]
	for addr, says := range want {
		if err := m.Put(directorClosedKey{Addr: addr.As16()}, says); err != nil {
			return fmt.Errorf("set closed ports of %s: %w", addr, err)
		}
	}
	var key directorClosedKey
	var says uint32
	var gone []directorClosedKey
	rows := m.Iterate()
	for rows.Next(&key, &says) {
		if _, ok := want[netip.AddrFrom16(key.Addr).Unmap()]; !ok {
			gone = append(gone, key)
		}
	}
	err := rows.Err()
	for i := range gone {
		err = errors.Join(err, m.Delete(gone[i]))
	}
	if err != nil {
		return fmt.Errorf("forget closed ports: %w", err)
	}
	return nil
}

// DeleteAnswered ends that; a place that is not answered for is no error.
func (d *DataPlane) DeleteAnswered(p AnsweredAt) error {
	err := d.objects.Maps[directorMapAnswered].Delete(p.key())
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("no longer answer for %s on interface %d: %w", p.Addr, p.Link, err)
	}
	return nil
}
