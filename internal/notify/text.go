// SPDX-License-Identifier: Apache-2.0

package notify

import (
	"fmt"
	"strings"
	"time"

	"xdplvs/director"
	"xdplvs/internal/health"
)

// message is an event as programs get it.
type message struct {
	Time     time.Time         `json:"time"`
	Event    health.Kind       `json:"event"`
	Service  string            `json:"service"` // its name, or its key
	Virtual  string            `json:"virtual"` // the service's key
	Real     *director.RealKey `json:"real,omitempty"`
	Name     string            `json:"name,omitempty"`  // of the real server
	Sorry    bool              `json:"sorry,omitempty"` // it is a sorry server
	Evidence string            `json:"evidence,omitempty"`
	Up       float64           `json:"up"` // weight of the service's real servers that are up
}

func isReal(e *health.Event) bool { return e.Real.Addr.IsValid() }

func messageOf(e *health.Event) message {
	m := message{Time: e.Time, Event: e.Kind, Service: serviceName(e), Virtual: e.Service.String(), Name: e.RealName, Sorry: e.Sorry, Evidence: e.Evidence, Up: e.Up}
	if isReal(e) {
		m.Real = &e.Real
	}
	return m
}

func serviceName(e *health.Event) string {
	if e.ServiceName != "" {
		return e.ServiceName
	}
	return e.Service.String()
}

// state is what became of who an event is about, in a word.
func state(e *health.Event) string {
	_, word, _ := strings.Cut(string(e.Kind), "_")
	return word
}

// line is an event for people.
func line(e *health.Event) string {
	if !isReal(e) {
		return fmt.Sprintf("Service %s has %s its quorum; weight %g is up", serviceName(e), state(e), e.Up)
	}
	name := e.Real.String()
	if e.RealName != "" {
		name = e.RealName + " (" + name + ")"
	}
	what := "Real server"
	if e.Sorry {
		what = "Sorry server"
	}
	text := fmt.Sprintf("%s %s of service %s: %s", what, name, serviceName(e), state(e))
	if e.Evidence != "" {
		text += ", " + e.Evidence
	}
	return text
}

// fifoLine is an event as keepalived writes it into its FIFOs; "" if it knows no such: it does not check sorry servers.
func fifoLine(e *health.Event) string {
	word, known := map[health.Kind]string{
		health.RealUp: "UP", health.RealDown: "DOWN", health.RealDraining: "DOWN", health.QuorumGained: "UP", health.QuorumLost: "DOWN",
	}[e.Kind]
	switch {
	case !known || e.Sorry:
		return ""
	case isReal(e):
		return fmt.Sprintf("RS [%s]:%s:%d %s %s\n", e.Real.Addr, protocol(e), e.Real.Port, virtual(e), word)
	default:
		return fmt.Sprintf("VS %s %s\n", virtual(e), word)
	}
}

// virtual is a service as keepalived names it.
func virtual(e *health.Event) string {
	if e.Service.Mark != 0 {
		return fmt.Sprintf("FWM %d", e.Service.Mark)
	}
	return fmt.Sprintf("[%s]:%s:%d", e.Service.Addr, protocol(e), e.Service.Port)
}

func protocol(e *health.Event) string {
	if e.Service.Mark != 0 {
		return "none"
	}
	return e.Service.Protocol.String()
}
