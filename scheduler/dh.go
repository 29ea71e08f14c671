// SPDX-License-Identifier: Apache-2.0

package scheduler

// dh, destination hashing: for caches, which are addressed by the destination.
// Every server has the same share of the buckets, a quiesced one too: its
// destinations are refused and move to nobody.
type dh struct{ table table }

func newDH(Options) (Scheduler, error) { return &dh{}, nil }

func (d *dh) Name() string                    { return "dh" }
func (d *dh) Kind() Kind                      { return Hash }
func (d *dh) Clone() Scheduler                { c := *d; return &c }
func (d *dh) Table(servers []Server) []uint32 { return d.filled().ids(servers) }

// filled is the table, empty before the first Edit.
func (d *dh) filled() table {
	if d.table == nil {
		d.table = newTable(buckets)
	}
	return d.table
}

func (d *dh) Edit(servers []Server) {
	d.table = newTable(buckets)
	if len(servers) == 0 {
		return
	}
	for b := range d.table {
		d.table[b] = int32(b % len(servers))
	}
}

func (d *dh) Pick(p Packet, servers []Server) int {
	return d.table.pick(p, servers, d.Probe)
}

// Probe knows one slot only: dh refuses when its server is unusable.
func (d *dh) Probe(p Packet, attempt int) (slot int, ok bool) {
	return int(DHHash(p.Dst)), attempt == 0
}
