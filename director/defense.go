// SPDX-License-Identifier: Apache-2.0

package director

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"time"

	"xdplvs/bpf"
	"xdplvs/defense"
)

// Defense is how the director defends itself and its real servers.
type Defense struct {
	Strategies DefenseSettings // IPVS's
	Guard      Guard           // of all services together; each may have one of its own
}

// DefenseSettings are those of the strategies that IPVS has.
type DefenseSettings = defense.Settings

// DefensePressure is what the automatic strategies look at.
type DefensePressure = defense.Pressure

// DefenseMode says when a strategy acts.
type DefenseMode = defense.Mode

// DefaultDefense is that of a configuration that says nothing.
var DefaultDefense = Defense{Strategies: defense.DefaultSettings}

// MostOccupancy is the highest occupancy that can be asked for, in percent.
const MostOccupancy = defense.MostOccupancy

// MostHalfOpen is the highest share of half-open connections that can be asked for, in percent.
const MostHalfOpen = defense.MostHalfOpen

// ParseDefenseMode reads off, auto or always, or 0 to 3.
func ParseDefenseMode(text string) (DefenseMode, error) { return defense.ParseMode(text) }

func (d *Defense) validate() error {
	if err := d.Strategies.Validate(); err != nil {
		return fmt.Errorf("defense: %w", err)
	}
	if err := d.Guard.validate(); err != nil {
		return fmt.Errorf("defense: %w", err)
	}
	return nil
}

// DefenseNames are the names of the strategies' settings.
func DefenseNames() []string { return defense.Names() }

// UnknownPages of available memory: it could not be read.
const UnknownPages = defense.UnknownPages

// DefenseChange are settings by their names, as text.
type DefenseChange map[string]string

// UnmarshalJSON implements json.Unmarshaler: values are numbers, or text.
func (c *DefenseChange) UnmarshalJSON(text []byte) error {
	var all map[string]any
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	if err := d.Decode(&all); err != nil {
		return err
	}
	*c = make(DefenseChange, len(all))
	for name, value := range all {
		(*c)[name] = fmt.Sprint(value)
	}
	return c.Validate()
}

// Validate tells what is wrong with the names and values.
func (c DefenseChange) Validate() error { return c.apply(new(DefenseSettings)) }

// Keys are the settings that it gives other values, in order.
func (c DefenseChange) Keys() (changes []KeyChange) {
	for _, name := range slices.Sorted(maps.Keys(c)) {
		changes = append(changes, KeyChange{Key: name, New: c[name]})
	}
	return changes
}

func (c DefenseChange) apply(s *DefenseSettings) error {
	var errs []error
	for name, text := range c {
		errs = append(errs, s.Set(name, text))
	}
	return errors.Join(errs...)
}

// DefenseState is what the defenses do.
type DefenseState struct {
	DefenseSettings                   // automatic modes as they are: 1 or 2
	Pressure        defense.Pressure  `json:"pressure"`
	Cause           defense.Cause     `json:"cause"`   // why automatic strategies act
	Rate            int32             `json:"rate"`    // drop_packet: one of so many new connections is dropped now; 0: none
	Evicted         uint64            `json:"evicted"` // entries that drop_entry has ended
	Dropped         map[string]uint64 `json:"dropped"` // packets, by verdict
	Cookies         CookieState       `json:"cookies"`
	Guards          int               `json:"guards"` // services that new connections have to get past something for, all together being one
}

// CookieState is what SYN cookies do.
type CookieState struct {
	Services int    `json:"services"` // that answer SYNs with them now
	Able     int    `json:"able"`     // services whose real servers are all by nat or fullnat
	Answered uint64 `json:"answered"` // SYNs
	Proven   uint64 `json:"proven"`   // connections that began so
}

// defenseVerdicts are those of packets that the defenses drop.
var defenseVerdicts = []string{"drop_packet", "drop_denied", "drop_budget", "drop_ceiling", "drop_closed", "drop_cookie"}

// defenses is what the director remembers of them.
type defenses struct {
	machine defense.Machine
	entries defense.DropEntry
	evicted uint64
	due     float64 // sets that drop_entry has still to look at
	used    [2]int  // places of the tables that the last sweep found in use
	blind   bool    // that memory cannot be read was said
	guards  int     // that there are, see DefenseState
	flood   flood
}

// defendTick is how often IPVS looks at the pressure.
const defendTick = time.Second

// defend is done at every defendTick.
func (d *Director) defend() {
	d.countCookies()
	if err := d.dropOverflow(); err != nil {
		d.log.Error("drop_entry did not see all connections", "event", "overflow_unknown", "error", err)
	}
	d.defended(d.defenses.machine.Update(d.pressure()))
}

func (d *Director) applyDefense(s DefenseSettings) {
	d.defended(d.defenses.machine.Set(s, d.pressure()))
}

// defended tells the data plane, and the log what has changed.
func (d *Director) defended(changes []defense.Change) {
	s, l := d.tables.Settings, d.defenses.machine.Levels()
	atomic.StoreInt32(&s.DropRate, l.DropRate)
	if l.Restart {
		atomic.StoreInt32(&d.tables.Defense.DropLeft, l.DropRate)
	}
	secure := uint32(0)
	if l.SecureTCP {
		secure = 1
	}
	atomic.StoreUint32(&s.SecureTcp, secure)
	d.tellDefending()
	d.tellCookies()
	for _, c := range changes {
		d.logDefense(c, l.DropRate)
	}
}

// tellDefending spares new connections the questions that nobody wants asked.
func (d *Director) tellDefending() {
	m, defending := &d.defenses.machine, uint32(0)
	if m.Levels().DropRate != 0 {
		defending |= bpf.DefendRate
	}
	if d.defenses.guards > 0 {
		defending |= bpf.DefendGuard
	}
	if s := m.Settings(); d.defenses.guards > 0 || s.DropEntry|s.DropPacket|s.SecureTCP != defense.Off || d.proves() {
		defending |= bpf.DefendSample
	}
	atomic.StoreUint32(&d.tables.Settings.Defending, defending)
}

func (d *Director) logDefense(c defense.Change, rate int32) {
	if d.defending != nil {
		d.defending(c.Strategy, c.Active, string(c.Cause))
	}
	args := []any{"event", "defense", "strategy", c.Strategy, "active", c.Active}
	if c.Cause != defense.NoPressure {
		p := d.pressure()
		args = append(args, "cause", c.Cause, "available_pages", p.Pages, "places_used", p.Used, "places", p.Places)
	}
	if c.Cause == defense.Flood {
		p := d.pressure()
		args = append(args, "half_open", p.HalfOpen, "half_open_places", p.HalfPlaces)
	}
	if c.Strategy == "drop_packet" && c.Active {
		args = append(args, "rate", rate)
	}
	if c.Active {
		d.log.Warn("a defense begins", args...)
	} else {
		d.log.Info("a defense ends", args...)
	}
}

// pressure is what presses now; places as the last sweep has found them.
func (d *Director) pressure() defense.Pressure {
	p := defense.Pressure{Pages: d.availablePages()}
	places := [2]int{len(d.tables.Conns4), len(d.tables.Conns6)}
	for family, used := range d.defenses.used {
		// The fuller one, without a division: used/places > p.Used/p.Places.
		if p.Places == 0 || int64(used)*p.Places > p.Used*int64(places[family]) {
			p.Places, p.Used = int64(places[family]), int64(used)
		}
	}
	p.HalfOpen, p.HalfPlaces = d.halfOpen()
	return p
}

func (d *Director) availablePages() int64 {
	if d.memoryPages == nil {
		return defense.UnknownPages
	}
	pages, err := d.memoryPages()
	if err != nil && !d.defenses.blind {
		d.log.Error("automatic defenses do not see memory", "event", "memory_unknown", "error", err)
	}
	if d.defenses.blind = err != nil; err != nil {
		return defense.UnknownPages
	}
	return pages
}

// Defense returns what the defenses do.
func (d *Director) Defense(ctx context.Context) (s DefenseState, err error) {
	if e := d.do(ctx, func() { s, err = d.defenseState() }); e != nil {
		return s, e
	}
	return s, err
}

func (d *Director) defenseState() (DefenseState, error) {
	m := &d.defenses.machine
	s := DefenseState{
		DefenseSettings: m.Settings(),
		Pressure:        d.pressure(),
		Cause:           m.Cause(),
		Rate:            m.Levels().DropRate,
		Evicted:         d.defenses.evicted,
		Dropped:         map[string]uint64{},
	}
	verdicts, err := d.plane.Verdicts()
	for _, name := range defenseVerdicts {
		s.Dropped[name] = verdicts[name]
	}
	s.Cookies = d.cookieState(verdicts)
	s.Guards = d.defenses.guards
	return s, err
}

// SetDefense changes settings of the strategies until the next Set, and returns what is in force then.
// On error nothing was changed.
func (d *Director) SetDefense(ctx context.Context, change DefenseChange) (s DefenseState, err error) {
	if err := change.Validate(); err != nil {
		return s, err
	}
	e := d.do(ctx, func() {
		settings := d.defenses.machine.Settings()
		_ = change.apply(&settings) // it is valid
		d.applyDefense(settings)
		s, err = d.defenseState()
	})
	if e != nil {
		return s, e
	}
	return s, err
}

// dropEntries is drop_entry's share of a sweep's tick: sets drawn at random, as
// IPVS draws rows of its table.
func (d *Director) dropEntries(now uint32) {
	if !d.defenses.machine.Levels().DropEntry {
		d.defenses.due = 0
		return
	}
	sets4, sets6 := len(d.tables.Conns4)/bpf.SetPlaces, len(d.tables.Conns6)/bpf.SetPlaces
	d.defenses.due += float64(sets4+sets6) / defense.Part * sweepTick.Seconds()
	for ; d.defenses.due >= 1; d.defenses.due-- {
		if set := rand.IntN(sets4 + sets6); set < sets4 {
			d.dropFrom4(set*bpf.SetPlaces, now)
		} else {
			d.dropFrom6((set-sets4)*bpf.SetPlaces, now)
		}
	}
}

// dropOverflow is drop_entry's share of a second of the connections that lie outside the tables: each is drawn with
// the chance that those inside have. They are few.
func (d *Director) dropOverflow() error {
	if !d.defenses.machine.Levels().DropEntry {
		return nil
	}
	now, err := d.clock.Now()
	if err != nil {
		return err
	}
	drawn := map[bpf.ConnKey]bpf.Conn{}
	err = d.plane.Overflow(func(key *bpf.ConnKey, c *bpf.Conn) bool {
		if rand.IntN(defense.Part) == 0 && d.drops(c, now) {
			drawn[*key] = *c
		}
		return true
	})
	for key, c := range drawn {
		err = errors.Join(err, d.plane.FreeOverflow(&key))
		d.dropped(&c)
	}
	return err
}

func (d *Director) dropFrom4(first int, now uint32) {
	for i := first; i < first+bpf.SetPlaces; i++ {
		if c, ok := bpf.ReadConn4(&d.tables.Conns4[i]); ok && d.drops(&c.C, now) && d.tables.Free4(i, &c.C) {
			d.dropped(&c.C)
		}
	}
}

func (d *Director) dropFrom6(first int, now uint32) {
	for i := first; i < first+bpf.SetPlaces; i++ {
		if c, ok := bpf.ReadConn6(&d.tables.Conns6[i]); ok && d.drops(&c.C, now) && d.tables.Free6(i, &c.C) {
			d.dropped(&c.C)
		}
	}
}

// dropped counts an entry that drop_entry has ended. Its template goes with it, as in the kernel.
func (d *Director) dropped(c *bpf.Conn) {
	d.defenses.evicted++
	if d.tables.FreeTemplateOf(c) {
		d.defenses.evicted++
	}
}

// drops reports whether drop_entry ends a connection or template.
func (d *Director) drops(c *bpf.Conn, now uint32) bool {
	e := defense.Entry{
		Openness: openness[bpf.ConnState(c)%uint8(stateNumbers)],
		Idle:     d.clock.Duration(int32(now - c.LastUse)),
		Packets:  int(c.Packets),
	}
	if bpf.IsTemplate(c) {
		e.Controls, e.Openness = int(bpf.TemplateControls(c)), d.templateOpenness(c)
	}
	return d.defenses.entries.Drops(e)
}

// templateOpenness: an assured template is spared, unless one-packet scheduling has assured it.
func (d *Director) templateOpenness(c *bpf.Conn) defense.Openness {
	switch {
	case d.tables.Services[d.tables.Reals[c.Real].Service].Flags&bpf.ServiceOnePacket != 0:
		return defense.Open
	case bpf.TemplateAssured(c):
		return defense.Closing
	default:
		return defense.HalfOpen
	}
}

// openness is what drop_entry takes the states for, by number; those that are
// not here it spares.
var openness = [stateNumbers]defense.Openness{
	1: defense.Open, 3: defense.HalfOpen, 10: defense.HalfOpen, // ESTABLISHED, SYN_RECV, SYNACK
	bpf.StateUDP: defense.Open,
	33:           defense.HalfOpen, 34: defense.HalfOpen, 40: defense.Open, // SCTP: INIT1, INIT, ESTABLISHED
}
