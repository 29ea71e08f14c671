// SPDX-License-Identifier: Apache-2.0

package scheduler

import "fmt"

// Threshold is a real server's pair of connection limits with their hysteresis:
// Upper connections are admitted, then none until fewer than Lower remain.
// Active and inactive connections count, templates do not. The methods take the
// OVERLOAD flag as it was and return it as it becomes; they keep nothing.
type Threshold struct {
	Upper uint32 // 0 = no limit
	Lower uint32 // 0 = Upper less a quarter of it
}

// Validate refuses a Lower above Upper, as IPVS does (ERANGE).
func (t Threshold) Validate() error {
	if t.Lower > t.Upper {
		return fmt.Errorf("lower threshold %d is above the upper threshold %d", t.Lower, t.Upper)
	}
	return nil
}

// low is the number of connections below which a server is taken back.
func (t Threshold) low() uint64 {
	if t.Lower != 0 {
		return uint64(t.Lower)
	}
	return uint64(t.Upper - t.Upper/4)
}

// Connect returns the flag after a new connection made the total what it is. Only
// reaching Upper exactly sets it: connections of known clients (persistence) pass
// a full server by, and must not change the flag.
func (t Threshold) Connect(total uint64, overloaded bool) bool {
	if t.Upper == 0 {
		return false
	}
	return overloaded || total == uint64(t.Upper)
}

// End returns the flag after the end of a connection left total of them.
func (t Threshold) End(total uint64, overloaded bool) bool {
	if t.Upper == 0 {
		return false
	}
	return overloaded && total+1 != t.low()
}

// Edit returns the flag after the server was added with these thresholds, or they
// were changed, with total connections present.
func (t Threshold) Edit(total uint64, overloaded bool) bool {
	switch {
	case t.Upper == 0 || total < t.low():
		return false
	case total >= uint64(t.Upper):
		return true
	}
	return overloaded
}
