// SPDX-License-Identifier: Apache-2.0

package director

// ids gives out row numbers, the lowest free one first, so that tables stay dense.
type ids struct {
	used []bool
	from uint32 // nothing below is free
	n    int
}

func newIDs(size int) *ids { return &ids{used: make([]bool, size)} }

func (s *ids) free() int { return len(s.used) - s.n }

// take marks and returns a free id; false if there is none.
func (s *ids) take() (uint32, bool) {
	for ; int(s.from) < len(s.used); s.from++ {
		if !s.used[s.from] {
			s.claim(s.from)
			return s.from, true
		}
	}
	return 0, false
}

// claim marks an id that is in use already.
func (s *ids) claim(id uint32) {
	if !s.used[id] {
		s.used[id] = true
		s.n++
	}
}

func (s *ids) give(id uint32) {
	if s.used[id] {
		s.used[id] = false
		s.n--
		s.from = min(s.from, id)
	}
}
