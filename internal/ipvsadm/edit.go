// SPDX-License-Identifier: Apache-2.0

package ipvsadm

import (
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"xdplvs/director"
)

// edits tells that a command changes the table.
func (c *call) edits() bool {
	switch c.command {
	case cmdAdd, cmdEdit, cmdDelete, cmdFlush, cmdAddServer, cmdEditServer, cmdDeleteServer:
		return true
	}
	return false
}

// settings are keys of the file.
type settings map[string]any

func (s settings) raw() map[string]json.RawMessage {
	raw := make(map[string]json.RawMessage, len(s))
	for key, value := range s {
		text, err := json.Marshal(value)
		if err != nil {
			panic(err) // texts, numbers, truths, and maps and lists of them
		}
		raw[key] = text
	}
	return raw
}

// edit is what the command is to the director.
func (c *call) edit() (director.Edit, error) {
	e := director.Edit{Service: c.key.String()}
	var set settings
	var err error
	switch c.command {
	case cmdAdd:
		e.Op, e.Service = director.AddService, ""
		set, err = c.service()
		c.identify(set)
	case cmdEdit:
		e.Op = director.EditService
		set, err = c.service()
	case cmdDelete:
		e.Op = director.RemoveService
	case cmdFlush:
		e.Op, e.Service = director.RemoveAll, ""
	case cmdAddServer:
		e.Op = director.AddReal
		set, err = c.server()
		c.locate(set)
	case cmdEditServer:
		e.Op, e.Real = director.EditReal, c.real.String()
		set, err = c.server()
	case cmdDeleteServer:
		e.Op, e.Real = director.RemoveReal, c.real.String()
		if c.real.Port == 0 {
			e.Real = c.real.Addr.String() // with the service's port
		}
	}
	if set != nil {
		e.Set = set.raw()
	}
	return e, err
}

// service are the options of -A and -E; what is not there is taken back.
func (c *call) service() (settings, error) {
	if !slices.Contains(director.SchedulerNames(), c.scheduler) || c.engine != "" && c.engine != director.SIPEngine.String() {
		return nil, &failure{255, noEngine}
	}
	set := settings{"scheduler": c.scheduler, "scheduler_flags": nil, "one_packet": nil, "persistence": nil}
	if c.flags != "" {
		set["scheduler_flags"] = strings.Split(c.flags, ",")
	}
	if c.given[optOnePacket] {
		set["one_packet"] = true
	}
	if c.persist == 0 {
		return set, nil
	}
	persistence := settings{"timeout": c.persist}
	if c.engine != "" { // without -p IPVS keeps it, for nothing
		persistence["engine"] = c.engine
	}
	bits, err := c.maskBits()
	if err != nil {
		return nil, err
	}
	if bits > 0 || c.engine != "" && c.mask != "" {
		persistence["netmask"] = bits
	}
	set["persistence"] = persistence
	return set, nil
}

// maskBits are the leading bits of the mask; 0: all, or with an engine none.
func (c *call) maskBits() (int, error) {
	if c.mask == "" {
		return 0, nil
	}
	if c.key.Addr.Is6() {
		n, _ := integer(c.mask, 1, 128) // the parser has looked at it
		return n, nil
	}
	mask, err := netip.ParseAddr(c.mask)
	if err != nil {
		return 0, err
	}
	ones, bits := net.IPMask(mask.AsSlice()).Size()
	if bits == 0 || ones == 0 && c.engine == "" {
		return 0, &failure{255, fmt.Sprintf("netmask %s: the director knows those that are leading ones, from 128.0.0.0 on", c.mask)}
	}
	return ones, nil
}

// identify adds what a service is known by. Packets of a removed real server's connections are
// treated as IPVS does.
func (c *call) identify(set settings) {
	if set == nil {
		return
	}
	set["semantics"] = "ipvs"
	if c.key.Mark != 0 {
		set["fwmark"] = c.key.Mark
		if c.key.Addr.Is6() {
			set["family"] = "ipv6"
		}
		return
	}
	set["protocol"], set["address"], set["port"] = c.key.Protocol.String(), c.key.Addr.String(), any("any")
	if c.key.Port != 0 {
		set["port"] = c.key.Port
	}
}

// server are the options of -a and -e.
func (c *call) server() (settings, error) {
	if c.given[optTunRemCsum] {
		return nil, &failure{255, "Remote checksum offload is not this director's: --tun-csum has the checksum made here"}
	}
	set := settings{"method": c.method, "weight": c.weight, "upper": c.upper, "lower": c.lower, "tunnel": nil}
	if c.weight > director.MaxWeight {
		return nil, &failure{255, fmt.Sprintf("illegal weight specified: the director's largest is %d", director.MaxWeight)}
	}
	if c.real.Addr.IsLoopback() {
		set["method"] = "local" // as IPVS treats it, whatever it is called
		return set, nil
	}
	if c.method == "tun" && c.tunType != "ipip" {
		tunnel := settings{"type": c.tunType, "checksum": c.given[optTunCsum]}
		if c.tunPort != 0 {
			tunnel["port"] = c.tunPort
		}
		set["tunnel"] = tunnel
	}
	return set, nil
}

// locate adds where a new real server is.
func (c *call) locate(set settings) {
	if set == nil {
		return
	}
	set["address"] = c.real.Addr.String()
	if c.real.Port != 0 {
		set["port"] = c.real.Port
	}
}

// ParseRule reads a line of ipvsadm-save, without ipvsadm's name.
func ParseRule(words []string, names Names) (director.Edit, error) {
	c, err := parse("ipvsadm", words, names)
	if err != nil {
		return director.Edit{}, err
	}
	if !c.edits() {
		return director.Edit{}, fmt.Errorf("it changes no service and no real server")
	}
	return c.edit()
}
