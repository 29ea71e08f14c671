// SPDX-License-Identifier: Apache-2.0

package scheduler

// sh, source hashing: a client stays with its server. Servers take consecutive
// buckets by weight until all 256 are gone, so that with large weights the last
// of the list may get none.
type sh struct {
	table table
	flags Flags
}

func newSH(o Options) (Scheduler, error) { return &sh{flags: o.Flags, table: newTable(buckets)}, nil }

func (s *sh) Name() string                    { return "sh" }
func (s *sh) Kind() Kind                      { return Hash }
func (s *sh) Clone() Scheduler                { c := *s; return &c }
func (s *sh) Table(servers []Server) []uint32 { return s.table.ids(servers) }

// Edit deals the buckets anew. A quiesced server keeps one.
func (s *sh) Edit(servers []Server) {
	s.table = newTable(buckets)
	if len(servers) == 0 {
		return
	}
	i, taken := 0, uint32(0)
	for b := range s.table {
		s.table[b] = int32(i)
		if taken++; taken >= servers[i].Weight {
			i, taken = (i+1)%len(servers), 0
		}
	}
}

func (s *sh) Pick(p Packet, servers []Server) int {
	return s.table.pick(p, servers, s.Probe)
}

// Probe begins at the packet's bucket. With sh-fallback 256 more follow, from
// twice that bucket on: the kernel adds its offset and the hash a second time.
func (s *sh) Probe(p Packet, attempt int) (slot int, ok bool) {
	port := uint16(0)
	if s.flags&SHPort != 0 {
		port = p.SrcPort
	}
	home := int(SHHash(p.Src, port))
	if attempt == 0 {
		return home, true
	}
	offset := (attempt - 1 + home) % buckets
	return (home + offset) % buckets, s.flags&SHFallback != 0 && attempt <= buckets
}
