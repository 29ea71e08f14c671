// SPDX-License-Identifier: Apache-2.0

package director

import (
	"bytes"
	"log/slog"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"xdplvs/bpf"
)

// auditedFarm is a farm with something of everything, and its log.
func auditedFarm(t *testing.T) (f *farm, want Desired, log *bytes.Buffer) {
	t.Helper()
	sizes := testSizes
	sizes.Plans, sizes.Marks, sizes.Prefixes = 1<<15, 16, 16
	tables, err := bpf.NewMemoryTables(sizes)
	if err != nil {
		t.Fatal(err)
	}
	f, log = farmOn(t, tables), &bytes.Buffer{}
	f.log = slog.New(slog.NewTextHandler(log, nil))
	guarded := web(81, "wrr", 3, 1)
	guarded.Guard = Guard{Deny: []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")}, Ceiling: Limit{Rate: 10, Burst: 10}}
	want = desired(web(80, "rr", 1, 1, 1), guarded, web(82, "mh", 1, 2), web(83, "wlc", 1, 1))
	want.Marks = []MarkRule{{Mark: 7, Protocol: TCP, Dest: netip.MustParsePrefix("192.0.2.99/32"), DestPorts: []PortRange{{80, 80}}}}
	want.Closed = map[netip.Addr]ClosedPorts{netip.MustParseAddr("192.0.2.10"): ClosedReset}
	f.set(want)
	log.Reset()
	f.sealSettings()
	f.auditAll()
	return f, want, log
}

// auditAll is a whole pass, as of two seconds.
func (f *farm) auditAll() {
	f.t.Helper()
	f.auditSettings()
	for range int(sweepPeriod / sweepTick) {
		f.audit()
	}
	f.sealSettings()
}

// image are the rows that a packet may look at, but for what packets write.
func (f *farm) image() []any {
	t := f.tables
	plans := []uint32{}
	for _, key := range []uint16{80, 81, 82, 83} {
		row := f.row(web(key, "rr").Key)
		if row == nil {
			return nil
		}
		for _, p := range []bpf.Plan{row.Plan[row.Current&1], row.Flow} {
			plans = append(plans, p.Length, p.Kind)
			plans = append(plans, part(t.Plans, p)...)
		}
	}
	services := slices.Clone(t.Services)
	for i := range services {
		services[i].Plan, services[i].Flow, services[i].Current, services[i].Cursor = [2]bpf.Plan{}, bpf.Plan{}, 0, [2]uint64{}
	}
	keys := f.keys.All()
	slices.SortFunc(keys, func(a, b bpf.KeyEntry) int { return keyOf(a.Key).Compare(keyOf(b.Key)) })
	return []any{plans, services, slices.Clone(t.Reals), slices.Clone(t.Filter), slices.Clone(t.Guards),
		keys, maps.Clone(f.plane.attached), maps.Clone(f.plane.ports), maps.Clone(f.plane.closed), t.Settings.HashKey, t.Settings.Timeout}
}

func part(plans []uint32, p bpf.Plan) []uint32 {
	if int(p.Base)+int(p.Length) > len(plans) {
		return nil
	}
	return slices.Clone(plans[p.Base:][:p.Length])
}

// Whatever somebody changes is put back with the next pass, counted, and said once.
func TestDrift(t *testing.T) {
	key := web(80, "rr").Key
	for name, test := range map[string]struct {
		what   string
		damage func(*farm)
	}{
		"a real server's row is gone":     {DriftReals, func(f *farm) { f.tables.Reals[f.services[key].reals[0].id] = bpf.Real{} }},
		"its link-layer address":          {DriftReals, func(f *farm) { f.tables.Reals[f.services[key].reals[1].id].Mac[3] ^= 1 }},
		"its generation":                  {DriftReals, func(f *farm) { f.tables.Reals[f.services[key].reals[2].id].Generation++ }},
		"it is usable no more":            {DriftReals, func(f *farm) { f.tables.Reals[f.services[key].reals[0].id].Flags &^= bpf.RealUsable }},
		"its weight":                      {DriftReals, func(f *farm) { f.tables.Reals[f.services[key].reals[0].id].Weight = 99 }},
		"a service's flags":               {DriftServices, func(f *farm) { f.row(key).Flags |= bpf.ServiceOnePacket }},
		"it is removed":                   {DriftServices, func(f *farm) { f.row(key).Flags |= bpf.ServiceRemoved }},
		"its number":                      {DriftServices, func(f *farm) { f.row(key).Id = 7 }},
		"its plan":                        {DriftPlans, func(f *farm) { f.row(key).Plan[f.row(key).Current&1].Length = 0 }},
		"which plan":                      {DriftPlans, func(f *farm) { f.row(key).Current ^= 1 }},
		"what a plan names":               {DriftPlans, func(f *farm) { f.tables.Plans[f.row(key).Plan[f.row(key).Current&1].Base] = bpf.NoReal }},
		"what a hash plan names":          {DriftPlans, func(f *farm) { f.tables.Plans[f.row(key).Flow.Base+5] ^= 1 }},
		"a key is gone":                   {DriftKeys, func(f *farm) { clear(f.tables.Keys) }},
		"a key names another service":     {DriftKeys, func(f *farm) { f.slot(key).Id++ }},
		"a key that nobody wants":         {DriftKeys, func(f *farm) { f.slot(key).Port ^= 0x0101 }},
		"the filter":                      {DriftKeys, func(f *farm) { clear(f.tables.Filter) }},
		"more than the filter should say": {DriftKeys, func(f *farm) { f.tables.Filter[77] = ^uint64(0) }},
		"a timeout":                       {DriftSettings, func(f *farm) { f.tables.Settings.Timeout[1] = 3 }},
		"the hash key":                    {DriftSettings, func(f *farm) { f.tables.Settings.HashKey.Word[3]++ }},
		"a marking rule":                  {DriftMarks, func(f *farm) { clear(f.tables.MarkRules) }},
		"a limit":                         {DriftGuards, func(f *farm) { clear(f.tables.Guards) }},
		"a prefix list":                   {DriftGuards, func(f *farm) { clear(f.tables.Prefixes) }},
		"closed ports":                    {DriftClosed, func(f *farm) { clear(f.plane.closed) }},
		"a transmit port":                 {DriftPorts, func(f *farm) { clear(f.plane.ports) }},
		"a pin":                           {DriftPins, func(f *farm) { f.plane.unpinned = 1 }},
		"the program":                     {DriftProgram, func(f *farm) { clear(f.plane.attached) }},
	} {
		t.Run(name, func(t *testing.T) {
			f, _, log := auditedFarm(t)
			if log.Len() > 0 || len(f.driftStates()) > 0 {
				t.Fatalf("nobody has changed anything, and the log is\n%s", log)
			}
			before := f.image()
			test.damage(f)
			f.auditAll()
			f.followInterfaces()
			f.auditAll()
			f.auditAll()
			if after := f.image(); !reflect.DeepEqual(after, before) {
				t.Errorf("the tables are\n%v\nbefore they were\n%v", after, before)
			}
			if n := strings.Count(log.String(), "event=drift_repaired what="+test.what+" "); n != 1 {
				t.Errorf("it was said %d times:\n%s", n, log)
			}
			if got := f.driftStates(); len(got) == 0 || !slices.ContainsFunc(got, func(d Drift) bool { return d.What == test.what && d.Times > 0 }) {
				t.Errorf("counted is %+v", got)
			}
			f.check()
		})
	}
}

// slot is where a service's key is stored.
func (f *farm) slot(key ServiceKey) *bpf.ServiceKey {
	id := f.services[key].id
	for b := range f.tables.Keys {
		for w := range f.tables.Keys[b].Key {
			if slot := &f.tables.Keys[b].Key[w]; slot.Id == id+1 && slot.Protocol == uint8(TCP) {
				return slot
			}
		}
	}
	f.t.Fatal("the key is not stored")
	return nil
}

// What the director and packets change themselves is nobody's drift: reloads, next hops, health, thresholds.
func TestNoDrift(t *testing.T) {
	f, want, log := auditedFarm(t)
	key := want.Services[0].Key
	for _, step := range []func(){
		func() { f.resolve(want, "10.0.0.1") },
		func() { f.resolve(want) },
		func() { want.Services[0].Reals[1].Weight = 0; f.set(want) },
		func() { want.Services[0].Reals = want.Services[0].Reals[:2]; f.set(want) },
		func() { f.reap() },
		func() { f.tables.Reals[f.services[key].reals[0].id].Flags |= bpf.RealOverloaded },
		func() { f.tables.Reals[f.services[key].reals[0].id].Mtu = 1400 },
		func() { f.take(key, 5); f.take(want.Services[3].Key, 40); f.follow() },
		func() { f.compact() },
		func() { f.tables.Guards[1].CeilingPaid = 99 },
		func() { want.Services = want.Services[1:]; f.set(want) },
		func() { want.Marks, want.Closed = nil, nil; f.set(want) },
	} {
		step()
		f.sealSettings()
		f.auditAll()
	}
	if log.Len() > 0 && strings.Contains(log.String(), "drift") {
		t.Errorf("the log is\n%s", log)
	}
}
