// SPDX-License-Identifier: Apache-2.0

package director

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"

	"xdplvs/bpf"
	"xdplvs/scheduler"
)

// The sorry servers of a service are a service of their own, which no packet finds
// by a key: packets that find no usable real server are handed on to it. So they
// have plans, next hops, thresholds, counters and connections as real servers have,
// and their rows survive the daemon as those do.

// OfSorry is the key of the service's sorry servers, whose health SetHealth tells under it.
func (k ServiceKey) OfSorry() ServiceKey {
	k.Sorry = true
	return k
}

// served is the key of the service that has these sorry servers.
func (k ServiceKey) served() ServiceKey {
	k.Sorry = false
	return k
}

// sorryService is the service that the sorry servers are. Persistence makes no
// templates for them: they would outlive the need. A hash of the client's address
// keeps its connections at one of them all the same.
func (s *Service) sorryService() Service {
	v := *s
	v.Key, v.Reals, v.Sorry = s.Key.OfSorry(), s.Sorry, nil
	v.Scheduler, v.Flags, v.MHTable, v.Expiration = "wlc", 0, 0, 0
	if s.Persistence.Timeout > 0 {
		v.Scheduler, v.Flags, v.MHTable = "mh", scheduler.MHFallback, sorryMHTable
	}
	return v
}

// sorryMHTable is the least length: sorry servers are few, and as good as each other.
const sorryMHTable = 251

// validateSorry tells what sorry servers cannot be.
func (s *Service) validateSorry() []error {
	errs := s.validateReals("sorry server", s.Sorry)
	for _, r := range s.Sorry {
		if slices.ContainsFunc(s.Reals, func(o RealServer) bool { return o.Key == r.Key }) {
			errs = append(errs, fmt.Errorf("service %s: %s is a real server and a sorry server", s.Key, r.Key))
		}
	}
	return errs
}

// apart makes services of sorry servers.
func (want Desired) apart() (Desired, error) {
	var errs []error
	var sorry []Service
	for i := range want.Services {
		s := &want.Services[i]
		if len(s.Sorry) == 0 {
			continue
		}
		if sorry == nil {
			want.Services = slices.Clone(want.Services)
			s = &want.Services[i]
		}
		errs = append(errs, s.validateSorry()...)
		sorry = append(sorry, s.sorryService())
		s.Sorry = nil
	}
	want.Services = append(want.Services, sorry...)
	return want, errors.Join(errs...)
}

// tellSorry tells packets of every service which its sorry servers are.
func (d *Director) tellSorry() {
	for key, s := range d.services {
		if key.Sorry {
			continue
		}
		atomic.StoreUint32(&s.row.Sorry, d.sorryOf(key))
	}
}

// sorryOf is what a service's row says of its sorry servers.
func (d *Director) sorryOf(key ServiceKey) uint32 {
	if sorry := d.services[key.OfSorry()]; sorry != nil {
		return sorry.id + 1
	}
	return 0
}

// forsake lets no packet come to sorry servers that are removed.
func (d *Director) forsake(removed *service) {
	if s := d.services[removed.want.Key.served()]; s != nil && removed.want.Key.Sorry {
		atomic.StoreUint32(&s.row.Sorry, 0)
	}
}

// SetQuorum says whether enough of a service's real servers are well. While they
// are not, its sorry servers take the new connections, as with keepalived: known ones
// go on, and where no sorry server can be reached the real servers that are left
// serve. It holds until it is said again, over Set and restarts; a new service has
// its quorum. Unknown services are an error.
func (d *Director) SetQuorum(ctx context.Context, key ServiceKey, quorum bool) error {
	var err error
	if e := d.do(ctx, func() { err = d.setQuorum(key, quorum) }); e != nil {
		return e
	}
	return err
}

func (d *Director) setQuorum(key ServiceKey, quorum bool) error {
	s := d.services[key]
	if s == nil || key.Sorry {
		return fmt.Errorf("set quorum: there is no service %s", key)
	}
	if s.hasQuorum() == quorum {
		return nil
	}
	if quorum {
		atomic.AndUint32(&s.row.Flags, ^bpf.ServiceNoQuorum)
	} else {
		atomic.OrUint32(&s.row.Flags, bpf.ServiceNoQuorum)
	}
	d.log.Info("quorum of a service", "event", "quorum", "service", key.String(), "quorum", quorum)
	return nil
}

func (s *service) hasQuorum() bool { return atomic.LoadUint32(&s.row.Flags)&bpf.ServiceNoQuorum == 0 }

// takes reports whether some server of the service gets new connections.
func (s *service) takes() bool {
	return slices.ContainsFunc(s.reals, func(r *real) bool { return takesNew(r.row) })
}

// addSorry completes the state of a service that has sorry servers.
func (d *Director) addSorry(s *service, state *ServiceState) {
	state.QuorumLost = !s.hasQuorum()
	sorry := d.services[s.want.Key.OfSorry()]
	if sorry == nil {
		return
	}
	its := sorry.state()
	d.addShares(sorry, &its)
	state.Sorry = its.Reals
	state.SorryInUse = sorry.takes() && (state.QuorumLost || !s.takes())
	state.Counters.add(its.Counters)
	state.Rates.add(its.Rates)
	state.Untracked += its.Untracked
}

// formerSorry are the counters of a service's removed sorry servers, as long as one
// of them has connections; bequeath makes them the service's own.
func (d *Director) formerSorry(key ServiceKey) Counters {
	if former := d.ending[key.OfSorry()]; former != nil {
		return former.gone()
	}
	return Counters{}
}

// bequeath keeps the counters of a service that is forgotten: in the sum of all, or,
// of sorry servers, in those of the service that they served.
func (d *Director) bequeath(s *service) {
	heir := d.services[s.want.Key.served()]
	if heir == nil || !s.want.Key.Sorry {
		d.total.add(s.gone())
		return
	}
	total := heir.gone()
	total.add(s.gone())
	heir.setGone(total)
	heir.rate.last.add(s.gone()) // it is no traffic of its
}

func (r *Rates) add(o Rates) {
	r.CPS += o.CPS
	r.InPPS += o.InPPS
	r.OutPPS += o.OutPPS
	r.InBPS += o.InBPS
	r.OutBPS += o.OutBPS
}
