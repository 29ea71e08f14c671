// SPDX-License-Identifier: Apache-2.0

package director

import (
	"net/netip"
	"time"
)

// Counters are totals since a service or real server exists.
type Counters struct {
	Conns    uint64 `json:"conns"`
	InPkts   uint64 `json:"in_packets"`
	OutPkts  uint64 `json:"out_packets"`
	InBytes  uint64 `json:"in_bytes"` // IP length
	OutBytes uint64 `json:"out_bytes"`
}

// Rates are per second, averaged as IPVS's estimator does.
type Rates struct {
	CPS    uint64 `json:"cps"`
	InPPS  uint64 `json:"in_pps"`
	OutPPS uint64 `json:"out_pps"`
	InBPS  uint64 `json:"in_bps"` // bytes
	OutBPS uint64 `json:"out_bps"`
}

// RealState is a real server as it is.
type RealState struct {
	Name   string         `json:"name,omitempty"`
	Key    RealKey        `json:"real"`
	Method Method         `json:"method"`
	Tunnel *TunnelOptions `json:"tunnel,omitempty"` // by tun
	Local  bool           `json:"local,omitempty"`  // packets go to the director's own stack
	MTU    int            `json:"mtu,omitempty"`    // bytes of IP that fit the way there; 0: not known
	Weight uint32         `json:"weight"`
	// EffectiveWeight is the weight less what a slow start holds back.
	EffectiveWeight uint32 `json:"effective_weight"`
	// The shares are of the service's new connections in the last 30 to 60 seconds,
	// by its plans and as they were made.
	PlannedShare  float64  `json:"planned_share"`
	MeasuredShare float64  `json:"measured_share"`
	WindowConns   uint64   `json:"window_conns"`           // made for it in that time
	SharesApart   bool     `json:"shares_apart,omitempty"` // by more than 5 points, and not by chance
	Upper         uint32   `json:"upper,omitempty"`        // threshold, as it was configured
	Lower         uint32   `json:"lower,omitempty"`        // 0: three quarters of the upper one
	Overloaded    bool     `json:"overloaded,omitempty"`   // reached the upper one, and is not below the lower one yet
	Templates     uint32   `json:"templates,omitempty"`    // clients that persistence sends to it
	Active        uint32   `json:"active"`
	Inactive      uint32   `json:"inactive"`
	Reachable     bool     `json:"reachable"`             // its next hop is known
	Unreachable   string   `json:"unreachable,omitempty"` // why not
	Health        *Health  `json:"health,omitempty"`      // of one that is checked
	Ports         *PortUse `json:"local_ports,omitempty"` // of fullnat
	Counters      Counters `json:"counters"`
	Rates         Rates    `json:"rates"`
}

// ServiceState is a virtual service as it is.
type ServiceState struct {
	Name        string      `json:"name,omitempty"`
	Key         ServiceKey  `json:"service"`
	Scheduler   string      `json:"scheduler"`
	Flags       string      `json:"scheduler_flags,omitempty"`
	OnePacket   bool        `json:"one_packet,omitempty"`
	Persistence Persistence `json:"persistence,omitzero"`
	SharesApart bool        `json:"shares_apart,omitempty"` // some real server's are
	Reals       []RealState `json:"reals"`                  // IPVS's list order: the last added first
	Sorry       []RealState `json:"sorry_servers,omitempty"`
	SorryInUse  bool        `json:"sorry_in_use,omitempty"` // new connections are the sorry servers'
	QuorumLost  bool        `json:"quorum_lost,omitempty"`  // see SetQuorum
	NoReal      uint64      `json:"no_real"`                // packets that found no usable real server; sorry servers may have taken them
	Untracked   uint64      `json:"untracked"`              // connections that found no place in the table
	Counters    Counters    `json:"counters"`
	Rates       Rates       `json:"rates"`
}

// InterfaceState is an interface of the configuration, and where the program is attached for it.
type InterfaceState struct {
	Name    string     `json:"name"`
	Device  string     `json:"device"`            // that the program is attached to; empty: to none
	Index   int        `json:"index"`             // the device's
	Mode    AttachMode `json:"mode"`              // native or generic; what is wanted where it is not attached
	Why     string     `json:"why,omitempty"`     // it is another device, as "eth0.100 is VLAN 100 of eth0"
	Warning string     `json:"warning,omitempty"` // what the program does not see there
	Error   string     `json:"error,omitempty"`   // why it is not attached, or not found any more
}

// Snapshot is the whole state at one moment. It is never changed after it was made.
type Snapshot struct {
	Time       time.Time         `json:"time"`
	Generation uint64            `json:"generation"` // of the desired state, counted from 1
	TableSize  uint32            `json:"table_size"` // places for IPv4 connections
	Interfaces []InterfaceState  `json:"interfaces"`
	Services   []ServiceState    `json:"services"`
	Sources    []SourceState     `json:"sources,omitempty"` // of full-NAT
	Total      Counters          `json:"total"`
	Rates      Rates             `json:"rates"`
	Verdicts   map[string]uint64 `json:"verdicts"` // packets by the reason they left for
	Tables     []TableState      `json:"tables,omitempty"`
	Sweep      SweepState        `json:"sweep,omitzero"`
	Drift      []Drift           `json:"drift,omitempty"` // what others changed, and was put back
}

// Conn is one connection, or one template, for listings. A template has client
// port 0, and NONE or ASSURED for its state: whether a connection that it
// controls was established.
type Conn struct {
	Protocol Protocol       `json:"protocol"`
	Client   netip.AddrPort `json:"client"`
	Virtual  netip.AddrPort `json:"virtual"`
	Real     netip.AddrPort `json:"real"`
	Local    netip.AddrPort `json:"local,omitzero"` // by full-NAT: where the real server sees it come from
	State    string         `json:"state"`          // IPVS's names
	Expires  time.Duration  `json:"expires"`        // nanoseconds until it ends if nothing more comes
	Service  string         `json:"service,omitempty"`
	Mark     uint32         `json:"mark,omitempty"`     // of a template: the firewall mark that it is for, whatever the protocol
	Controls uint32         `json:"controls,omitempty"` // of a template: connections
	CallID   string         `json:"call_id,omitempty"`  // of a SIP call's template; one that ends in … is longer
}
