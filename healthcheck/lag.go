// SPDX-License-Identifier: Apache-2.0

package healthcheck

import (
	"fmt"
	"strings"
	"time"
)

// Roles of servers that replicate.
const (
	RolePrimary = "primary"
	RoleReplica = "replica"
)

// LagOptions say what a replica's lag makes of it. The zero value does not look at the lag.
type LagOptions struct {
	// Max is the lag above which a server is down, in reserve (see MinUp). 0: any lag will do.
	Max time.Duration
	// Curve gives the factor by the lag, in between its points linearly, beyond them the nearest's.
	// Lags ascend. None: 100 %.
	Curve []LagPoint
	// Unknown is what becomes of a replica that cannot tell its lag, as when its threads are stopped or
	// its primary is away: down; reserve, which is down but for MinUp; or up. "": reserve, so that
	// the loss of the primary does not take all its replicas with it where MinUp is used.
	Unknown string
}

// LagPoint is a point of a curve.
type LagPoint struct {
	Lag    time.Duration
	Factor int // percent
}

// What can become of a server that does not know its lag.
var unknownPolicies = []string{"", "down", "reserve", "up"}

func (o LagOptions) isZero() bool { return o.Max == 0 && len(o.Curve) == 0 && o.Unknown == "" }

func (o LagOptions) check(m *mistakes) {
	m.known("lag unknown", o.Unknown, unknownPolicies...)
	if o.Max < 0 {
		m.add("lag max", "%s is negative", o.Max)
	}
	for i, p := range o.Curve {
		field := fmt.Sprintf("lag curve[%d]", i)
		if p.Factor < 0 || p.Factor > 100 {
			m.add(field, "%d %% is not between 0 and 100", p.Factor)
		}
		if p.Lag < 0 || i > 0 && p.Lag <= o.Curve[i-1].Lag {
			m.add(field, "the lag %s does not ascend", p.Lag)
		}
	}
}

// judge makes a result of a lag. told is how the server said it, for the evidence.
func (o LagOptions) judge(lag time.Duration, told string) (Result, error) {
	r := good(L7OK, "lag %s (%s)", lag, told)
	r.Lag, r.Factor = lag, o.factor(lag)
	if o.Max > 0 && lag > o.Max {
		f := fail(L7STS, 0, "lag %s is more than %s (%s)", lag, o.Max, told)
		f.Reserve, f.Lag = true, lag
		return Result{}, f
	}
	return r, nil
}

// unknown makes a result of a lag that is not known.
func (o LagOptions) unknown(why string) (Result, error) {
	if o.Unknown == "up" {
		r := good(L7OK, "lag unknown: %s", why)
		r.Lag = NoLag
		return r, nil
	}
	f := fail(L7STS, 0, "lag unknown: %s", why)
	f.Reserve, f.Lag = o.Unknown != "down", NoLag
	return Result{}, f
}

// factor reads the curve.
func (o LagOptions) factor(lag time.Duration) int {
	for i, p := range o.Curve {
		switch {
		case lag > p.Lag:
		case i == 0 || lag == p.Lag:
			return p.Factor
		default:
			before := o.Curve[i-1]
			part := float64(lag-before.Lag) / float64(p.Lag-before.Lag)
			return before.Factor + int(part*float64(p.Factor-before.Factor))
		}
	}
	if len(o.Curve) > 0 {
		return o.Curve[len(o.Curve)-1].Factor
	}
	return 100
}

// checkRole judges what a server is. why is its own account.
func checkRole(want, is, why string) error {
	if want == "" || want == is {
		return nil
	}
	return fail(L7STS, 0, "the server is a %s (%s), want a %s", is, why, want)
}

// seconds makes a duration of a server's number.
func seconds(s float64) time.Duration {
	return max(0, time.Duration(s*float64(time.Second)).Round(time.Millisecond)) // clocks differ: no lag is below 0
}

// oneLine makes one of several.
func oneLine(text string) string { return strings.Join(strings.Fields(text), " ") }
