// SPDX-License-Identifier: Apache-2.0

package healthcheck

import (
	"context"
	"fmt"
	"strings"
)

type imapChecker struct{ *mailboxChecker }

// NewIMAP is a checker by IMAP, and by IMAPS with Security TLS.
func NewIMAP(o MailboxOptions) (Checker, error) {
	c, err := newMailbox("imap", o)
	return imapChecker{c}, err
}

// Check is Checker's.
func (c imapChecker) Check(ctx context.Context, t Target) Result {
	return run(ctx, t, func(p *probe) (Result, error) {
		p.keep(c.Password, NewSecret(quotedSecret(c.Password)))
		s, err := p.talk(c.Security, c.client)
		if err != nil {
			return Result{}, err
		}
		banner, err := c.greeting(s)
		if err != nil {
			return Result{}, err
		}
		if err := c.session(&imapTalk{talk: s}); err != nil {
			return Result{}, err
		}
		s.bye("z LOGOUT")
		return good(L7OK, "%s", banner), nil
	})
}

// quotedSecret is a password as it goes over the wire.
func quotedSecret(s Secret) string {
	if s.IsZero() {
		return ""
	}
	return quoted(s.value)
}

// greeting reads the first line (RFC 9051, 7.1): BYE is a server that takes no connections.
func (c imapChecker) greeting(s *talk) (string, error) {
	line, err := s.line("banner")
	switch {
	case err != nil:
		return "", err
	case hasPrefixFold(line, "* OK"), hasPrefixFold(line, "* PREAUTH"):
		return line, c.checkBanner(line)
	case hasPrefixFold(line, "* BYE"):
		return "", fail(L7STS, 0, "banner: %s", line)
	default:
		return "", fail(L7RSP, 0, "banner: no greeting of IMAP: %s", excerpt(line))
	}
}

func hasPrefixFold(line, prefix string) bool {
	return len(line) >= len(prefix) && strings.EqualFold(line[:len(prefix)], prefix)
}

func (c imapChecker) session(s *imapTalk) error {
	if c.Security == StartTLS {
		if err := s.command("STARTTLS", ""); err != nil {
			return err
		}
		if err := s.secure(c.client); err != nil {
			return err
		}
	}
	if c.User != "" {
		if err := s.command("LOGIN", " "+quoted(c.User)+" "+quoted(c.Password.value)); err != nil {
			return err
		}
	}
	if c.Mailbox == "" {
		return s.command("NOOP", "")
	}
	return s.command("EXAMINE", " "+quoted(c.Mailbox))
}

// imapTalk counts its commands.
type imapTalk struct {
	*talk
	commands int
}

// command says a command and reads to its tagged answer, which must be OK.
func (t *imapTalk) command(verb, arguments string) error {
	t.commands++
	tag := fmt.Sprintf("a%d", t.commands)
	if err := t.send(verb, "%s %s%s", tag, verb, arguments); err != nil {
		return err
	}
	what := "answer to " + verb
	for range maxReply {
		line, err := t.line(what)
		if err != nil {
			return err
		}
		first, rest, _ := strings.Cut(line, " ")
		switch {
		case first == "*" || first == "+":
			continue
		case first != tag:
			return fail(L7RSP, 0, "%s: no answer of IMAP: %s", what, excerpt(line))
		case hasWord(rest, "OK"):
			return nil
		default:
			return fail(L7STS, 0, "%s: %s", what, rest)
		}
	}
	return fail(L7RSP, 0, "%s: more than %d lines", what, maxReply)
}

// quoted is a text as a quoted string of IMAP.
func quoted(text string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(text) + `"`
}
