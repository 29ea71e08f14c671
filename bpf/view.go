// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"fmt"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// view is the memory of an array map, as a slice of what lies in it.
type view[T any] struct {
	items []T
	bytes []byte
}

// mapArray maps an array map into memory. The elements of T need not be the
// map's: a set of eight connections is seen as eight connections.
func mapArray[T any](m *ebpf.Map) (view[T], error) {
	size := int(m.ValueSize()) * int(m.MaxEntries())
	page := unix.Getpagesize()
	b, err := unix.Mmap(m.FD(), 0, (size+page-1)/page*page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return view[T]{}, fmt.Errorf("map memory of %s: %w", m, err)
	}
	var zero T
	items := unsafe.Slice((*T)(unsafe.Pointer(&b[0])), size/int(unsafe.Sizeof(zero)))
	return view[T]{items, b}, nil
}

func (v view[T]) close() error {
	if v.bytes == nil {
		return nil
	}
	return unix.Munmap(v.bytes)
}
