// SPDX-License-Identifier: Apache-2.0

package defense

// Machine holds the strategies' modes. The zero value is all off. It is not safe for concurrent use.
type Machine struct {
	settings Settings
	cause    Cause
	rate     int32 // that the pressure asks for
	flood    bool  // SYN cookies are due
	watched  bool
	given    bool // what was told last of SYN cookies
}

// Change is a strategy that has begun to act, or ended.
type Change struct {
	Strategy string
	Active   bool
	Cause    Cause // NoPressure: it was set so, or the pressure is over
}

// Levels are what is to be done.
type Levels struct {
	DropRate int32 // of how many new connections one is dropped; 0: none; below 0: all
	// Restart the counting with each update, as IPVS does in automatic modes: what is dropped is the
	// last of as many as the rate says, and not the first.
	Restart   bool
	DropEntry bool
	SecureTCP bool
	// SynCookies are to be given by services that have no mode of their own, Flood: by those
	// whose mode is automatic.
	SynCookies, Flood bool
}

// Watch says whether anybody has an automatic mode of SYN cookies of his own: then their changes are told, too.
func (m *Machine) Watch(watch bool) { m.watched = watch }

// Set puts settings in force. A mode that says that an automatic strategy acts is
// taken for automatic: whether it does the pressure says.
func (m *Machine) Set(s Settings, p Pressure) []Change {
	before := m.settings
	m.settings = s
	m.follow(p)
	return m.changes(before)
}

// Update is told the pressure, once a second.
func (m *Machine) Update(p Pressure) []Change {
	before := m.settings
	m.follow(p)
	return m.changes(before)
}

func (m *Machine) follow(p Pressure) {
	m.cause, m.rate = m.settings.pressing(p)
	m.flood = m.settings.flooded(p)
	for _, mode := range []*Mode{&m.settings.DropEntry, &m.settings.DropPacket, &m.settings.SecureTCP} {
		mode.follow(m.cause != NoPressure)
	}
	m.settings.SynCookies.follow(m.flood)
}

// gives reports whether there are services that give SYN cookies, but for those that always do.
func (m *Machine) gives() bool { return m.settings.SynCookies.Active() || m.watched && m.flood }

func (m *Machine) changes(before Settings) (all []Change) {
	add := func(name string, was, is bool, cause Cause) {
		if was == is {
			return
		}
		all = append(all, Change{name, is, cause})
	}
	strategy := func(name string, was, is Mode) {
		cause := NoPressure
		if is == Acting {
			cause = m.cause
		}
		add(name, was.Active(), is.Active(), cause)
	}
	strategy("drop_entry", before.DropEntry, m.settings.DropEntry)
	strategy("drop_packet", before.DropPacket, m.settings.DropPacket)
	strategy("secure_tcp", before.SecureTCP, m.settings.SecureTCP)
	cause := NoPressure
	if m.flood && m.settings.SynCookies != Always {
		cause = Flood
	}
	add("syn_cookies", m.given, m.gives(), cause)
	m.given = m.gives()
	return all
}

// Settings are those in force, with the modes as they have become.
func (m *Machine) Settings() Settings { return m.settings }

// Cause is what presses now.
func (m *Machine) Cause() Cause { return m.cause }

// Levels are what is to be done until the next Set or Update.
func (m *Machine) Levels() Levels {
	l := Levels{DropEntry: m.settings.DropEntry.Active(), SecureTCP: m.settings.SecureTCP.Active(),
		SynCookies: m.settings.SynCookies.Active(), Flood: m.flood}
	switch m.settings.DropPacket {
	case Acting:
		l.DropRate, l.Restart = m.rate, true
	case Always:
		l.DropRate = m.settings.DropRate
	}
	return l
}
