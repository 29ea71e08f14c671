// SPDX-License-Identifier: Apache-2.0

package defense

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Settings are what an administrator asks for. Names are those of IPVS's sysctls, where those exist.
type Settings struct {
	DropEntry  Mode  `json:"drop_entry"`
	DropPacket Mode  `json:"drop_packet"`
	SecureTCP  Mode  `json:"secure_tcp"`
	SynCookies Mode  `json:"syn_cookies"` // of services that have no mode of their own
	DropRate   int32 `json:"am_droprate"` // drop_packet always on drops each so manieth; 0: none; below 0: all, as IPVS does
	MemThresh  int32 `json:"amemthresh"`  // pages: less memory available than that is pressure
	Occupancy  uint8 `json:"occupancy"`   // percent of a connection table: more in use is pressure; 0: never
	HalfOpen   uint8 `json:"half_open"`   // percent of a connection table: more half-open is a flood of SYNs; 0: never
}

// DefaultSettings are IPVS's; the occupancy counts once a strategy is automatic.
var DefaultSettings = Settings{DropRate: 10, MemThresh: 1024, Occupancy: 90, HalfOpen: 10}

// MostOccupancy is the highest Occupancy: of a full table it could not be said that it is fuller.
const MostOccupancy = 99

// MostHalfOpen is the highest HalfOpen.
const MostHalfOpen = 99

// setting is one of them as text.
type setting struct {
	name string
	get  func(*Settings) string
	set  func(*Settings, string) error
}

var settings = []setting{
	modeSetting("drop_entry", func(s *Settings) *Mode { return &s.DropEntry }),
	modeSetting("drop_packet", func(s *Settings) *Mode { return &s.DropPacket }),
	modeSetting("secure_tcp", func(s *Settings) *Mode { return &s.SecureTCP }),
	modeSetting("syn_cookies", func(s *Settings) *Mode { return &s.SynCookies }),
	numberSetting("am_droprate", math.MinInt32, math.MaxInt32, func(s *Settings) *int32 { return &s.DropRate }),
	numberSetting("amemthresh", 0, math.MaxInt32, func(s *Settings) *int32 { return &s.MemThresh }),
	numberSetting("occupancy", 0, MostOccupancy, func(s *Settings) *uint8 { return &s.Occupancy }),
	numberSetting("half_open", 0, MostHalfOpen, func(s *Settings) *uint8 { return &s.HalfOpen }),
}

func modeSetting(name string, at func(*Settings) *Mode) setting {
	return setting{name, func(s *Settings) string { return strconv.Itoa(int(*at(s))) }, func(s *Settings, text string) error {
		m, err := ParseMode(text)
		if err == nil {
			*at(s) = m
		}
		return err
	}}
}

func numberSetting[T int32 | uint8](name string, low, high int64, at func(*Settings) *T) setting {
	return setting{name, func(s *Settings) string { return strconv.FormatInt(int64(*at(s)), 10) }, func(s *Settings, text string) error {
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil || n < low || n > high {
			return fmt.Errorf("expected a number from %d to %d, found %q", low, high, text)
		}
		*at(s) = T(n)
		return nil
	}}
}

// Names are those of all settings.
func Names() (names []string) {
	for _, s := range settings {
		names = append(names, s.name)
	}
	return names
}

// sysctlPrefix is what the names have in front of them in sysctl.conf.
const sysctlPrefix = "net.ipv4.vs."

func find(name string) (setting, error) {
	short := strings.TrimPrefix(name, sysctlPrefix)
	for _, s := range settings {
		if s.name == short {
			return s, nil
		}
	}
	return setting{}, fmt.Errorf("unknown setting %q (known: %s)", name, strings.Join(Names(), ", "))
}

// Set changes the setting of that name, which may begin as in sysctl.conf. The error says what is known.
func (s *Settings) Set(name, text string) error {
	one, err := find(name)
	if err != nil {
		return err
	}
	if err := one.set(s, text); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// Get returns the setting of that name as a sysctl shows it, "" if there is none.
func (s *Settings) Get(name string) string {
	one, err := find(name)
	if err != nil {
		return ""
	}
	return one.get(s)
}

// Validate tells what Set would not take.
func (s *Settings) Validate() error {
	for _, one := range settings {
		if err := s.Set(one.name, one.get(s)); err != nil {
			return err
		}
	}
	return nil
}
