// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"context"
	"os/exec"
	"strings"

	"xdplvs/internal/door"
)

// Door is what brings packets with the firewall's marks to the director.
type Door struct {
	Missing []string // as the director puts it back
	Error   string   // why that is not known, or that somebody else has the name of the interface
	// Firewall are the rules in the words of the programs that could be asked: nft and iptables-save.
	Firewall string
}

// marks are those that the firewall sets.
func (f *Facts) marks() door.Marks {
	if f.Config == nil {
		return door.Marks{}
	}
	var v4, v6 []uint32
	for i := range f.Config.Services {
		switch s := &f.Config.Services[i]; {
		case !s.FirewallMarked():
		case s.Key.Addr.Is4():
			v4 = append(v4, s.Key.Mark)
		default:
			v6 = append(v6, s.Key.Mark)
		}
	}
	return door.MarksOf(v4, v6)
}

// readDoor looks at the door, and asks the firewalls for their rules. Who is not installed has none.
func (f *Facts) readDoor(ctx context.Context) {
	want := f.marks()
	if want.None() {
		return
	}
	missing, err := door.Inspect(want)
	f.Door.Missing = missing
	if err != nil {
		f.Door.Error = err.Error()
	}
	var text strings.Builder
	for _, command := range []string{"nft list ruleset", "iptables-save", "ip6tables-save", "iptables-legacy-save", "ip6tables-legacy-save"} {
		words := strings.Fields(command)
		if out, err := exec.CommandContext(ctx, words[0], words[1:]...).Output(); err == nil {
			text.Write(out)
		}
	}
	f.Door.Firewall = text.String()
}
