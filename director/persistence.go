// SPDX-License-Identifier: Apache-2.0

package director

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"xdplvs/bpf"
)

// Persistence sends all connections of a client to one real server: that of its
// first. A template remembers which, and is forgotten when the client has begun
// none for Timeout and has none left.
type Persistence struct {
	Timeout         time.Duration `json:"timeout"`              // whole seconds; 0: there is no persistence
	Prefix          uint8         `json:"prefix,omitempty"`     // leading bits of the client's address that count; 0: all
	AnyClient       bool          `json:"any_client,omitempty"` // none counts: of calls only
	Engine          Engine        `json:"engine,omitempty"`
	ExpireQuiescent bool          `json:"expire_quiescent,omitempty"`
	KeepDown        bool          `json:"keep_down,omitempty"` // templates of a real server that is down stay worth something
}

// Engine is what templates go by besides the client: IPVS's persistence engines.
type Engine uint8

// The engines.
const (
	NoEngine  Engine = iota
	SIPEngine        // the Call-ID of SIP messages over UDP; what has none is dropped
)

var engineNames = names[Engine]{{NoEngine, "none"}, {SIPEngine, "sip"}}

// String returns the name that configuration and ipvsadm use.
func (e Engine) String() string { return engineNames.format(e) }

// MarshalText implements encoding.TextMarshaler.
func (e Engine) MarshalText() ([]byte, error) { return []byte(e.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler; the error names the known engines.
func (e *Engine) UnmarshalText(text []byte) (err error) {
	*e, err = engineNames.parse("persistence engine", text)
	return err
}

// DefaultPersistence is ipvsadm's timeout.
const DefaultPersistence = 300 * time.Second

// MaxPersistence is ipvsadm's longest timeout that the data plane can count: 31
// days are more than jiffies have room for.
const MaxPersistence = 24 * 24 * time.Hour

// ftpPort is the one whose services IPVS lets have other ports, too.
const ftpPort = 21

// NetmaskBits are the bits that count, all of them spelled out.
func (p Persistence) NetmaskBits(family netip.Addr) int {
	switch {
	case p.AnyClient:
		return 0
	case p.Prefix == 0:
		return family.BitLen()
	}
	return int(p.Prefix)
}

func (p Persistence) validate(key ServiceKey) error {
	family := key.Addr
	switch {
	case p == Persistence{}:
		return nil
	case p.Engine == SIPEngine && key.Protocol != UDP && key.Mark == 0:
		return fmt.Errorf("persistence: engine sip is for udp, the service is %s", key.Protocol)
	case p.AnyClient && (p.Prefix != 0 || p.Engine == NoEngine):
		return errors.New("persistence: some bits of the client's address must count, unless a call does")
	case p.Timeout < time.Second || p.Timeout > MaxPersistence || p.Timeout%time.Second != 0:
		return fmt.Errorf("persistence: timeout %v is not 1s to %v in whole seconds", p.Timeout, MaxPersistence)
	case int(p.Prefix) > family.BitLen():
		return fmt.Errorf("persistence: prefix length %d is above %d", p.Prefix, family.BitLen())
	}
	return nil
}

// setPersistence writes what templates of the service are made by.
func (s *service) setPersistence(want *Service) {
	row, key := s.row, want.Key
	mask := net.CIDRMask(want.Persistence.NetmaskBits(key.Addr), key.Addr.BitLen())
	row.ClientMask = [2]uint64{}
	if key.Addr.Is4() {
		row.ClientMask[0] = uint64(binary.NativeEndian.Uint32(mask))
	} else {
		row.ClientMask = [2]uint64{binary.NativeEndian.Uint64(mask), binary.NativeEndian.Uint64(mask[8:])}
	}
	row.Port = bits.ReverseBytes16(key.Port)
	row.Mark = bits.ReverseBytes32(key.Mark)
	row.TemplatePort = row.Port
	if key.Port == ftpPort {
		row.TemplatePort = 0
	}
	row.Persistent = uint32(want.Persistence.Timeout / time.Second)
	if key.Sorry {
		row.Persistent = 0
	}
}

// flags are the service's in the data plane.
func (p Persistence) flags() (flags uint32) {
	if p.ExpireQuiescent {
		flags |= bpf.ServiceExpireQuiescent
	}
	if p.KeepDown {
		flags |= bpf.ServiceKeepDown
	}
	if p.Engine == SIPEngine {
		flags |= bpf.ServiceSIP
	}
	return flags
}

// obey writes what the real server's row takes over from its service. With
// persistence, IPVS maps no port but the service's own.
func (r *real) obey(s *Service) {
	r.onDown, r.sources = s.Conns.OnDown, s.Sources
	r.row.ToPort, r.row.IfPort = bits.ReverseBytes16(r.want.Key.Port), 0
	if s.Persistence.Timeout == 0 {
		return
	}
	switch s.Key.Port {
	case 0:
		r.row.ToPort = 0
	case ftpPort:
		r.row.IfPort = bits.ReverseBytes16(ftpPort)
	}
}

// tellPorts tells packets whether there are services that have other ports than
// their own, so that they look for those only then.
func (d *Director) tellPorts() {
	var port0, ftp uint32
	for _, services := range []map[ServiceKey]*service{d.services, d.ending} {
		for key := range services {
			if key.Port == 0 && key.Mark == 0 {
				port0 = 1
			}
			if key.Port == ftpPort && key.Protocol == TCP {
				ftp = 1
			}
		}
	}
	atomic.StoreUint32(&d.tables.Settings.Port0, port0)
	atomic.StoreUint32(&d.tables.Settings.Ftp, ftp)
}
