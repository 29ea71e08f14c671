// SPDX-License-Identifier: Apache-2.0

package director

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"xdplvs/bpf"
)

// state is a connection state. Everything about timeouts follows from the table of them.
type state struct {
	setting string // what its timeout is called in the configuration
	number  uint8  // the data plane's, of enum conn_state (bpf/abi.h)
	name    string // IPVS's, for listings
	timeout time.Duration
}

// states are IPVS's, with its timeouts. The first three are those of ipvsadm --set.
var states = []state{
	{"tcp", 1, "ESTABLISHED", 900 * time.Second},
	{"tcpfin", 4, "FIN_WAIT", 120 * time.Second},
	{"udp", bpf.StateUDP, "UDP", 300 * time.Second},
	{"tcp_none", 0, "NONE", 2 * time.Second},
	{"tcp_syn_sent", 2, "SYN_SENT", 120 * time.Second},
	{"tcp_syn_recv", 3, "SYN_RECV", 60 * time.Second},
	{"tcp_time_wait", 5, "TIME_WAIT", 120 * time.Second},
	{"tcp_close", 6, "CLOSE", 10 * time.Second},
	{"tcp_close_wait", 7, "CLOSE_WAIT", 60 * time.Second},
	{"tcp_last_ack", 8, "LAST_ACK", 30 * time.Second},
	{"tcp_listen", 9, "LISTEN", 120 * time.Second},
	{"tcp_synack", 10, "SYNACK", 120 * time.Second},
	{"sctp_none", 32, "NONE", 2 * time.Second},
	{"sctp_init1", 33, "INIT1", 4 * time.Second},
	{"sctp_init", 34, "INIT", 61 * time.Second},
	{"sctp_cookie_sent", 35, "C-SENT", 61 * time.Second},
	{"sctp_cookie_replied", 36, "C-REPLIED", 61 * time.Second},
	{"sctp_cookie_wait", 37, "C-WAIT", 61 * time.Second},
	{"sctp_cookie", 38, "COOKIE", 61 * time.Second},
	{"sctp_cookie_echoed", 39, "C-ECHOED", 61 * time.Second},
	{"sctp_established", 40, "ESTABLISHED", 900 * time.Second},
	{"sctp_shutdown_sent", 41, "S-SENT", 61 * time.Second},
	{"sctp_shutdown_received", 42, "S-RECEIVED", 61 * time.Second},
	{"sctp_shutdown_ack_sent", 43, "S-ACK-SENT", 61 * time.Second},
	{"sctp_rejected", 44, "REJECTED", 4 * time.Second},
	{"sctp_closed", 45, "CLOSED", 61 * time.Second},
}

// stateNumbers is how many states the data plane has room for.
const stateNumbers = len(bpf.Settings{}.Timeout)

// stateNames are IPVS's, by the data plane's number.
var stateNames = func() (names [stateNumbers]string) {
	for _, s := range states {
		names[s.number] = s.name
	}
	return names
}()

// Timeouts are how long a connection in some state lives after its last packet,
// by the data plane's number of the state. 0 is IPVS's default; in a change, it
// is what was in force before. As JSON they are an object with the names that
// the configuration has, and durations as it writes them.
type Timeouts [stateNumbers]time.Duration

// DefaultTimeouts are IPVS's.
var DefaultTimeouts = Timeouts{}.or(func(s state) time.Duration { return s.timeout })

// MaxTimeout is the longest timeout: the data plane counts jiffies, at most 1000
// a second, in 31 bits.
const MaxTimeout = math.MaxInt32 * time.Millisecond

// MinTimeout is the shortest timeout that people can ask for.
const MinTimeout = time.Second

// TimeoutNames are the names of all timeouts, those of ipvsadm --set first.
func TimeoutNames() []string {
	names := make([]string, len(states))
	for i, s := range states {
		names[i] = s.setting
	}
	return names
}

// findState finds the state by the name of its timeout; the error lists the known names.
func findState(name string) (state, error) {
	for _, s := range states {
		if s.setting == name {
			return s, nil
		}
	}
	return state{}, fmt.Errorf("unknown timeout %q (known: %s)", name, strings.Join(TimeoutNames(), ", "))
}

// Set changes the timeout of that name; the error for an unknown name lists the known ones.
func (t *Timeouts) Set(name string, timeout time.Duration) error {
	s, err := findState(name)
	if err == nil {
		t[s.number] = timeout
	}
	return err
}

// Get returns the timeout of that name, 0 if there is none.
func (t *Timeouts) Get(name string) time.Duration {
	s, err := findState(name)
	if err != nil {
		return 0
	}
	return t[s.number]
}

// Changes are the timeouts that differ from the former ones.
func (t Timeouts) Changes(before Timeouts) (changes []KeyChange) {
	for _, s := range states {
		if old, now := before[s.number], t[s.number]; old != now {
			changes = append(changes, KeyChange{s.setting, FormatTimeout(old), FormatTimeout(now)})
		}
	}
	return changes
}

// or fills in what is 0.
func (t Timeouts) or(fallback func(state) time.Duration) Timeouts {
	for _, s := range states {
		t[s.number] = cmp.Or(t[s.number], fallback(s))
	}
	return t
}

func (t Timeouts) withDefaults() Timeouts {
	return t.or(func(s state) time.Duration { return s.timeout })
}

func (t Timeouts) validate() error {
	var errs []error
	for _, s := range states {
		if x := t[s.number]; x < 0 || x > MaxTimeout {
			errs = append(errs, fmt.Errorf("timeout %s: %v is not between 0 and %v", s.setting, x, MaxTimeout))
		}
	}
	return errors.Join(errs...)
}

// MarshalJSON implements json.Marshaler: in the order of TimeoutNames, without those that are 0.
func (t Timeouts) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	for _, s := range states {
		if t[s.number] != 0 {
			fmt.Fprintf(&b, ",%q:%q", s.setting, FormatTimeout(t[s.number]))
		}
	}
	return []byte("{" + strings.TrimPrefix(b.String(), ",") + "}"), nil
}

// UnmarshalJSON implements json.Unmarshaler. A duration is text, or a number of
// seconds; unknown names and durations out of bounds are errors. What is not
// there is 0.
func (t *Timeouts) UnmarshalJSON(text []byte) error {
	var all map[string]any
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	if err := d.Decode(&all); err != nil {
		return err
	}
	*t = Timeouts{}
	var errs []error
	for name, value := range all {
		timeout, err := ParseTimeout(fmt.Sprint(value))
		if err = cmp.Or(t.Set(name, timeout), err); err != nil {
			errs = append(errs, fmt.Errorf("timeout %s: %w", name, err))
		}
	}
	return errors.Join(errs...)
}

// ParseTimeout reads a duration as the configuration has it, 15m or 900; it is
// from MinTimeout to MaxTimeout.
func ParseTimeout(text string) (time.Duration, error) {
	d, err := time.ParseDuration(text)
	if seconds, e := strconv.ParseUint(text, 10, 32); e == nil {
		d, err = time.Duration(seconds)*time.Second, nil
	}
	if err != nil || d < MinTimeout || d > MaxTimeout {
		return 0, fmt.Errorf("expected a duration such as 15m or 1h30m, or seconds, from %s to %s, found %q", MinTimeout, MaxTimeout, text)
	}
	return d, nil
}

// FormatTimeout writes a duration as people write it in the configuration: 15m, not 15m0s.
func FormatTimeout(d time.Duration) string {
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}
