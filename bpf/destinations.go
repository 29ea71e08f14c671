// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
)

// destinationBatch is how many are read with one system call.
const destinationBatch = 1024

// Destinations calls yield for each destination that lblc and lblcr remember,
// until it returns false. The values are copies. One that comes or goes
// meanwhile may be missed, or told of twice.
func (d *DataPlane) Destinations(yield func(*DestinationKey, *Destination) bool) error {
	table := d.objects.Maps[directorMapDestinations]
	size := max(destinationBatch, int(table.MaxEntries()/16)) // a bucket must fit
	keys, values := make([]DestinationKey, size), make([]Destination, size)
	var cursor ebpf.MapBatchCursor
	for {
		n, err := table.BatchLookup(&cursor, keys, values, nil)
		for i := range n {
			if !yield(&keys[i], &values[i]) {
				return nil
			}
		}
		if errors.Is(err, ebpf.ErrKeyNotExist) { // that was the end
			return nil
		}
		if err != nil {
			return fmt.Errorf("list destinations: %w", err)
		}
	}
}

// ForgetDestination takes one out; that it is not there is no error. A packet
// that reads it at the moment may still follow it.
func (d *DataPlane) ForgetDestination(key *DestinationKey) error {
	err := d.objects.Maps[directorMapDestinations].Delete(key)
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("forget destination: %w", err)
	}
	return nil
}
