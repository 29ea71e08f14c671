// SPDX-License-Identifier: Apache-2.0

package healthcheck

import (
	"context"
	"encoding/base64"
	"os"
	"slices"
	"strconv"
	"strings"
)

// SMTPOptions are those of a check by SMTP, of mail exchangers (port 25), submission (587) and
// submissions (465, with Security TLS). A server that answers 421 anywhere drains.
type SMTPOptions struct {
	Security Security
	TLS      TLSClient
	// Hello is the name in EHLO. "": this host's.
	Hello string
	// LMTP says LHLO instead (RFC 2033).
	LMTP bool
	// Banner is what the greeting must contain.
	Banner Pattern
	// Extensions must all be in the answer to the last EHLO, as STARTTLS or AUTH.
	Extensions []string
	// User and Password log in by AUTH PLAIN. "": no login.
	User     string
	Password Secret
	// MailFrom begins a mail from this address, "<>" for the empty one, and takes it back. "": none.
	MailFrom string
	// RcptTo is a recipient that must be accepted after MailFrom. "": none.
	RcptTo string
}

type smtpChecker struct {
	identity
	SMTPOptions
	banner matcher
	client *tlsClient
}

// NewSMTP is a checker by SMTP.
func NewSMTP(o SMTPOptions) (Checker, error) {
	m := mistakes{kind: "smtp"}
	c := &smtpChecker{SMTPOptions: o, client: o.TLS.compile(&m, "tls")}
	c.identity = identify("smtp", o, c.client.files)
	var err error
	c.banner, err = o.Banner.compile()
	m.try("banner", err)
	o.Security.check(&m)
	m.line("hello", o.Hello)
	m.line("mail from", o.MailFrom)
	m.line("rcpt to", o.RcptTo)
	m.line("user", o.User)
	if strings.Contains(o.Hello, " ") {
		m.add("hello", "%q has a space", o.Hello)
	}
	if o.RcptTo != "" && o.MailFrom == "" {
		m.add("rcpt to", "needs mail from")
	}
	if o.User == "" && !o.Password.IsZero() {
		m.add("user", "missing beside a password")
	}
	if c.Hello == "" {
		c.Hello = hostName()
	}
	return c, m.err()
}

// hostName is what this host calls itself in greetings.
func hostName() string {
	name, err := os.Hostname()
	if err != nil || name == "" || strings.ContainsAny(name, " \r\n") {
		return "localhost"
	}
	return name
}

// Check is Checker's.
func (c *smtpChecker) Check(ctx context.Context, t Target) Result {
	return run(ctx, t, func(p *probe) (Result, error) {
		return p.greeted(c.Security, c.client, &c.banner, c.session)
	})
}

// session says all that comes after the banner.
func (c *smtpChecker) session(s *talk) error {
	offers, err := c.hello(s)
	if err == nil && c.Security == StartTLS {
		offers, err = c.startTLS(s, offers)
	}
	if err != nil {
		return err
	}
	for _, want := range c.Extensions {
		if !slices.ContainsFunc(offers, func(offer string) bool { return hasWord(offer, want) }) {
			return fail(L7STS, 0, "the server does not offer %s, only %s", want, excerpt(strings.Join(offers, ", ")))
		}
	}
	if err := c.login(s); err != nil {
		return err
	}
	return c.mail(s)
}

// hasWord tells whether a line begins with a word.
func hasWord(line, word string) bool {
	first, _, _ := strings.Cut(line, " ")
	return strings.EqualFold(first, word)
}

// hello says EHLO and returns what the server offers.
func (c *smtpChecker) hello(s *talk) ([]string, error) {
	verb := "EHLO"
	if c.LMTP {
		verb = "LHLO"
	}
	text, err := s.command(verb, verb+" "+c.Hello, "250")
	_, offers, _ := strings.Cut(text, "\n")
	return strings.Split(offers, "\n"), err
}

func (c *smtpChecker) startTLS(s *talk, offers []string) ([]string, error) {
	if !slices.ContainsFunc(offers, func(offer string) bool { return hasWord(offer, "STARTTLS") }) {
		return nil, fail(L6RSP, 0, "the server does not offer STARTTLS")
	}
	if _, err := s.command("STARTTLS", "STARTTLS", "220"); err != nil {
		return nil, err
	}
	if err := s.secure(c.client); err != nil {
		return nil, err
	}
	return c.hello(s)
}

func (c *smtpChecker) login(s *talk) error {
	if c.User == "" {
		return nil
	}
	plain := base64.StdEncoding.EncodeToString([]byte("\x00" + c.User + "\x00" + c.Password.value))
	s.p.keep(c.Password, NewSecret(plain))
	_, err := s.command("AUTH PLAIN", "AUTH PLAIN "+plain, "235")
	return err
}

// mail begins a mail and takes it back.
func (c *smtpChecker) mail(s *talk) error {
	if c.MailFrom == "" {
		return nil
	}
	if _, err := s.command("MAIL FROM", "MAIL FROM:"+inBrackets(c.MailFrom), "250"); err != nil {
		return err
	}
	if c.RcptTo != "" {
		if _, err := s.command("RCPT TO", "RCPT TO:"+inBrackets(c.RcptTo), "250", "251"); err != nil {
			return err
		}
	}
	_, err := s.command("RSET", "RSET", "250")
	return err
}

func inBrackets(address string) string {
	if strings.HasPrefix(address, "<") {
		return address
	}
	return "<" + address + ">"
}

// command sends a line and wants one of those codes. what names it without its arguments.
func (t *talk) command(what, line string, codes ...string) (string, error) {
	if err := t.send(what, "%s", line); err != nil {
		return "", err
	}
	return t.replyWith("answer to "+what, codes...)
}

// replyWith reads a reply and wants one of those codes. 421 is a server that is about to go.
func (t *talk) replyWith(what string, codes ...string) (string, error) {
	code, text, err := t.reply(what)
	if err != nil {
		return "", err
	}
	status := number(code)
	switch {
	case slices.Contains(codes, code):
		return text, nil
	case code == "421":
		return "", draining(L7STS, status, "%s: %s", what, code+" "+text)
	default:
		return "", fail(L7STS, status, "%s: %s", what, code+" "+text)
	}
}

// maxReply is how many lines a reply can have.
const maxReply = 128

// reply reads one of SMTP's or FTP's (RFC 5321, 4.2.1; RFC 959, 4.2): its code, and its text with a
// line break between lines.
func (t *talk) reply(what string) (code, text string, err error) {
	var lines []string
	for range maxReply {
		line, err := t.line(what)
		if err != nil {
			return "", "", err
		}
		if code == "" && !isReply(line) {
			return "", "", fail(L7RSP, 0, "%s: no reply with a code: %s", what, excerpt(line))
		}
		if code == "" {
			code = line[:3]
		}
		if !strings.HasPrefix(line, code) { // FTP lets the lines between be anything
			lines = append(lines, line)
			continue
		}
		lines = append(lines, strings.TrimSpace(line[min(4, len(line)):]))
		if len(line) == 3 || line[3] == ' ' {
			return code, strings.Join(lines, "\n"), nil
		}
	}
	return "", "", fail(L7RSP, 0, "%s: a reply of more than %d lines", what, maxReply)
}

func isReply(line string) bool {
	if len(line) < 3 || len(line) > 3 && line[3] != ' ' && line[3] != '-' {
		return false
	}
	return '1' <= line[0] && line[0] <= '5' && isDigit(line[1]) && isDigit(line[2])
}

// number is a code of three digits.
func number(code string) int {
	n, _ := strconv.Atoi(code)
	return n
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }
