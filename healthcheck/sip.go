// SPDX-License-Identifier: Apache-2.0

package healthcheck

import (
	"context"
	"crypto/rand"
	"fmt"
	"net"
	"strings"
)

// SIPOptions are those of a check by SIP's OPTIONS (RFC 3261, 11).
type SIPOptions struct {
	// Transport is udp, tcp or tls. "": udp.
	Transport string
	TLS       TLSClient
	// User and Domain are those of the URI that is asked: sip:USER@DOMAIN. User "": no user. Domain
	// "": the target's address.
	User, Domain string
	// Status is what must be answered with. "": 200-299.
	Status string
}

type sipChecker struct {
	identity
	SIPOptions
	client *tlsClient
	status statusRanges
}

// NewSIP is a checker by SIP.
func NewSIP(o SIPOptions) (Checker, error) {
	m := mistakes{kind: "sip"}
	c := &sipChecker{SIPOptions: o, client: o.TLS.compile(&m, "tls")}
	c.identity = identify("sip", o, c.client.files)
	c.Transport, c.Status = orElse(o.Transport, "udp"), orElse(o.Status, "200-299")
	m.known("transport", c.Transport, "udp", "tcp", "tls")
	var err error
	c.status, err = parseStatusRanges(c.Status, 200, 699)
	m.try("status", err)
	const forbidden = " \t\r\n<>@\""
	if strings.ContainsAny(o.User, forbidden) {
		m.add("user", "%q is no user", o.User)
	}
	if strings.ContainsAny(o.Domain, forbidden) {
		m.add("domain", "%q is no domain", o.Domain)
	}
	return c, m.err()
}

// Check is Checker's.
func (c *sipChecker) Check(ctx context.Context, t Target) Result {
	return run(ctx, t, func(p *probe) (Result, error) {
		if c.Transport == "udp" {
			return c.overUDP(p)
		}
		security := Plain
		if c.Transport == "tls" {
			security = TLS
		}
		s, err := p.talk(security, c.client)
		if err != nil {
			return Result{}, err
		}
		call := rand.Text()
		if err := s.write("OPTIONS", c.request(t, s.conn.LocalAddr(), call)); err != nil {
			return Result{}, err
		}
		for range maxHeaders {
			a, err := s.answerOf("answer to OPTIONS", "SIP")
			if err == nil {
				_, err = s.body("answer to OPTIONS", a)
			}
			if err != nil {
				return Result{}, err
			}
			if a.status >= 200 && a.isFor(call) { // the others are provisional
				return c.judge(a)
			}
		}
		return Result{}, fail(L7RSP, 0, "answer to OPTIONS: only answers to something else")
	})
}

// overUDP has one answer in each datagram.
func (c *sipChecker) overUDP(p *probe) (r Result, err error) {
	conn, err := p.dial("udp")
	if err != nil {
		return r, err
	}
	call := rand.Text()
	request := []byte(c.request(p.target, conn.LocalAddr(), call))
	err = p.exchange(conn, layer7, "OPTIONS", request, func(b []byte) (bool, error) {
		a, err := parseSIP(string(b))
		if err != nil || a.status < 200 || !a.isFor(call) {
			return false, err
		}
		r, err = c.judge(a)
		return true, err
	})
	return r, err
}

func (c *sipChecker) request(t Target, local net.Addr, call string) string {
	domain := orElse(c.Domain, t.Address.String())
	uri := "sip:" + domain
	if c.User != "" {
		uri = "sip:" + c.User + "@" + domain
	}
	lines := []string{
		"OPTIONS " + uri + " SIP/2.0",
		fmt.Sprintf("Via: SIP/2.0/%s %s;branch=z9hG4bK%s;rport", strings.ToUpper(c.Transport), local, call),
		"Max-Forwards: 70",
		"To: <" + uri + ">",
		fmt.Sprintf("From: <sip:healthcheck@%s>;tag=%s", local, call[:8]),
		"Call-ID: " + call,
		"CSeq: 1 OPTIONS",
		fmt.Sprintf("Contact: <sip:healthcheck@%s>", local),
		"Accept: application/sdp",
		"User-Agent: director-healthcheck",
		"Content-Length: 0",
	}
	return strings.Join(lines, "\r\n") + "\r\n\r\n"
}

// parseSIP reads the head of a datagram.
func parseSIP(text string) (a answer, err error) {
	head, _, _ := strings.Cut(text, "\r\n\r\n")
	lines := strings.Split(head, "\r\n")
	a = answer{line: lines[0], header: make(map[string][]string)}
	if a.status, err = parseStatusLine("answer to OPTIONS", "SIP", a.line); err != nil {
		return a, err
	}
	for _, line := range lines[1:] {
		a.add(line)
	}
	return a, nil
}

// isFor tells whether an answer is to this call; the header has a short form.
func (a answer) isFor(call string) bool {
	return orElse(a.first("call-id"), a.first("i")) == call
}

func (c *sipChecker) judge(a answer) (Result, error) {
	if !c.status.has(a.status) {
		return Result{}, fail(L7STS, a.status, "OPTIONS: %s, want %s", a.line, c.Status)
	}
	r := good(L7OK, "OPTIONS")
	r.Status = a.status
	return r, nil
}
