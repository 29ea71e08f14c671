// SPDX-License-Identifier: Apache-2.0

package healthcheck

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"slices"
	"strings"

	"golang.org/x/net/dns/dnsmessage"
)

// DNSOptions are those of a check of a DNS server.
type DNSOptions struct {
	// Name and Type are asked for. "": . and SOA, as keepalived does. Types: A AAAA CNAME MX NS PTR SOA
	// SRV TXT.
	Name, Type string
	// TCP asks over TCP. Over UDP, a truncated answer is asked for again over TCP.
	TCP bool
	// Recursive wants recursion (RD); the server must offer it (RA).
	Recursive bool
	// Authoritative wants an authoritative answer (AA).
	Authoritative bool
	// Codes are the response codes that will do, as NOERROR and NXDOMAIN. None: NOERROR.
	Codes []string
	// Answers must all be among the records of the answer, as zone files have them: "192.0.2.1",
	// "10 mail.example."; of SOA only the first three fields. None: any record will do.
	Answers []string
	// Match is what the records, each a line, must contain.
	Match Pattern
	// Empty says that an answer without a record will do. It always will for codes other than NOERROR.
	Empty bool
}

type dnsChecker struct {
	identity
	DNSOptions
	question dnsmessage.Question
	codes    []dnsmessage.RCode
	match    matcher
}

var dnsTypes = map[string]dnsmessage.Type{
	"A": dnsmessage.TypeA, "AAAA": dnsmessage.TypeAAAA, "CNAME": dnsmessage.TypeCNAME, "MX": dnsmessage.TypeMX,
	"NS": dnsmessage.TypeNS, "PTR": dnsmessage.TypePTR, "SOA": dnsmessage.TypeSOA, "SRV": dnsmessage.TypeSRV, "TXT": dnsmessage.TypeTXT,
}

// dnsCodes are the response codes by their numbers (RFC 6895).
var dnsCodes = []string{"NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED", "YXDOMAIN", "YXRRSET", "NXRRSET", "NOTAUTH", "NOTZONE"}

// NewDNS is a checker of DNS servers.
func NewDNS(o DNSOptions) (Checker, error) {
	m := mistakes{kind: "dns"}
	c := &dnsChecker{identity: identify("dns", o), DNSOptions: o}
	c.Name, c.Type = orElse(o.Name, "."), strings.ToUpper(orElse(o.Type, "SOA"))
	if !strings.HasSuffix(c.Name, ".") {
		c.Name += "."
	}
	m.known("type", c.Type, slices.Sorted(maps.Keys(dnsTypes))...)
	name, err := dnsmessage.NewName(c.Name)
	c.question = dnsmessage.Question{Name: name, Type: dnsTypes[c.Type], Class: dnsmessage.ClassINET}
	if err == nil {
		_, err = c.query(0)
	}
	if err != nil {
		m.add("name", "%q is no domain name", o.Name)
	}
	c.match, err = o.Match.compile()
	m.try("match", err)
	if len(o.Codes) == 0 {
		c.Codes = []string{"NOERROR"}
	}
	for i, code := range c.Codes {
		m.known(fmt.Sprintf("codes[%d]", i), code, dnsCodes...)
		c.codes = append(c.codes, dnsmessage.RCode(max(0, slices.Index(dnsCodes, code))))
	}
	return c, m.err()
}

// Check is Checker's.
func (c *dnsChecker) Check(ctx context.Context, t Target) Result {
	return run(ctx, t, func(p *probe) (Result, error) {
		if c.TCP {
			return c.overTCP(p)
		}
		conn, err := p.dial("udp")
		if err != nil {
			return Result{}, err
		}
		id := uint16(rand.Uint32())
		query, err := c.query(id)
		if err != nil {
			return Result{}, err
		}
		var answer dnsmessage.Message
		err = p.exchange(conn, layer7, "query", query, func(b []byte) (done bool, err error) {
			answer, done = c.unpack(b, id)
			return done, nil
		})
		switch {
		case err != nil:
			return Result{}, err
		case answer.Truncated:
			return c.overTCP(p)
		default:
			return c.judge(answer)
		}
	})
}

// overTCP asks on a stream, where messages have their length in front (RFC 1035, 4.2.2).
func (c *dnsChecker) overTCP(p *probe) (Result, error) {
	conn, err := p.dial("tcp")
	if err != nil {
		return Result{}, err
	}
	id := uint16(rand.Uint32())
	query, err := c.query(id)
	if err != nil {
		return Result{}, err
	}
	p.enter(layer7, "query")
	if _, err := conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(query))), query...)); err != nil {
		return Result{}, err
	}
	p.enter(layer7, "answer to query")
	b, err := readMessage(conn)
	if err != nil {
		return Result{}, err
	}
	answer, ok := c.unpack(b, id)
	if !ok {
		return Result{}, fail(L7RSP, 0, "answer to query: no answer of DNS: %s", excerpt(b))
	}
	return c.judge(answer)
}

func readMessage(conn net.Conn) ([]byte, error) {
	var length [2]byte
	if _, err := io.ReadFull(conn, length[:]); err != nil {
		return nil, err
	}
	b := make([]byte, binary.BigEndian.Uint16(length[:]))
	_, err := io.ReadFull(conn, b)
	return b, err
}

// query is the question with an id; EDNS says how long answers may be.
func (c *dnsChecker) query(id uint16) ([]byte, error) {
	m := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: id, RecursionDesired: c.Recursive},
		Questions: []dnsmessage.Question{c.question},
	}
	opt := dnsmessage.Resource{Body: &dnsmessage.OPTResource{}}
	if err := opt.Header.SetEDNS0(maxPacket, dnsmessage.RCodeSuccess, false); err != nil {
		return nil, err
	}
	opt.Header.Name = dnsmessage.MustNewName(".")
	m.Additionals = []dnsmessage.Resource{opt}
	return m.Pack()
}

// unpack tells whether this is an answer to the question, as far as it can be read.
func (c *dnsChecker) unpack(b []byte, id uint16) (m dnsmessage.Message, ok bool) {
	var p dnsmessage.Parser
	header, err := p.Start(b)
	if err != nil || header.ID != id || !header.Response {
		return m, false
	}
	m.Header = header
	if m.Questions, err = p.AllQuestions(); err != nil {
		return m, false
	}
	if len(m.Questions) > 0 && !c.asked(m.Questions[0]) {
		return m, false
	}
	m.Answers, err = p.AllAnswers()
	return m, err == nil || header.Truncated
}

func (c *dnsChecker) asked(q dnsmessage.Question) bool {
	return strings.EqualFold(q.Name.String(), c.question.Name.String()) && q.Type == c.question.Type && q.Class == c.question.Class
}

func (c *dnsChecker) judge(m dnsmessage.Message) (Result, error) {
	code, status := "code "+fmt.Sprint(int(m.RCode)), int(m.RCode)
	if status < len(dnsCodes) {
		code = dnsCodes[status]
	}
	records := c.records(m)
	switch {
	case !slices.Contains(c.codes, m.RCode):
		return Result{}, fail(L7STS, status, "%s for %s %s, want %s", code, c.Name, c.Type, strings.Join(c.Codes, " or "))
	case c.Recursive && !m.RecursionAvailable:
		return Result{}, fail(L7STS, status, "the server offers no recursion")
	case c.Authoritative && !m.Authoritative:
		return Result{}, fail(L7STS, status, "the answer is not authoritative")
	case m.RCode == dnsmessage.RCodeSuccess && len(records) == 0 && !c.Empty:
		return Result{}, fail(L7STS, status, "%s for %s %s, without a record", code, c.Name, c.Type)
	}
	for _, want := range c.Answers {
		if !slices.ContainsFunc(records, func(r string) bool { return strings.EqualFold(r, want) }) {
			return Result{}, fail(L7STS, status, "%s %s is %s, not %s", c.Name, c.Type, excerpt(strings.Join(records, ", ")), excerpt(want))
		}
	}
	if wrong := c.match.judge([]byte(strings.Join(records, "\n"))); wrong != "" {
		return Result{}, fail(L7STS, status, "%s %s: %s", c.Name, c.Type, wrong)
	}
	return good(L7OK, "%s, %d records", code, len(records)), nil
}

// records are those of the type that was asked for, as zone files have them.
func (c *dnsChecker) records(m dnsmessage.Message) (records []string) {
	for _, a := range m.Answers {
		if a.Header.Type == c.question.Type {
			records = append(records, recordText(a.Body))
		}
	}
	return records
}

func recordText(body dnsmessage.ResourceBody) string {
	switch r := body.(type) {
	case *dnsmessage.AResource:
		return net.IP(r.A[:]).String()
	case *dnsmessage.AAAAResource:
		return net.IP(r.AAAA[:]).String()
	case *dnsmessage.CNAMEResource:
		return r.CNAME.String()
	case *dnsmessage.MXResource:
		return fmt.Sprintf("%d %s", r.Pref, r.MX)
	case *dnsmessage.NSResource:
		return r.NS.String()
	case *dnsmessage.PTRResource:
		return r.PTR.String()
	case *dnsmessage.SOAResource:
		return fmt.Sprintf("%s %s %d", r.NS, r.MBox, r.Serial)
	case *dnsmessage.SRVResource:
		return fmt.Sprintf("%d %d %d %s", r.Priority, r.Weight, r.Port, r.Target)
	case *dnsmessage.TXTResource:
		return strings.Join(r.TXT, "")
	default:
		return ""
	}
}
