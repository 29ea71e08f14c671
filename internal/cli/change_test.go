// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"xdplvs/director"
)

// TestChangeCommands: what the commands ask the daemon to do, all of one command at once.
func TestChangeCommands(t *testing.T) {
	for _, c := range []struct{ command, want string }{
		{"service add virtual=192.0.2.1:80 name=web reals=[10.0.0.1]", `add-service "" "" {"name":"web","reals":"[10.0.0.1]","virtual":"192.0.2.1:80"}`},
		{"service set web persistence= scheduler=rr", `edit-service "web" "" {"persistence":null,"scheduler":"rr"}`},
		{"service remove web dns", `remove-service "web" "" null` + "\n" + `remove-service "dns" "" null`},
		{"real add web 10.0.0.3 weight=2", `add-real "web" "" {"address":"10.0.0.3","weight":"2"}`},
		{"real add web [fd00::3]:8080", `add-real "web" "" {"address":"fd00::3","port":8080}`},
		{"real set web rs1 weight=0 upper=9", `edit-real "web" "rs1" {"upper":"9","weight":"0"}`},
		{"real remove web rs1 10.0.0.2", `remove-real "web" "rs1" null` + "\n" + `remove-real "web" "10.0.0.2" null`},
		{"drain web rs1", `edit-real "web" "rs1" {"weight":0}`},
	} {
		b := &fakeBackend{}
		code, _, stderr := newWorld(t, b).run(t.Context(), strings.Fields(c.command)...)
		if code != 0 || stderr != "" || b.made() != c.want+"\n" {
			t.Errorf("%s: exit %d, %s\nmade\n%s\nwant\n%s", c.command, code, stderr, b.made(), c.want)
		}
	}
}

// runTimeChanges has every kind.
func runTimeChanges() director.Changes {
	real := func(n byte) director.RealKey {
		return director.RealKey{Addr: netip.AddrFrom4([4]byte{10, 0, 0, n}), Port: 80}
	}
	return director.Changes{Services: []director.ServiceChange{
		{Key: director.MarkKey(7, false), Reals: []director.RealChange{{Key: real(1), Removed: true}, {Key: real(2), Added: true, Options: &director.RealServer{}}}},
		{Key: director.MarkKey(8, true), Options: &director.Service{}, Reals: []director.RealChange{{Key: real(3), Options: &director.RealServer{}}}},
		{Key: director.MarkKey(9, false), Added: true, Options: &director.Service{}},
		{Key: director.MarkKey(10, false), Removed: true},
	}}
}

// TestGoldenChanges: what the commands print.
func TestGoldenChanges(t *testing.T) {
	refused := &fakeBackend{editErr: &director.EditError{Fault: director.FaultNoService, Text: `no service "wbe" (known: web)`}}
	for name, test := range map[string]struct {
		backend *fakeBackend
		args    []string
	}{
		"changes":                {&fakeBackend{changes: runTimeChanges()}, []string{"changes"}},
		"changes-none":           {&fakeBackend{}, []string{"changes"}},
		"changes-json":           {&fakeBackend{changes: runTimeChanges()}, []string{"changes", "-o", "json"}},
		"changes-discard":        {&fakeBackend{changes: runTimeChanges()}, []string{"changes", "discard"}},
		"trouble-discard":        {refused, []string{"changes", "discard"}},
		"import":                 {&fakeBackend{}, []string{"import", "keepalived", "keepalived.conf", "--interface", "eth1,eth2"}},
		"import-fails":           {&fakeBackend{}, []string{"import", "keepalived", "missing"}},
		"usage-import":           {&fakeBackend{}, []string{"import", "haproxy", "haproxy.cfg"}},
		"proc":                   {&fakeBackend{snapshot: farm()}, []string{"proc", "ip_vs"}},
		"usage-proc":             {&fakeBackend{}, []string{"proc", "ip_vs_app"}},
		"ipvsadm":                {&fakeBackend{snapshot: farm()}, []string{"ipvsadm", "-Ln", "-t", "192.0.2.1:80"}},
		"ipvsadm-refused":        {refused, []string{"ipvsadm", "-D", "-t", "192.0.2.1:80"}},
		"ipvsadm-usage":          {&fakeBackend{}, []string{"ipvsadm", "-A", "-D"}},
		"save-ipvsadm":           {&fakeBackend{snapshot: farm()}, []string{"save", "-o", "ipvsadm"}},
		"save":                   {&fakeBackend{}, []string{"save"}},
		"trouble-save":           {&fakeBackend{editErr: errors.New("write configuration: its services refer to each other")}, []string{"save"}},
		"service-refused":        {refused, []string{"service", "remove", "wbe"}},
		"drain":                  {&fakeBackend{}, []string{"drain", "web", "rs1"}},
		"drain-refused":          {refused, []string{"drain", "wbe", "rs1"}},
		"drain-busy":             {&fakeBackend{snapshot: farm()}, []string{"drain", "web", "rs3", "--until-idle", "--deadline", "1ns", "--then", "remove"}},
		"drain-gone":             {&fakeBackend{snapshot: farm()}, []string{"drain", "web", "rs7", "--until-idle"}},
		"help-drain":             {&fakeBackend{}, []string{"drain", "-h"}},
		"help-service":           {&fakeBackend{}, []string{"service", "-h"}},
		"help-service-add":       {&fakeBackend{}, []string{"service", "add", "-h"}},
		"help-real-set":          {&fakeBackend{}, []string{"real", "set", "-h"}},
		"help-changes":           {&fakeBackend{}, []string{"changes", "-h"}},
		"usage-service":          {&fakeBackend{}, []string{"service"}},
		"usage-service-ad":       {&fakeBackend{}, []string{"service", "ad"}},
		"usage-service-add":      {&fakeBackend{}, []string{"service", "add"}},
		"usage-service-set":      {&fakeBackend{}, []string{"service", "set", "web", "scheduler"}},
		"usage-service-set-both": {&fakeBackend{}, []string{"service", "set", "web", "scheduler=rr", "scheduler=lc"}},
		"usage-real-add":         {&fakeBackend{}, []string{"real", "add", "web"}},
		"usage-drain":            {&fakeBackend{}, []string{"drain", "web"}},
		"usage-drain-deadline":   {&fakeBackend{}, []string{"drain", "web", "rs1", "--deadline", "10m"}},
		"usage-drain-interval":   {&fakeBackend{}, []string{"drain", "web", "rs1", "--until-idle", "--interval", "0s"}},
	} {
		t.Run(name, func(t *testing.T) { newWorld(t, test.backend).golden(t, name, test.args...) })
	}
}

// emptying is a daemon whose real server rs3 loses connections whenever somebody looks.
type emptying struct {
	*fakeBackend
	left uint32
}

func (e *emptying) Snapshot() *director.Snapshot {
	s := farm()
	for i := range s.Services {
		if s.Services[i].Name == "web" {
			r := &s.Services[i].Reals[0]
			r.Active, r.Inactive, r.Templates = e.left/2, 0, e.left
		}
	}
	e.left = max(e.left, 1) - 1
	return s
}

// TestDrainUntilIdle: it is quiesced first, then watched, then removed.
func TestDrainUntilIdle(t *testing.T) {
	b := &emptying{&fakeBackend{}, 3}
	w := newWorld(t, b)
	code, stdout, stderr := w.run(t.Context(), "drain", "192.0.2.1:80", "10.0.0.3", "--until-idle", "--interval", "1ms", "--deadline", "1m", "--then", "remove")
	const want = `0s  1 active, 0 inactive, 3 clients by persistence
0s  1 active, 0 inactive, 2 clients by persistence
0s  0 active, 0 inactive, 1 clients by persistence
0s  0 active, 0 inactive, 0 clients by persistence
10.0.0.3 of 192.0.2.1:80 is idle: removed
`
	if code != 0 || stderr != "" || stdout != want {
		t.Errorf("exit %d, %s\n%s", code, stderr, stdout)
	}
	const made = `edit-real "192.0.2.1:80" "10.0.0.3" {"weight":0}
remove-real "192.0.2.1:80" "10.0.0.3" null
`
	if b.made() != made {
		t.Errorf("made\n%s", b.made())
	}
}
