// SPDX-License-Identifier: Apache-2.0

package scheduler

// table is what dh, sh and mh look servers up in: slot -> index in the list last
// given to Edit, or -1. It is replaced and never changed, so that clones share it.
type table []int32

func newTable(size int) table {
	t := make(table, size)
	for i := range t {
		t[i] = -1
	}
	return t
}

// ids is the table as a plan.
func (t table) ids(servers []Server) []uint32 {
	ids := make([]uint32, len(t))
	for slot, i := range t {
		ids[slot] = idOf(servers, int(i))
	}
	return ids
}

// pick returns the first usable server among the slots that probe names, or -1.
func (t table) pick(p Packet, servers []Server, probe func(Packet, int) (int, bool)) int {
	for attempt := 0; ; attempt++ {
		slot, ok := probe(p, attempt)
		if !ok || slot >= len(t) {
			return -1
		}
		if i := int(t[slot]); i >= 0 && i < len(servers) && servers[i].Usable() {
			return i
		}
	}
}

// idOf is the id of the server at index i, NoServer for -1.
func idOf(servers []Server, i int) uint32 {
	if i < 0 || i >= len(servers) {
		return NoServer
	}
	return servers[i].ID
}
