// SPDX-License-Identifier: Apache-2.0

package director

import "time"

// HealthList is the health of all services that are checked, at one moment.
type HealthList struct {
	Time     time.Time       `json:"time"`
	Services []ServiceHealth `json:"services"`
}

// ServiceHealth is the health of a service.
type ServiceHealth struct {
	Name   string       `json:"name,omitempty"`
	Key    ServiceKey   `json:"service"`
	Quorum QuorumState  `json:"quorum"`
	Reals  []RealHealth `json:"reals"` // in the order of the configuration, sorry servers last
}

// QuorumState is whether enough of a service's real servers are up.
type QuorumState struct {
	Weight     uint32    `json:"weight"` // that is wanted
	Hysteresis uint32    `json:"hysteresis,omitempty"`
	Up         float64   `json:"up"` // weight of those that are up
	Decided    bool      `json:"decided"`
	Lost       bool      `json:"lost"`
	Since      time.Time `json:"since,omitzero"`
}

// RealHealth is the health of a real server of a service.
type RealHealth struct {
	Name    string        `json:"name,omitempty"`
	Key     RealKey       `json:"real"`
	Sorry   bool          `json:"sorry,omitempty"` // it is a sorry server
	Checked bool          `json:"checked"`
	Health  Health        `json:"health"`
	Checks  []CheckHealth `json:"checks"`
}

// CheckHealth is what one check of a real server says.
type CheckHealth struct {
	Name      string        `json:"name"`
	Target    string        `json:"target"`        // whom it asks
	Way       string        `json:"way,omitempty"` // how its probes get there, if not simply directly
	Condition Condition     `json:"condition"`
	Factor    int           `json:"factor"`
	Since     time.Time     `json:"since,omitzero"`
	Evidence  string        `json:"evidence,omitempty"` // the result that brought the condition
	Last      string        `json:"last,omitempty"`     // the newest result, as HAProxy's LastChk with the evidence behind
	Code      string        `json:"code,omitempty"`     // its code, as L7STS
	LastAt    time.Time     `json:"last_at,omitzero"`
	Took      time.Duration `json:"took"`              // nanoseconds, of the newest result
	Pending   int           `json:"pending,omitempty"` // results in a row that contradict the condition: worse ones below 0
	Silent    int           `json:"silent,omitempty"`  // probes in a row that could not be sent
	Checks    uint64        `json:"checks"`
	Failures  uint64        `json:"failures"`
}

// HealthHistory is what became of a real server of a service, the oldest first.
type HealthHistory struct {
	Service     string             `json:"service"` // its name, or its key
	Real        RealKey            `json:"real"`
	Name        string             `json:"name,omitempty"`
	Transitions []HealthTransition `json:"transitions"`
	Results     []CheckResult      `json:"results"` // the last ones of its checks
}

// HealthTransition is a change of a real server's condition.
type HealthTransition struct {
	Time     time.Time `json:"time"`
	From     Condition `json:"from"`
	To       Condition `json:"to"`
	Evidence string    `json:"evidence"`
}

// CheckResult is what a probe found out.
type CheckResult struct {
	Time   time.Time `json:"time"`
	Check  string    `json:"check"`
	Result string    `json:"result"`
}

// HealthOrder sets a real server's condition by hand.
type HealthOrder struct {
	Real      string `json:"real"`              // its name, ADDRESS or ADDRESS:PORT
	Service   string `json:"service,omitempty"` // its name, ADDRESS:PORT or fwmark N; all that have the real server if empty
	Condition string `json:"condition"`         // up, drain or down; auto: what the checks say
}
