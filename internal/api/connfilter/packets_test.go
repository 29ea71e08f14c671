// SPDX-License-Identifier: Apache-2.0

package connfilter_test

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"xdplvs/director"
	"xdplvs/internal/api/connfilter"
)

// tracedPackets: a client's packet, a server's of the same connection, a refused one, and one that is no IP.
var tracedPackets = []struct {
	name string
	director.Traced
}{
	{"new", director.Traced{Protocol: "tcp", Service: "web", Verdict: "tx_new", Ingress: "eth0", Source: web4.Client, Destination: web4.Virtual,
		Client: web4.Client, Virtual: web4.Virtual, Real: web4.Real}},
	{"reply", director.Traced{Protocol: "tcp", Service: "web", Verdict: "tx_reply", Ingress: "eth1", Source: web4.Real, Destination: web4.Client,
		Client: web4.Client, Virtual: web4.Virtual, Real: web4.Real}},
	{"denied", director.Traced{Protocol: "udp", Service: "dns", Verdict: "drop_denied", Ingress: "eth0", Source: dns.Client, Destination: dns.Virtual,
		Client: netip.MustParseAddrPort("[2001:db8:c::8]:53"), Virtual: netip.MustParseAddrPort("[2001:db8::1]:53")}},
	{"arp", director.Traced{Protocol: "arp", Verdict: "tx_arp", Ingress: "eth0"}},
}

func TestMatchPackets(t *testing.T) {
	for text, want := range map[string]string{
		"":                              "new reply denied arp",
		"src 198.51.100.0/24":           "new reply",
		"src 2001:db8::/32":             "denied",
		"dst 192.0.2.1 and dport = 443": "new reply",
		"real 10.0.0.0/8":               "new reply",
		"rport = :8443":                 "new reply",
		"rport != :8443":                "denied arp",
		"sport < 100":                   "denied arp",
		"sport < 100 proto udp":         "denied",
		"proto tcp,udp":                 "new reply denied",
		"protocol 6":                    "new reply",
		"protocol ARP":                  "arp",
		"protocol icmp":                 "",
		"service web,dns":               "new reply denied",
		"verdict tx":                    "new reply arp",
		"verdict drop":                  "denied",
		"verdict tx_new,drop":           "new denied",
		"verdict pass":                  "",
		"interface eth1":                "reply",
		"verdict tx interface eth0,lo":  "new arp",
	} {
		f, err := connfilter.ParsePackets(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		var got []string
		for i := range tracedPackets {
			if f.Match(&tracedPackets[i].Traced) {
				got = append(got, tracedPackets[i].name)
			}
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s matches %q, want %q", text, got, want)
		}
	}
}

// TestNeeds: what is said of a filter's packets beforehand.
func TestNeeds(t *testing.T) {
	f, err := connfilter.ParsePackets("src 10.0.0.0/8 dst 192.0.2.1 real fd00::1 dport >= 80 dport != 81 sport < 1024 proto udp service web,dns verdict drop_denied,drop_budget")
	if err != nil {
		t.Fatal(err)
	}
	n := f.Needs
	if n.Client != netip.MustParsePrefix("10.0.0.0/8") || n.Virtual != netip.MustParsePrefix("192.0.2.1/32") || n.Real != netip.MustParsePrefix("fd00::1/128") {
		t.Errorf("prefixes %+v", n)
	}
	if n.VirtualPorts != [2]uint16{0, 65535} || n.ClientPorts != [2]uint16{0, 1023} || n.Protocol != "udp" {
		t.Errorf("ports and protocol %+v", n)
	}
	if strings.Join(n.Services, " ") != "web dns" || strings.Join(n.Verdicts, " ") != "drop_denied drop_budget" {
		t.Errorf("services and verdicts %+v", n)
	}
	if f, err = connfilter.ParsePackets("dport > 442 proto tcp,udp"); err != nil || f.VirtualPorts != [2]uint16{443, 65535} || f.Protocol != "" {
		t.Errorf("%+v, %v", f, err)
	}
}

func TestPacketMistakes(t *testing.T) {
	const known = "(known: src, dst, real, sport, dport, rport, protocol, proto, service, verdict, interface, and)"
	for text, want := range map[string]string{
		"state established":  `filter: column 1: unknown word "state" ` + known,
		"src":                `filter: column 1: "src" needs an address or a prefix after it`,
		"src web":            `filter: column 5: "web" is no address or prefix`,
		"dport = x":          `filter: column 9: "x" is no port such as :443`,
		"verdict tx,dropped": `filter: column 12: unknown verdict "dropped" (known: pass, tx, drop, pass_not_ip, `,
		"verdict ,":          `filter: column 9: "verdict" has an empty word in its list`,
		"proto tpc":          `filter: column 7: unknown protocol "tpc" (known: ah, esp, gre, icmp, `,
		"proto 256":          `filter: column 7: unknown protocol "256"`,
		"src ::1 and":        `filter: column 9: nothing follows "and"`,
	} {
		_, err := connfilter.ParsePackets(text)
		if err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: error %v\nwant  %s", text, err, want)
		}
	}
}

// FuzzParsePackets: a filter of packets matches or is an *Error whose offset lies in the text or at its end, and what
// matches has what the filter says that it needs.
func FuzzParsePackets(f *testing.F) {
	for _, text := range []string{"src 10.0.0.0/8 and dport=:443 verdict drop", "proto 17", "service a,,b", "sport !=", "\xff", "interface eth0 real ::/0"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		filter, err := connfilter.ParsePackets(text)
		if err != nil {
			var mistake *connfilter.Error
			if !errors.As(err, &mistake) || mistake.Offset < 0 || mistake.Offset > len(text) {
				t.Fatalf("error %T %v", err, err)
			}
			return
		}
		for i := range tracedPackets {
			p, n := &tracedPackets[i].Traced, &filter.Needs
			if !filter.Match(p) {
				continue
			}
			port := p.Virtual.Port()
			if n.Client.IsValid() && !n.Client.Contains(p.Client.Addr()) || n.Protocol != "" && n.Protocol != p.Protocol ||
				n.VirtualPorts[1] != 0 && (port < n.VirtualPorts[0] || port > n.VirtualPorts[1]) {
				t.Fatalf("%q matches %+v, and needs %+v", text, p, n)
			}
		}
	})
}
