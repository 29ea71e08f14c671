// SPDX-License-Identifier: Apache-2.0

package configs

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"

	"xdplvs/director"
)

const edited = `interfaces: [eth0]
services:
  - {name: web, virtual: "192.0.2.1:80", reals: [{name: rs1, address: 10.0.0.1}, 10.0.0.2]}
  - {virtual: "192.0.2.1:53", reals: [10.0.0.1]}
  - {virtual: "192.0.2.1:53", protocol: udp}
  - {name: marked, fwmark: 7}
`

func editStep(op director.EditOp, service, real string, pairs ...string) director.Edit {
	return director.Edit{Op: op, Service: service, Real: real, Set: edits(pairs...)}
}

// TestEdits: what edits make is what a file with the same would say.
func TestEdits(t *testing.T) {
	before := mustParse(t, edited).Desired.Services
	for name, c := range map[string]struct {
		edits []director.Edit
		want  string // replaces old with new, in pairs
	}{
		"add a service":      {[]director.Edit{editStep(director.AddService, "", "", "virtual", `"192.0.2.9:80"`)}, "  - {name: marked, fwmark: 7}\n|  - {name: marked, fwmark: 7}\n  - {virtual: \"192.0.2.9:80\"}\n"},
		"remove services":    {[]director.Edit{editStep(director.RemoveService, "web", ""), editStep(director.RemoveService, "fwmark 7", "")}, `  - {name: web, virtual: "192.0.2.1:80", reals: [{name: rs1, address: 10.0.0.1}, 10.0.0.2]}` + "\n||  - {name: marked, fwmark: 7}\n|"},
		"by name and number": {[]director.Edit{editStep(director.EditReal, "web", "rs1", "weight", "5"), editStep(director.EditReal, "192.0.2.1:80", "10.0.0.2", "weight", "6")}, "address: 10.0.0.1}, 10.0.0.2|address: 10.0.0.1, weight: 5}, {address: 10.0.0.2, weight: 6}"},
		"by protocol":        {[]director.Edit{editStep(director.EditService, "udp 192.0.2.1:53", "", "scheduler", `"rr"`)}, "protocol: udp|protocol: udp, scheduler: rr"},
		"in turn":            {[]director.Edit{editStep(director.AddReal, "fwmark 7", "", "address", `"10.0.0.7"`), editStep(director.AddReal, "marked", "", "address", `"10.0.0.8"`), editStep(director.RemoveReal, "marked", "10.0.0.7")}, "fwmark: 7|fwmark: 7, reals: [10.0.0.8]"},
		"back":               {[]director.Edit{editStep(director.RemoveReal, "web", "rs1"), editStep(director.RemoveReal, "web", "10.0.0.2:80"), editStep(director.AddReal, "web", "", "address", `"10.0.0.1"`, "name", `"rs1"`), editStep(director.AddReal, "web", "", "address", `"10.0.0.2"`)}, "|"},
		"all anew":           {[]director.Edit{editStep(director.RemoveAll, "", ""), editStep(director.AddService, "", "", "virtual", `"192.0.2.1:80"`)}, edited[strings.Index(edited, "  - {name: web"):] + "|  - {virtual: \"192.0.2.1:80\"}\n"},
	} {
		text := edited
		for pairs := strings.Split(c.want, "|"); len(pairs) > 1; pairs = pairs[2:] {
			text = strings.Replace(text, pairs[0], pairs[1], 1)
		}
		want := mustParse(t, text).Desired.Services
		got, err := Default().Edit(before, c.edits)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %v\ngot  %+v\nwant %+v", name, err, got, want)
		}
		if !reflect.DeepEqual(before, mustParse(t, edited).Desired.Services) {
			t.Fatalf("%s: the former services were changed", name)
		}
	}
}

// TestEditsRefused: who cannot be made says why, in a way for programs and one for people.
func TestEditsRefused(t *testing.T) {
	before := mustParse(t, edited).Desired.Services
	fine := editStep(director.RemoveService, "web", "")
	for _, c := range []struct {
		edit  director.Edit
		fault director.EditFault
		text  string
	}{
		{editStep(director.AddService, "", "", "fwmark", "7"), director.FaultServiceExists, "service fwmark 7 exists already"},
		{editStep(director.AddService, "", "", "fwmark", "8", "name", `"marked"`), director.FaultInvalid, "name marked is already that of service fwmark 7"},
		{editStep(director.AddService, "", "", "fwmark", "x"), director.FaultInvalid, "add service: fwmark: expected a number"},
		{editStep(director.EditService, "wbe", ""), director.FaultNoService, `no service "wbe" (known: tcp 192.0.2.1:53, udp 192.0.2.1:53, marked)`},
		{editStep(director.RemoveService, "tcp 192.0.2.7:80", ""), director.FaultNoService, "no service tcp 192.0.2.7:80"},
		{editStep(director.RemoveService, "192.0.2.1:53", ""), director.FaultInvalid, `192.0.2.1:53 is several services: say "tcp 192.0.2.1:53" or "udp 192.0.2.1:53"`},
		{editStep(director.EditService, "marked", "", "fwmark", "9"), director.FaultInvalid, "service fwmark 7: its address, port, protocol or mark cannot be changed"},
		{editStep(director.AddReal, "tcp 192.0.2.1:53", "", "address", `"10.0.0.1"`), director.FaultRealExists, "service tcp 192.0.2.1:53: real server 10.0.0.1:53 exists already"},
		{editStep(director.EditReal, "tcp 192.0.2.1:53", "10.0.0.2"), director.FaultNoReal, `service tcp 192.0.2.1:53: no real server "10.0.0.2" (known: 10.0.0.1:53)`},
		{editStep(director.EditReal, "tcp 192.0.2.1:53", "10.0.0.1", "address", `"10.0.0.3"`), director.FaultInvalid, "service tcp 192.0.2.1:53: real server 10.0.0.1:53: its address and port cannot be changed"},
		{editStep(director.EditReal, "tcp 192.0.2.1:53", "10.0.0.1", "weight", "-1"), director.FaultInvalid, "service tcp 192.0.2.1:53: real server 10.0.0.1:53: weight: expected a number"},
		{editStep("add", "", ""), director.FaultInvalid, `unknown op "add" (known: add-service, `},
	} {
		got, err := Default().Edit(before, []director.Edit{fine, c.edit})
		var edit *director.EditError
		if !errors.As(err, &edit) || edit.Fault != c.fault || edit.Index != 1 || !strings.HasPrefix(edit.Text, c.text) || got != nil {
			t.Errorf("%+v: got %v, %+v, want %s: %s", c.edit, got, err, c.fault, c.text)
		}
	}
}

// TestRewrite: what did not change is left as it is written, comments included.
func TestRewrite(t *testing.T) {
	const file = `# The farm.
x-web: &web {scheduler: wlc} # shared
interfaces: [eth0]
services:
  # Everybody's.
  - <<: *web
    name: web
    virtual: 192.0.2.1:80
    reals: [10.0.0.1]
  - {name: dns, virtual: "192.0.2.1:53", protocol: udp} # to go
`
	config := mustParse(t, file)
	same, err := Rewrite([]byte(file), config, config.Desired.Services)
	if err != nil || string(same) != file {
		t.Errorf("%v: unchanged, it is\n%s", err, same)
	}
	services, err := Default().Edit(config.Desired.Services, []director.Edit{
		editStep(director.RemoveService, "dns", ""),
		editStep(director.AddService, "", "", "virtual", `"192.0.2.2:80"`, "reals", `["10.0.0.5"]`),
	})
	if err != nil {
		t.Fatal(err)
	}
	want := strings.Replace(file, `  - {name: dns, virtual: "192.0.2.1:53", protocol: udp} # to go`, `  - virtual: 192.0.2.2:80
    scheduler: wrr
    reals:
      - {address: 10.0.0.5}`, 1)
	got, err := Rewrite([]byte(file), config, services)
	if err != nil || string(got) != want {
		t.Errorf("%v\ngot\n%s\nwant\n%s", err, got, want)
	}
	bare := "interfaces: [eth0]\n"
	got, err = Rewrite([]byte(bare), mustParse(t, bare), services[1:])
	if want := bare + string(Format(services[1:])); err != nil || string(got) != want {
		t.Errorf("%v\ngot\n%s\nwant\n%s", err, got, want)
	}
}

// FuzzEdit holds that edits never panic, leave what they were given as it is, and make services that
// are valid and can be written to a file.
func FuzzEdit(f *testing.F) {
	for _, e := range []director.Edit{
		editStep(director.AddService, "", "", "virtual", `"192.0.2.2:80"`, "reals", `["10.0.0.5"]`),
		editStep(director.EditService, "web", "", "persistence", `{"timeout":60}`, "method", `"nat"`, "name", "null"),
		editStep(director.AddReal, "fwmark 7", "", "address", `"10.0.0.7"`, "tunnel", `"{type: gue, port: 1}"`, "method", `"tun"`),
		editStep(director.RemoveReal, "192.0.2.1:80", "10.0.0.2:80"),
	} {
		text, err := json.Marshal([]director.Edit{e})
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		var edits []director.Edit
		if json.Unmarshal(text, &edits) != nil {
			return
		}
		before := mustParse(t, edited).Desired.Services
		got, err := Default().Edit(before, edits)
		if !reflect.DeepEqual(before, mustParse(t, edited).Desired.Services) {
			t.Fatal("the former services were changed")
		}
		if err != nil {
			return
		}
		got = director.Diff(before, got).Apply(before)
		again := mustParse(t, "interfaces: [eth0]\n"+string(Format(got))).Desired.Services
		if !reflect.DeepEqual(again, got) {
			t.Errorf("got  %+v\nread %+v", got, again)
		}
	})
}

// TestPortOfMark: with a firewall mark a real server by dr may have a port, as in IPVS. It is a part of its name.
func TestPortOfMark(t *testing.T) {
	s := parseService(t, "{fwmark: 7, reals: [10.0.0.1:80, 10.0.0.1:443]}")
	if len(s.Reals) != 2 || s.Reals[0].Key.Port != 80 || s.Reals[1].Key.Port != 443 {
		t.Errorf("got %+v", s.Reals)
	}
}
