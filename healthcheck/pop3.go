// SPDX-License-Identifier: Apache-2.0

package healthcheck

import "context"

// MailboxOptions are those of checks by POP3 and IMAP.
type MailboxOptions struct {
	Security Security
	TLS      TLSClient
	// Banner is what the greeting must contain.
	Banner Pattern
	// User and Password log in. "": no login.
	User     string
	Password Secret
	// Mailbox is examined after the login; IMAP only. "": none.
	Mailbox string
}

// mailboxChecker is what POP3 and IMAP have in common.
type mailboxChecker struct {
	identity
	MailboxOptions
	banner matcher
	client *tlsClient
}

func newMailbox(kind string, o MailboxOptions) (*mailboxChecker, error) {
	m := mistakes{kind: kind}
	c := &mailboxChecker{MailboxOptions: o, client: o.TLS.compile(&m, "tls")}
	c.identity = identify(kind, o, c.client.files)
	var err error
	c.banner, err = o.Banner.compile()
	m.try("banner", err)
	o.Security.check(&m)
	m.line("user", o.User)
	m.line("mailbox", o.Mailbox)
	m.line("password", o.Password.value)
	if o.User == "" && (!o.Password.IsZero() || o.Mailbox != "") {
		m.add("user", "missing beside a password or a mailbox")
	}
	if kind == "pop3" && o.Mailbox != "" {
		m.add("mailbox", "POP3 has only one")
	}
	return c, m.err()
}

// checkBanner judges a greeting.
func (c *mailboxChecker) checkBanner(banner string) error {
	if wrong := c.banner.judge([]byte(banner)); wrong != "" {
		return fail(L7RSP, 0, "banner: %s", wrong)
	}
	return nil
}

type pop3Checker struct{ *mailboxChecker }

// NewPOP3 is a checker by POP3, and by POP3S with Security TLS.
func NewPOP3(o MailboxOptions) (Checker, error) {
	c, err := newMailbox("pop3", o)
	return pop3Checker{c}, err
}

// Check is Checker's.
func (c pop3Checker) Check(ctx context.Context, t Target) Result {
	return run(ctx, t, func(p *probe) (Result, error) {
		p.keep(c.Password)
		s, err := p.talk(c.Security, c.client)
		if err != nil {
			return Result{}, err
		}
		banner, err := s.pop3Answer("banner")
		if err == nil {
			err = c.checkBanner(banner)
		}
		if err == nil {
			err = c.session(s)
		}
		if err != nil {
			return Result{}, err
		}
		s.bye("QUIT")
		return good(L7OK, "%s", banner), nil
	})
}

func (c pop3Checker) session(s *talk) error {
	if c.Security == StartTLS {
		if err := s.pop3("STLS", "STLS"); err != nil {
			return err
		}
		if err := s.secure(c.client); err != nil {
			return err
		}
	}
	if c.User == "" {
		return nil
	}
	if err := s.pop3("USER", "USER "+c.User); err != nil {
		return err
	}
	return s.pop3("PASS", "PASS "+c.Password.value)
}

// pop3 says a command that must succeed.
func (t *talk) pop3(what, line string) error {
	if err := t.send(what, "%s", line); err != nil {
		return err
	}
	_, err := t.pop3Answer("answer to " + what)
	return err
}

// pop3Answer reads +OK and what follows on its line (RFC 1939).
func (t *talk) pop3Answer(what string) (string, error) {
	line, err := t.line(what)
	switch {
	case err != nil:
		return "", err
	case hasWord(line, "+OK"):
		return line, nil
	case hasWord(line, "-ERR"):
		return "", fail(L7STS, 0, "%s: %s", what, line)
	default:
		return "", fail(L7RSP, 0, "%s: neither +OK nor -ERR: %s", what, excerpt(line))
	}
}
