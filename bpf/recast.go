// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/cilium/ebpf/btf"
)

// recast makes rows of one layout of rows of another: field by field, by name. A field that is new is 0. What a
// field means goes with its name, so one that comes to mean something else must get another name.
type recast struct {
	from, to int // bytes of a row
	spans    []span
	left     []string // fields that have no place in the new rows

	fields []fieldError
}

// span is a run of bytes that goes from one row into the other.
type span struct{ from, to, n int }

type fieldError struct{ field, problem string }

func (e fieldError) Error() string { return e.field + " " + e.problem }

// newRecast compares two types. It is an error if a field that both have is not the same, or if one is
// missing that nothing can be taken over without.
func newRecast(name string, from, to btf.Type) (*recast, error) {
	r := &recast{}
	var err error
	if r.from, err = btf.Sizeof(from); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if r.to, err = btf.Sizeof(to); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	r.match(name, from, to, 0, 0)
	var all []error
	for _, e := range r.fields {
		all = append(all, e)
	}
	return r, errors.Join(all...)
}

// same tells whether rows can be read as they are: all that is known lies in the same places. A new field then was
// reserved, and is 0.
func (r *recast) same() bool {
	return r.from == r.to && len(r.left) == 0 && !slices.ContainsFunc(r.spans, func(s span) bool { return s.from != s.to })
}

// match adds what goes from one type, which begins at a, into another, which begins at b.
func (r *recast) match(name string, from, to btf.Type, a, b int) {
	former, now := btf.UnderlyingType(from), btf.UnderlyingType(to)
	switch now := now.(type) {
	case *btf.Struct:
		if former, ok := former.(*btf.Struct); ok {
			r.matchFields(former, now, a, b)
			return
		}
	case *btf.Array:
		if former, ok := former.(*btf.Array); ok {
			r.matchElements(name, former, now, a, b)
			return
		}
	default:
		had, _ := btf.Sizeof(former)
		have, _ := btf.Sizeof(now)
		switch _, struc := former.(*btf.Struct); {
		case struc:
		case had != have:
			r.fail(name, "had %d bytes, and has %d", had, have)
			return
		case isNetworkOrder(from) != isNetworkOrder(to):
			r.fail(name, "has another byte order")
			return
		default:
			r.add(span{a, b, have})
			return
		}
	}
	r.fail(name, "was a %s, and is a %s", kindOf(former), kindOf(now))
}

func (r *recast) fail(name, format string, args ...any) {
	r.fields = append(r.fields, fieldError{name, fmt.Sprintf(format, args...)})
}

func kindOf(t btf.Type) string {
	return strings.ToLower(strings.TrimPrefix(fmt.Sprintf("%T", t), "*btf."))
}

// isNetworkOrder goes by the kernel's names for such numbers.
func isNetworkOrder(t btf.Type) bool {
	def, ok := t.(*btf.Typedef)
	return ok && strings.HasPrefix(def.Name, "__be")
}

func isReserved(field string) bool { return strings.HasPrefix(field, "reserved") }

func (r *recast) matchFields(from, to *btf.Struct, a, b int) {
	for _, m := range to.Members {
		was := member(from, m.Name)
		field := to.Name + "." + m.Name
		switch {
		case isReserved(m.Name):
		case was != nil:
			r.match(field, was.Type, m.Type, a+int(was.Offset.Bytes()), b+int(m.Offset.Bytes()))
		case slices.Contains(vital, field):
			r.fail(field, "is new, and nothing works without")
		}
	}
	for _, m := range from.Members {
		field := to.Name + "." + m.Name
		if member(to, m.Name) == nil && !isReserved(m.Name) && !slices.Contains(r.left, field) {
			r.left = append(r.left, field)
		}
	}
}

func member(s *btf.Struct, name string) *btf.Member {
	i := slices.IndexFunc(s.Members, func(m btf.Member) bool { return m.Name == name })
	if i < 0 {
		return nil
	}
	return &s.Members[i]
}

func (r *recast) matchElements(name string, from, to *btf.Array, a, b int) {
	if from.Nelems > to.Nelems {
		r.fail(name, "had room for %d, and has for %d", from.Nelems, to.Nelems)
		return
	}
	had, _ := btf.Sizeof(from.Type)
	have, _ := btf.Sizeof(to.Type)
	for i := range int(from.Nelems) {
		r.match(name, from.Type, to.Type, a+i*had, b+i*have)
		if len(r.fields) > 0 {
			return // the others would say the same
		}
	}
}

// add joins what lies side by side on both sides.
func (r *recast) add(s span) {
	if n := len(r.spans); n > 0 {
		if last := &r.spans[n-1]; last.from+last.n == s.from && last.to+last.n == s.to {
			last.n += s.n
			return
		}
	}
	r.spans = append(r.spans, s)
}

// row writes what the new row has of the former one, and leaves the rest.
func (r *recast) row(to, from []byte) {
	for _, s := range r.spans {
		copy(to[s.to:s.to+s.n], from[s.from:])
	}
}

// origin is where a byte of the new row lies in the former one.
func (r *recast) origin(to int) int {
	for _, s := range r.spans {
		if s.to <= to && to < s.to+s.n {
			return s.from + to - s.to
		}
	}
	panic("no such field in the former row") // cannot be: those that are asked for are vital
}

// elements are rows of which several may lie in one value of a map, as a set or a chunk.
type elements struct {
	cast  *recast
	value int // bytes of a value,
	head  int // those before its first row,
	each  int // and how many rows it has
}

// count is how many rows a table has, by its size in bytes; at is where one begins.
func (e *elements) count(bytes int) int { return bytes / e.value * e.each }
func (e *elements) at(i int) int        { return i/e.each*e.value + e.head + i%e.each*e.cast.from }

// elements goes down into sets and chunks, to where rows have size bytes in this version.
func (f *formerRows) elements(size int) (e elements, err error) {
	from, to := f.from, f.to
	e = elements{each: 1}
	if e.value, err = btf.Sizeof(from); err != nil {
		return e, fmt.Errorf("%s: %w", f.to, err)
	}
	for {
		have, err := btf.Sizeof(to)
		if err != nil || have < size {
			return e, fmt.Errorf("%s: no row of %d bytes: %w", f.to, size, err)
		}
		if have == size {
			e.cast, err = newRecast(f.to.TypeName(), from, to)
			return e, err
		}
		from, to = e.into(from, to)
	}
}

// into goes into two arrays, or into two structs of which the second has nothing else.
func (e *elements) into(from, to btf.Type) (btf.Type, btf.Type) {
	switch to := btf.UnderlyingType(to).(type) {
	case *btf.Array:
		if from, ok := btf.UnderlyingType(from).(*btf.Array); ok && e.each == 1 {
			e.each = int(from.Nelems)
			return from.Type, to.Type
		}
	case *btf.Struct:
		if from, ok := btf.UnderlyingType(from).(*btf.Struct); ok && len(to.Members) == 1 {
			if m := member(from, to.Members[0].Name); m != nil {
				e.head += int(m.Offset.Bytes())
				return m.Type, to.Members[0].Type
			}
		}
	}
	return &btf.Void{}, &btf.Void{}
}

// back is the way back for a field of a row.
func (f *formerRows) back(field string) (*recast, error) {
	from, to := btf.UnderlyingType(f.from).(*btf.Struct), btf.UnderlyingType(f.to).(*btf.Struct) // they are services
	now, was := member(to, field), member(from, field)
	if now == nil || was == nil {
		return nil, fmt.Errorf("no field %s", field) // cannot be: those that are asked for are vital
	}
	r := &recast{from: int(to.Size), to: int(from.Size)}
	r.match(field, now.Type, was.Type, int(now.Offset.Bytes()), int(was.Offset.Bytes()))
	return r, nil
}
