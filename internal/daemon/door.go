// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"errors"
	"os"
	"strings"

	"xdplvs/director"
	"xdplvs/internal/door"
)

// doorkeeper is a door.Manager; the tests have one of their own.
type doorkeeper interface {
	Open(door.Marks) error
	Set(door.Marks) error
	Withdraw() error
	Remove() error
	Run(context.Context) error
	State() door.State
}

// enforce puts a state in force by the function, with the ways for packets that the firewall marks and for
// probes as a client's, if they are wanted: first the interfaces that the program is attached to, last the rules
// that bring packets.
func (d *daemon) enforce(want director.Desired, probes door.Marks, apply func(director.Desired) error) error {
	marks := door.MarksOf(want.FirewallMarks())
	if err := d.door.Open(marks); err != nil {
		return errors.Join(err, d.door.Withdraw())
	}
	probes = d.openForProbes(probes)
	if !marks.None() {
		want.Door = door.Far
	}
	if !probes.None() {
		want.Probes = door.ProbeFar
	}
	want.Interfaces = withDoors(&want)
	if err := apply(want); err != nil {
		return errors.Join(err, d.door.Withdraw(), d.probes.Withdraw())
	}
	if !marks.None() {
		d.warnForwarding(&want)
	}
	d.setForProbes(probes)
	return d.door.Set(marks)
}

// withDoors are the interfaces, and those of the director's own.
func withDoors(want *director.Desired) []director.Interface {
	var list []director.Interface
	for _, name := range []string{want.Door, want.Probes} {
		if name != "" {
			list = append(list, director.Interface{Name: name, Mode: director.AttachGeneric})
		}
	}
	return append(list, want.Interfaces...)
}

const sysctlNet = "/proc/sys/net/"

// warnForwarding tells what keeps the kernel from routing marked packets at all.
func (d *daemon) warnForwarding(want *director.Desired) {
	for _, key := range unforwarded(sysctlNet, want) {
		d.log.Warn("the kernel routes no packets, so those with the firewall's marks do not come: set the sysctl to 1",
			"event", "forwarding_off", "sysctl", key)
	}
}

// unforwarded are the sysctls below the directory that should be 1 and are not (networking/ip-sysctl.rst).
func unforwarded(dir string, want *director.Desired) (keys []string) {
	off := func(path string) bool {
		text, err := os.ReadFile(dir + path)
		return err == nil && strings.TrimSpace(string(text)) == "0"
	}
	v4, v6 := want.FirewallMarks()
	for _, i := range want.Interfaces {
		if i.Name != want.Door && len(v4) > 0 && off("ipv4/conf/"+i.Name+"/forwarding") {
			keys = append(keys, "net/ipv4/conf/"+i.Name+"/forwarding")
		}
	}
	if len(v6) > 0 && off("ipv6/conf/all/forwarding") {
		keys = append(keys, "net/ipv6/conf/all/forwarding")
	}
	return keys
}
