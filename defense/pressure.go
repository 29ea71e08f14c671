// SPDX-License-Identifier: Apache-2.0

package defense

import "math"

// Pressure is what the automatic strategies look at.
type Pressure struct {
	Pages  int64 `json:"available_pages"` // of memory: free ones and buffers, as IPVS counts; UnknownPages
	Places int64 `json:"places"`          // of the connection table that is fullest
	Used   int64 `json:"places_used"`
	// Half-open connections of the table that has most of them for the places that connections can have there, and these. Those
	// that there would be but for SYN cookies count, or a flood would seem to end when they begin.
	HalfOpen   int64 `json:"half_open"`
	HalfPlaces int64 `json:"half_open_places"`
}

// UnknownPages of memory press nobody.
const UnknownPages = math.MaxInt64

// Cause is what presses.
type Cause string

// The causes of pressure.
const (
	NoPressure Cause = ""
	Memory     Cause = "memory"
	Occupancy  Cause = "occupancy"
	Flood      Cause = "half_open" // of SYNs: it counts for SYN cookies only
)

// shortage is how hard something presses: what is available, where threshold should be.
type shortage struct{ threshold, available int64 }

func (s shortage) is() bool { return s.available < s.threshold }

// rate is IPVS's: of how many new connections one is dropped.
func (s shortage) rate() int32 {
	return int32(min(s.threshold/(s.threshold-s.available), math.MaxInt32))
}

func (s *Settings) memory(p Pressure) shortage { return shortage{int64(s.MemThresh), p.Pages} }

// places presses by IPVS's formula, with free places in the place of free memory.
func (s *Settings) places(p Pressure) shortage {
	if s.Occupancy == 0 {
		return shortage{}
	}
	return shortage{p.Places * (100 - int64(s.Occupancy)) / 100, p.Places - p.Used}
}

// flooded reports whether SYN cookies are due.
func (s *Settings) flooded(p Pressure) bool {
	return s.HalfOpen > 0 && p.HalfOpen*100 > p.HalfPlaces*int64(s.HalfOpen)
}

// pressing is what presses hardest, and the rate of drop_packet then.
func (s *Settings) pressing(p Pressure) (cause Cause, rate int32) {
	if m := s.memory(p); m.is() {
		cause, rate = Memory, m.rate()
	}
	if o := s.places(p); o.is() && (cause == NoPressure || o.rate() < rate) {
		cause, rate = Occupancy, o.rate()
	}
	return cause, rate
}
