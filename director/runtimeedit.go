// SPDX-License-Identifier: Apache-2.0

package director

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// Edit is one step of a run-time change.
type Edit struct {
	Op EditOp `json:"op"`
	// Service is a name, "tcp 192.0.2.1:80", "192.0.2.1:80" if only one protocol has it, "fwmark 7" or
	// "fwmark 7 ipv6". A service that is added has none: its key is in Set.
	Service string `json:"service,omitempty"`
	// Real is a name, "10.0.0.1:80", or "10.0.0.1" with the service's port. Empty: the service itself is
	// meant, or, of AddReal, it is in Set.
	Real string `json:"real,omitempty"`
	// Set has the keys of the file and their new values, of what is added or edited.
	Set map[string]json.RawMessage `json:"set,omitempty"`
}

// EditOp is what an Edit does.
type EditOp string

// The steps.
const (
	AddService    EditOp = "add-service"
	EditService   EditOp = "edit-service"
	RemoveService EditOp = "remove-service"
	AddReal       EditOp = "add-real"
	EditReal      EditOp = "edit-real"
	RemoveReal    EditOp = "remove-real"
	RemoveAll     EditOp = "remove-all" // services
)

// EditOps are all.
func EditOps() []EditOp {
	return []EditOp{AddService, EditService, RemoveService, AddReal, EditReal, RemoveReal, RemoveAll}
}

// EditFault is why an Edit cannot be.
type EditFault string

// The faults that programs want to tell apart.
const (
	FaultInvalid       EditFault = "invalid"
	FaultServiceExists EditFault = "service_exists"
	FaultNoService     EditFault = "no_service"
	FaultRealExists    EditFault = "real_exists"
	FaultNoReal        EditFault = "no_real"
)

// EditError is an Edit that cannot be; none of those that it came with was made.
type EditError struct {
	Fault EditFault
	Index int // of the Edit, from 0
	Text  string
}

// Error is the text.
func (e *EditError) Error() string { return e.Text }

// ParseServiceKey reads what ServiceKey's String writes.
func ParseServiceKey(text string) (ServiceKey, error) {
	words := strings.Fields(text)
	fault := fmt.Errorf("%q is no service (as in \"tcp 192.0.2.1:80\" or \"fwmark 7\")", text)
	if len(words) < 2 {
		return ServiceKey{}, fault
	}
	if words[0] == "fwmark" {
		mark, err := strconv.ParseUint(words[1], 10, 32)
		v6 := len(words) == 3 && words[2] == "ipv6"
		if err != nil || mark == 0 || len(words) > 2 && !v6 {
			return ServiceKey{}, fault
		}
		return MarkKey(uint32(mark), v6), nil
	}
	var p Protocol
	where, err := netip.ParseAddrPort(words[1])
	if err != nil || len(words) > 2 || p.UnmarshalText([]byte(words[0])) != nil || p == 0 {
		return ServiceKey{}, fault
	}
	return ServiceKey{Protocol: p, Addr: where.Addr(), Port: where.Port()}, nil
}
