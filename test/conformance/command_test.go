// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"xdplvs/director"
	"xdplvs/scheduler"
)

var protocols = map[string]director.Protocol{"tcp": director.TCP, "udp": director.UDP}

// service is the scenario's virtual service before it has real servers.
func (s scenario) service() (director.Service, error) {
	service := director.Service{
		Key: director.ServiceKey{Protocol: protocols[s.Proto], Addr: s.VIP.Addr(), Port: s.VIP.Port()},
	}
	if s.Fwmark != 0 {
		service.Key = director.MarkKey(uint32(s.Fwmark), false)
	}
	return edited(service, append([]string{"-s", s.Sched}, strings.Fields(s.SvcArgs)...))
}

// keyOf is the service that a command is about: -t 10.0.0.1:80, or -f 7.
func keyOf(words []string) (key director.ServiceKey, err error) {
	if words[0] == "-f" {
		mark, err := strconv.ParseUint(words[1], 10, 32)
		return director.MarkKey(uint32(mark), false), err
	}
	where, err := netip.ParseAddrPort(words[1])
	protocol, known := map[string]director.Protocol{"-t": director.TCP, "-u": director.UDP}[words[0]]
	if err == nil && !known {
		err = fmt.Errorf("unknown option %q", words[0])
	}
	return director.ServiceKey{Protocol: protocol, Addr: where.Addr(), Port: where.Port()}, err
}

// edited is the service with ipvsadm's service options. As ipvsadm does, -E
// leaves nothing of the options before.
func edited(service director.Service, options []string) (director.Service, error) {
	service.OnePacket, service.Flags, service.Persistence.Timeout = false, 0, 0
	for i := 0; i < len(options); i++ {
		var err error
		switch options[i] {
		case "--ops", "-o":
			service.OnePacket = true
			continue
		case "-p":
			var seconds string
			if seconds, err = argument(options, i); err == nil {
				service.Persistence.Timeout, err = time.ParseDuration(seconds + "s")
			}
		case "-M":
			var mask netip.Addr
			if mask, err = netip.ParseAddr(options[i+1]); err == nil {
				ones, _ := net.IPMask(mask.AsSlice()).Size()
				service.Persistence.Prefix = uint8(ones)
			}
		case "-s":
			service.Scheduler, err = argument(options, i)
		case "-b":
			var flags string
			if flags, err = argument(options, i); err == nil {
				service.Flags, err = scheduler.ParseFlags(flags)
			}
		default:
			err = fmt.Errorf("unknown option %q", options[i])
		}
		if err != nil {
			return service, err
		}
		i++
	}
	return service, nil
}

func argument(words []string, i int) (string, error) {
	if i+1 >= len(words) {
		return "", fmt.Errorf("%s wants an argument", words[i])
	}
	return words[i+1], nil
}

// command is the service after an ipvsadm command line about it.
func command(service director.Service, line string) (director.Service, error) {
	words := strings.Fields(line)
	if len(words) < 4 || words[0] != "ipvsadm" {
		return service, fmt.Errorf("no ipvsadm command: %q", line)
	}
	if key, err := keyOf(words[2:]); err != nil || key != service.Key {
		return service, fmt.Errorf("another service: %q (%v)", line, err)
	}
	service.Reals = slices.Clone(service.Reals)
	switch words[1] {
	case "-E":
		return edited(service, words[4:])
	case "-a", "-e", "-d":
		return editedReals(service, words[1], words[4:])
	}
	return service, fmt.Errorf("unknown command: %q", line)
}

func editedReals(service director.Service, how string, options []string) (director.Service, error) {
	r, err := realServer(options)
	if err != nil {
		return service, err
	}
	if r.Key.Port != service.Key.Port { // which only nat can change
		r.Method = director.NAT
	}
	i := slices.IndexFunc(service.Reals, func(o director.RealServer) bool { return o.Key == r.Key })
	switch {
	case how == "-a" && i < 0:
		service.Reals = append(service.Reals, r)
	case how == "-e" && i >= 0:
		service.Reals[i] = r
	case how == "-d" && i >= 0:
		service.Reals = slices.Delete(service.Reals, i, i+1)
	default:
		return service, fmt.Errorf("cannot do %s %s", how, r.Key)
	}
	return service, nil
}

// sysctl is the service after a change of a sysctl of its scheduler.
func sysctl(service director.Service, line string) (director.Service, error) {
	name, value, _ := strings.Cut(line, "=")
	seconds, err := strconv.Atoi(value)
	if err == nil && name != service.Scheduler+"_expiration" {
		err = fmt.Errorf("sysctl %s is not one of a service's with %s", name, service.Scheduler)
	}
	service.Expiration = time.Duration(seconds) * time.Second
	return service, err
}

// realServer is one of direct routing, whatever the recorded one was; editedReals has more to say of it.
func realServer(options []string) (r director.RealServer, err error) {
	r.Method, r.Weight = director.DirectRouting, 1
	for i := 0; i < len(options) && err == nil; i++ {
		var value string
		switch options[i] {
		case "-g", "-m", "-i":
			continue
		case "-r", "-w", "-x", "-y":
			value, err = argument(options, i)
		default:
			err = fmt.Errorf("unknown option %q", options[i])
		}
		switch {
		case err != nil:
		case options[i] == "-r":
			var addr netip.AddrPort
			addr, err = netip.ParseAddrPort(value)
			r.Key = director.RealKey{Addr: addr.Addr(), Port: addr.Port()}
		default:
			var number uint64
			number, err = strconv.ParseUint(value, 10, 32)
			*map[string]*uint32{"-w": &r.Weight, "-x": &r.Upper, "-y": &r.Lower}[options[i]] = uint32(number)
		}
		i++
	}
	return r, err
}

func TestCommand(t *testing.T) {
	service := director.Service{Key: director.ServiceKey{Protocol: director.TCP, Addr: netip.MustParseAddr("10.99.0.1"), Port: 80}, Scheduler: "rr"}
	for _, line := range []string{
		"ipvsadm -a -t 10.99.0.1:80 -r 10.2.0.1:80 -w 7 -m",
		"ipvsadm -a -t 10.99.0.1:80 -r 10.2.0.2:80 -g",
		"ipvsadm -a -t 10.99.0.1:80 -r 10.2.0.3:80 -w 3 -i",
		"ipvsadm -e -t 10.99.0.1:80 -r 10.2.0.3:80 -w 0 -i",
		"ipvsadm -d -t 10.99.0.1:80 -r 10.2.0.1:80",
		"ipvsadm -a -t 10.99.0.1:80 -r 10.2.0.1:80 -w 65535 -m",
		"ipvsadm -E -t 10.99.0.1:80 -s sh -b sh-port,sh-fallback",
	} {
		var err error
		if service, err = command(service, line); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
	}
	var reals []string
	for _, r := range service.Reals {
		reals = append(reals, fmt.Sprint(r.Key, " ", r.Weight, " ", r.Method))
	}
	if want := []string{"10.2.0.2:80 1 dr", "10.2.0.3:80 0 dr", "10.2.0.1:80 65535 dr"}; !slices.Equal(reals, want) {
		t.Errorf("real servers %q, want %q", reals, want)
	}
	if service.Scheduler != "sh" || service.Flags != scheduler.SHPort|scheduler.SHFallback {
		t.Errorf("scheduler %s %s, want sh with both flags", service.Scheduler, service.Flags)
	}
	for _, line := range []string{
		"ipvsadm -a -t 10.99.0.1:80 -r 10.2.0.2:80", "ipvsadm -d -t 10.99.0.1:80 -r 10.2.0.4:80",
		"ipvsadm -e -t 10.99.0.1:80 -r 10.2.0.2:80 -z 4", "ipvsadm -e -t 10.99.0.2:80 -r 10.2.0.2:80",
		"ipvsadm -E -t 10.99.0.1:80 -s", "ipvsadm -Z -t 10.99.0.1:80", "ipvsadm --set 1 2 3",
	} {
		if _, err := command(service, line); err == nil {
			t.Errorf("%s: no error", line)
		}
	}
}
