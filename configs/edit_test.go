// SPDX-License-Identifier: Apache-2.0

package configs

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"xdplvs/director"
)

// edits makes values of texts.
func edits(pairs ...string) map[string]json.RawMessage {
	set := map[string]json.RawMessage{}
	for i := 0; i < len(pairs); i += 2 {
		set[pairs[i]] = json.RawMessage(pairs[i+1])
	}
	return set
}

// TestFormat: what is written is read again as the same, and in the shortest words.
func TestFormat(t *testing.T) {
	const text = `services:
  - name: web
    virtual: 192.0.2.1:80
    scheduler: wlc
    persistence: 5m
    method: nat
    reals:
      - {name: rs1, address: 10.0.0.1}
      - {address: 10.0.0.2, port: 8080, weight: 0, upper: 100, lower: 50, slow_start: 30s}
  - fwmark: 7
    family: ipv6
    scheduler: sh
    scheduler_flags: [sh-fallback, sh-port]
    persistence: {timeout: 1h, netmask: 64, expire_quiescent: true, on_down: keep}
    answer: drop
    semantics: ipvs
    reals:
      - {address: 'fd00::1', method: tun, tunnel: {type: gue, port: 6080, checksum: true}}
      - {address: 'fd00::2'}
  - protocol: udp
    address: 192.0.2.2
    port: any
    scheduler: lblc
    lblc_expiration: 2h
    on_remove: keep
    fullnat: {sources: [10.0.0.254]}
`
	config := mustParse(t, "interfaces: [eth0]\n"+text)
	if got := string(Format(config.Desired.Services)); got != text {
		t.Errorf("got\n%s\nwant\n%s", got, text)
	}
}

// TestFormatIsWhole: a field of a service that is not written would be lost by what rests on this.
func TestFormatIsWhole(t *testing.T) {
	for _, text := range []string{everything, "interfaces: [eth0]\nservices:\n  - {virtual: \"192.0.2.9:80\", sloppy_tcp: true, semantics: ipvs, conn_reuse_mode: 3, expire_nodest_conn: true, on_remove: reset}\n"} {
		config := mustParse(t, text)
		again := mustParse(t, "interfaces: [eth0]\n"+string(config.Format(config.Desired.Services)))
		if !reflect.DeepEqual(again.Desired.Services, config.Desired.Services) {
			t.Errorf("got\n%+v\nwant\n%+v", again.Desired.Services, config.Desired.Services)
		}
	}
}

func parseService(t *testing.T, text string) *director.Service {
	t.Helper()
	return &mustParse(t, "interfaces: [eth0]\nservices:\n  - "+text+"\n").Desired.Services[0]
}

// TestEditService: keys that are named change, others stay.
func TestEditService(t *testing.T) {
	web := `{name: web, virtual: "192.0.2.1:80", scheduler: wlc, persistence: 5m, method: nat, reals: [10.0.0.1, {address: 10.0.0.2, weight: 3}]}`
	for name, c := range map[string]struct {
		set  map[string]json.RawMessage
		want string
	}{
		"one key":  {edits("scheduler", `"rr"`), strings.Replace(web, "wlc", "rr", 1)},
		"null":     {edits("persistence", `null`, "scheduler", `null`), `{name: web, virtual: "192.0.2.1:80", method: nat, reals: [10.0.0.1, {address: 10.0.0.2, weight: 3}]}`},
		"as text":  {edits("persistence", `"{timeout: 60, netmask: 24}"`), strings.Replace(web, "5m", "{timeout: 1m, netmask: 24}", 1)},
		"as JSON":  {edits("persistence", `{"timeout":60,"netmask":"24"}`), strings.Replace(web, "5m", "{timeout: 1m, netmask: 24}", 1)},
		"the list": {edits("reals", `["10.0.0.9"]`), `{name: web, virtual: "192.0.2.1:80", scheduler: wlc, persistence: 5m, method: nat, reals: [10.0.0.9]}`},
	} {
		got, err := Default().EditService(parseService(t, web), c.set)
		if want := parseService(t, c.want); err != nil || !reflect.DeepEqual(got, *want) {
			t.Errorf("%s: %v\ngot  %+v\nwant %+v", name, err, got, *want)
		}
	}
	made, err := Default().EditService(nil, edits("virtual", `"192.0.2.1:80"`, "one_packet", "true", "protocol", `"udp"`))
	if err != nil || !made.OnePacket || made.Key.String() != "udp 192.0.2.1:80" || made.Scheduler != DefaultScheduler {
		t.Errorf("made %+v, %v", made, err)
	}
}

// TestEditReal: the same for a real server.
func TestEditReal(t *testing.T) {
	web := parseService(t, `{virtual: "192.0.2.1:80", method: nat, reals: [10.0.0.1, {address: 10.0.0.2, port: 8080, weight: 3, upper: 9}]}`)
	got, err := Default().EditReal(web, &web.Reals[1], edits("weight", "0"))
	want := web.Reals[1]
	want.Weight = 0
	if err != nil || got != want {
		t.Errorf("%v: got %+v, want %+v", err, got, want)
	}
	got, err = Default().EditReal(web, nil, edits("address", `"10.0.0.3"`))
	if err != nil || got != (director.RealServer{Key: director.RealKey{Addr: got.Key.Addr, Port: 80}, Method: director.NAT, Weight: 1}) {
		t.Errorf("%v: made %+v", err, got)
	}
}

// TestEditRefused: what is wrong is said as for a file.
func TestEditRefused(t *testing.T) {
	web := parseService(t, `{virtual: "192.0.2.1:80", reals: [10.0.0.1]}`)
	for _, c := range []struct {
		set  map[string]json.RawMessage
		want string
	}{
		{edits("sheduler", `"rr"`), `sheduler: unknown key, did you mean scheduler?`},
		{edits("scheduler", `"best"`), `scheduler: unknown scheduler "best" (known: `},
		{edits("one_packet", "true"), "one_packet: one-packet scheduling is for udp only"},
		{edits("persistence", `"["`), "persistence: invalid YAML: "},
		{edits("virtual", `"224.0.0.1:80"`), "virtual: 224.0.0.1 is a multicast address"},
		{edits("virtual", "null"), "keys address and port are missing"},
		{edits("scheduler", `""`), `scheduler: unknown scheduler ""`},
	} {
		_, err := Default().EditService(web, c.set)
		if err == nil || !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("%v: error %v, want %s", c.set, err, c.want)
		}
	}
	for _, c := range []struct {
		set  map[string]json.RawMessage
		want string
	}{
		{edits("weight", "65536"), "weight: expected a number from 0 to 65535, found 65536"},
		{edits("address", `"192.0.2.1"`), "address: 192.0.2.1 is the service's own address"},
		{edits("address", `"fd00::1"`), "address: fd00::1 is of another address family"},
		{edits("port", "81"), "port: method dr leaves packets as they are"},
		{edits("address", "null"), "key address is missing"},
	} {
		_, err := Default().EditReal(web, &web.Reals[0], c.set)
		if err == nil || !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("%v: error %v, want %s", c.set, err, c.want)
		}
	}
}
