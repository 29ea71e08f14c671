// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"errors"
	"fmt"
	"unsafe"

	"github.com/cilium/ebpf"
)

// formerTables are tables of another version. What only userspace writes, and what is counted, is seen as copies in
// this version's layout, which look makes anew; connections are read one by one.
type formerTables struct {
	rows  map[string]*formerRows
	raw   map[string][]byte // their memory
	looks []func()
}

// differs tells whether a table's rows are laid out otherwise.
func (f *formerTables) differs(name string) bool { return f != nil && f.rows[name] != nil }

// look brings the copies up to date.
func (f *formerTables) look() {
	if f == nil {
		return
	}
	for _, look := range f.looks {
		look()
	}
}

// recastInto is mapInto for rows that are laid out otherwise. Connections change too often to be copied as a whole:
// there, rows stays nil.
func recastInto[T any](d *DataPlane, rows *[]T, name string) error {
	v, err := mapArray[byte](d.objects.Maps[name])
	if err != nil {
		return err
	}
	d.unmap = append(d.unmap, v.close)
	d.former.raw[name] = v.items
	if name == directorMapConns4 || name == directorMapConns6 {
		return nil
	}
	var zero T
	size := int(unsafe.Sizeof(zero))
	e, err := d.former.rows[name].elements(size)
	if err != nil {
		return fmt.Errorf("read former table %s: %w", name, err)
	}
	*rows = make([]T, e.count(len(v.items)))
	to := unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(*rows))), len(*rows)*size)
	look := func() {
		for i := range *rows {
			e.cast.row(to[i*size:(i+1)*size], v.items[e.at(i):][:e.cast.from])
		}
	}
	look()
	d.former.looks = append(d.former.looks, look)
	return nil
}

// tell writes fields of the copies of services into the former table, in their order.
func (f *formerTables) tell(services []Service, fields ...string) error {
	for _, field := range fields {
		back, err := f.rows[directorMapServices].back(field)
		if err != nil {
			return fmt.Errorf("write former services: %w", err)
		}
		raw, size := f.raw[directorMapServices], int(unsafe.Sizeof(Service{}))
		from := unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(services))), len(services)*size)
		for i := range services {
			back.row(raw[i*back.to:(i+1)*back.to], from[i*size:(i+1)*size])
		}
	}
	return nil
}

// formerConns is a connection table that entries are read from, however they are laid out there.
type formerConns struct {
	table
	other *elements // nil: as here
	tag   int       // where it lies in an entry
}

// entry is where one begins.
func (f *formerConns) entry(i int) unsafe.Pointer {
	if f.other == nil {
		return unsafe.Pointer(f.slot(i))
	}
	return unsafe.Add(f.base, f.other.at(i))
}

// formerConns4 is the former table of IPv4 connections, of a data plane in which nothing may be stored any more.
func (d *DataPlane) formerConns4() (formerConns, error) {
	return d.formerConns(directorMapConns4, d.Tables.table4())
}

func (d *DataPlane) formerConns6() (formerConns, error) {
	return d.formerConns(directorMapConns6, d.Tables.table6())
}

func (d *DataPlane) formerConns(name string, t table) (formerConns, error) {
	if !d.former.differs(name) {
		return formerConns{table: t}, nil
	}
	e, err := d.former.rows[name].elements(int(t.size))
	if err != nil {
		return formerConns{}, fmt.Errorf("read former connections: %w", err)
	}
	raw := d.former.raw[name]
	t.n, t.base, t.size = e.count(len(raw)), unsafe.Pointer(unsafe.SliceData(raw)), uintptr(e.cast.from)
	return formerConns{t, &e, e.cast.origin(int(unsafe.Offsetof(Conn{}.Tag)))}, nil
}

// entries calls yield with the entries of a former map that is no memory of ours, in this version's layout, until it
// returns an error.
func (d *DataPlane) entries(name string, yield func(key, value []byte) error) error {
	m := d.objects.Maps[name]
	if m == nil {
		return nil
	}
	castKey, castValue := identity(m.KeySize()), identity(m.ValueSize())
	if d.former.differs(name) {
		castValue = d.former.rows[name].row
		if key := d.former.rows[name].key; key != nil {
			castKey = key
		}
	}
	key, value := make([]byte, castKey.from), make([]byte, m.ValueSize())
	entries := m.Iterate()
	for entries.Next(&key, &value) {
		k, v := make([]byte, castKey.to), make([]byte, castValue.to)
		castKey.row(k, key)
		castValue.row(v, value)
		if err := yield(k, v); err != nil {
			return fmt.Errorf("copy map %s: %w", name, err)
		}
	}
	if err := entries.Err(); err != nil && !errors.Is(err, ebpf.ErrIterationAborted) {
		return fmt.Errorf("copy map %s: %w", name, err)
	}
	return nil
}

// identity leaves rows as they are.
func identity(size uint32) *recast {
	n := int(size)
	return &recast{from: n, to: n, spans: []span{{0, 0, n}}}
}
