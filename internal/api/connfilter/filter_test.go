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

var (
	web4 = director.Conn{Protocol: director.TCP, State: "ESTABLISHED", Service: "web",
		Client: netip.MustParseAddrPort("198.51.100.7:40000"), Virtual: netip.MustParseAddrPort("192.0.2.1:443"), Real: netip.MustParseAddrPort("10.0.0.1:8443")}
	web6 = director.Conn{Protocol: director.TCP, State: "SYN_RECV", Service: "web",
		Client: netip.MustParseAddrPort("[2001:db8:c::7]:40001"), Virtual: netip.MustParseAddrPort("[2001:db8::1]:443"), Real: netip.MustParseAddrPort("[fd00::1]:443")}
	dns = director.Conn{Protocol: director.UDP, State: "UDP", Service: "dns",
		Client: netip.MustParseAddrPort("198.51.100.8:53"), Virtual: netip.MustParseAddrPort("192.0.2.1:53"), Real: netip.MustParseAddrPort("10.0.0.2:53")}
	sctp = director.Conn{Protocol: director.SCTP, State: "C-SENT",
		Client: netip.MustParseAddrPort("198.51.100.9:1"), Virtual: netip.MustParseAddrPort("192.0.2.1:36412"), Real: netip.MustParseAddrPort("10.0.0.3:36412")}
)

func TestMatch(t *testing.T) {
	conns := map[string]*director.Conn{"web4": &web4, "web6": &web6, "dns": &dns, "sctp": &sctp}
	for text, want := range map[string]string{
		"":                                    "dns sctp web4 web6",
		"  ":                                  "dns sctp web4 web6",
		"src 198.51.100.0/24":                 "dns sctp web4",
		"src 198.51.100.7":                    "web4",
		"src 2001:db8:c::/48":                 "web6",
		"src [2001:db8:c::7]":                 "web6",
		"src ::/0":                            "web6",
		"src 0.0.0.0/0":                       "dns sctp web4",
		"dst 192.0.2.1":                       "dns sctp web4",
		"real 10.0.0.0/30 protocol tcp":       "web4",
		"dport = :443":                        "web4 web6",
		"dport = 443":                         "web4 web6",
		"dport=:443":                          "web4 web6",
		"dport eq 443 and rport ne 443":       "web4",
		"sport >= 40000 sport<40001":          "web4",
		"sport <= 53 and dport > 53":          "sctp",
		"sport lt 2":                          "sctp",
		"state established":                   "web4",
		"state ESTABLISHED,syn-recv":          "web4 web6",
		"state syn_recv state established":    "",
		"state c-sent":                        "sctp",
		"service web,dns":                     "dns web4 web6",
		"protocol UDP,sctp":                   "dns sctp",
		"service web and state udp":           "",
		"service web\tand\nprotocol tcp":      "web4 web6",
		"dst 192.0.2.0/24 and dport != 53":    "sctp web4",
		"real fd00::/8":                       "web6",
		"rport ge 8443 and protocol tcp":      "web4",
		"sport gt 53 and sport leq 40000":     "web4",
		"src 198.51.100.255/24 service dns  ": "dns",
	} {
		t.Run(text, func(t *testing.T) {
			f, err := connfilter.Parse(text)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, name := range []string{"dns", "sctp", "web4", "web6"} {
				if f.Match(conns[name]) {
					got = append(got, name)
				}
			}
			if strings.Join(got, " ") != want {
				t.Errorf("matches %q, want %q", got, want)
			}
		})
	}
}

func TestMistakes(t *testing.T) {
	for text, want := range map[string]string{
		"stat established":               `filter: column 1: unknown word "stat" (known: src, dst, real, sport, dport, rport, state, service, protocol, and)`,
		"service web or service dns":     `filter: column 13: unknown word "or" (known: `,
		"src":                            `filter: column 1: "src" needs an address or a prefix after it`,
		"src 10.0.0.0/33":                `filter: column 5: "10.0.0.0/33" is no address or prefix such as 10.0.0.0/8 or 2001:db8::/32`,
		"src 10/8":                       `filter: column 5: "10/8" is no address or prefix`,
		"service web src web":            `filter: column 17: "web" is no address`,
		"dport":                          `filter: column 1: "dport" needs a comparison and a port after it`,
		"dport =":                        `filter: column 1: "dport" needs a comparison and a port after it`,
		"dport :443":                     `filter: column 7: unknown comparison ":443" (known: = != < <= > >=)`,
		"dport = :70000":                 `filter: column 9: ":70000" is no port such as :443`,
		"dport = https":                  `filter: column 9: "https" is no port such as :443`,
		"dport =< 3":                     `filter: column 7: unknown comparison "=<"`,
		"state established,half":         `filter: column 19: unknown state "half" (known: none, established, syn_sent,`,
		"state established,":             `filter: column 19: "state" has an empty word in its list`,
		"protocol icmp":                  `filter: column 10: unknown protocol "icmp" (known: tcp, udp, sctp)`,
		"service web and":                `filter: column 13: nothing follows "and"`,
		"and service web":                `filter: column 1: unknown word "and"`,
		"service web and and state none": `filter: column 17: unknown word "and"`,
		"( service web )":                `filter: column 1: unknown word "("`,
	} {
		t.Run(text, func(t *testing.T) {
			_, err := connfilter.Parse(text)
			if err == nil || !strings.HasPrefix(err.Error(), want) {
				t.Errorf("error %v\nwant  %s", err, want)
			}
		})
	}
}

func TestPointer(t *testing.T) {
	_, err := connfilter.Parse("service web stat")
	var mistake *connfilter.Error
	if !errors.As(err, &mistake) {
		t.Fatal(err)
	}
	want := "service web stat\n            ^"
	if mistake.Pointer() != want {
		t.Errorf("pointer:\n%s\nwant:\n%s", mistake.Pointer(), want)
	}
}

// FuzzParse: a filter matches or is an *Error whose offset lies in the text or at its end.
func FuzzParse(f *testing.F) {
	for _, text := range []string{"src 10.0.0.0/8 and dport=:443 state established", "=", "service a,,b", "sport !=", "\xff"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		filter, err := connfilter.Parse(text)
		if err == nil {
			filter.Match(&web6)
			return
		}
		var mistake *connfilter.Error
		if !errors.As(err, &mistake) {
			t.Fatalf("error of type %T", err)
		}
		if mistake.Offset < 0 || mistake.Offset > len(text) || mistake.Text != text {
			t.Fatalf("offset %d in %q", mistake.Offset, text)
		}
	})
}
