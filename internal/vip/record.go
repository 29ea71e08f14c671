// SPDX-License-Identifier: Apache-2.0

package vip

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"

	"xdplvs/internal/atomicfile"
)

// A record is what the director took, in a file. It is written before something is taken and after it
// was given up, so it may name what is not there; the marks in the kernel tell.
type record struct {
	path     string
	added    map[added]bool
	answered map[spot]bool
}

// added is an address that was added to an interface, or a group that it joined.
type added struct {
	link   int // ifindex: names change hands, indexes do not
	prefix netip.Prefix
}

// recordFile is the content of the file.
type recordFile struct {
	Added    []recordLine `json:"added"`
	Answered []recordLine `json:"answered"`
}

type recordLine struct {
	Link    int          `json:"link"`
	Address netip.Prefix `json:"address"`
}

// readRecord reads the file; without one there is nothing in the record.
func readRecord(path string) (*record, error) {
	r := &record{path: path, added: map[added]bool{}, answered: map[spot]bool{}}
	text, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return r, nil
	}
	var f recordFile
	if err == nil {
		err = json.Unmarshal(text, &f)
	}
	if err != nil {
		return nil, fmt.Errorf("read which addresses the director added (if you remove %s, those that it added stay): %w", path, err)
	}
	for _, l := range f.Added {
		r.added[added{l.Link, l.Address}] = true
	}
	for _, l := range f.Answered {
		r.answered[spot{l.Link, l.Address.Addr()}] = true
	}
	return r, nil
}

// change applies a change and writes the file, or does neither.
func (r *record) change(apply func(*record)) error {
	next := &record{r.path, maps.Clone(r.added), maps.Clone(r.answered)}
	apply(next)
	if maps.Equal(next.added, r.added) && maps.Equal(next.answered, r.answered) {
		return nil
	}
	if err := next.write(); err != nil {
		return fmt.Errorf("write which addresses the director added: %w", err)
	}
	*r = *next
	return nil
}

// write replaces the file in one step: there is the old one or the new one.
func (r *record) write() error {
	text, err := json.MarshalIndent(r.file(), "", "  ")
	if err != nil {
		return err
	}
	return atomicfile.Write(r.path, append(text, '\n'))
}

// file is the content, in order.
func (r *record) file() (f recordFile) {
	for a := range r.added {
		f.Added = append(f.Added, recordLine{a.link, a.prefix})
	}
	for s := range r.answered {
		f.Answered = append(f.Answered, recordLine{s.link, netip.PrefixFrom(s.addr, s.addr.BitLen())})
	}
	for _, list := range [][]recordLine{f.Added, f.Answered} {
		slices.SortFunc(list, func(a, b recordLine) int {
			return cmp.Or(cmp.Compare(a.Link, b.Link), a.Address.Compare(b.Address))
		})
	}
	return f
}

// remove removes the file.
func (r *record) remove() error {
	if err := os.Remove(r.path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
