// SPDX-License-Identifier: Apache-2.0

package healthcheck

import (
	"encoding/base64"
	"strings"
	"testing"
)

// dialogue is a check against a scripted server.
type dialogue struct {
	name    string
	checker Checker
	script  string
	want    string
}

func (d dialogue) run(t *testing.T, ca *authority) {
	t.Run(d.name, func(t *testing.T) {
		cert := ca.valid()
		wants(t, ask(t, d.checker, script(t, &cert, d.script)), d.want)
	})
}

func TestSMTP(t *testing.T) {
	ca := newAuthority(t)
	plain := base64.StdEncoding.EncodeToString([]byte("\x00joe\x00s3cret!"))
	smtp := func(o SMTPOptions) Checker {
		o.Hello = "check.example"
		return must(NewSMTP(o))
	}
	const hello = `
		> 220 mail.example ESMTP
		< EHLO check.example
		> 250-mail.example
		> 250-PIPELINING
		> 250 STARTTLS`
	for _, d := range []dialogue{
		{"plain", smtp(SMTPOptions{}), hello + "\n < QUIT \n > 221 bye \n eof", "up L7OK/220: mail.example ESMTP"},
		{"goodbye is not answered", smtp(SMTPOptions{}), hello + "\n < QUIT", "up L7OK/220: mail.example ESMTP"},
		{"banner over several lines", smtp(SMTPOptions{Banner: Pattern{Text: "second"}}), `
			> 220-mail.example
			> 220 second line
			< EHLO check.example
			> 250 mail.example`, "up L7OK/220: mail.example"},
		{"banner", smtp(SMTPOptions{Banner: Pattern{Regex: "^mx"}}), hello, `down L7RSP: banner: "mail.example ESMTP" does not contain /^mx/`},
		{"no service", smtp(SMTPOptions{}), "> 554 no SMTP service here", "down L7STS/554: banner: 554 no SMTP service here"},
		{"going away", smtp(SMTPOptions{}), "> 421 mail.example closing", "drain L7STS/421: banner: 421 mail.example closing"},
		{"going away later", smtp(SMTPOptions{}), "> 220 hi \n < EHLO .* \n > 421 too many connections", "drain L7STS/421: answer to EHLO: 421 too many connections"},
		{"EHLO unknown", smtp(SMTPOptions{}), "> 220 hi \n < EHLO .* \n > 502 what", "down L7STS/502: answer to EHLO: 502 what"},
		{"LMTP", smtp(SMTPOptions{LMTP: true}), "> 220 hi \n < LHLO check.example \n > 250 hi", "up L7OK/220: hi"},
		{"extensions", smtp(SMTPOptions{Extensions: []string{"STARTTLS", "pipelining"}}), hello, "up L7OK/220: mail"},
		{"extension missing", smtp(SMTPOptions{Extensions: []string{"AUTH"}}), hello, `down L7STS: the server does not offer AUTH, only "PIPELINING, STARTTLS"`},
		{"STARTTLS", smtp(SMTPOptions{Security: StartTLS, TLS: TLSClient{Verify: "full", ServerName: "www.example.org", CAFile: ca.file}}), hello + `
			< STARTTLS
			> 220 go on
			tls
			< EHLO check.example
			> 250 mail.example`, "up L7OK/220: mail.example ESMTP"},
		{"STARTTLS not offered", smtp(SMTPOptions{Security: StartTLS}), "> 220 hi \n < EHLO .* \n > 250 hi", "down L6RSP: the server does not offer STARTTLS"},
		{"STARTTLS refused", smtp(SMTPOptions{Security: StartTLS}), hello + "\n < STARTTLS \n > 454 no TLS today", "down L7STS/454: answer to STARTTLS: 454 no TLS today"},
		{"talks before TLS", smtp(SMTPOptions{Security: StartTLS}), hello + "\n < STARTTLS \n >> 220 go\\r\\n250 injected\\r\\n \n eof", `down L6RSP: the server talks on before TLS: "250 injected\r\n"`},
		{"TLS", smtp(SMTPOptions{Security: TLS}), "tls" + hello, "up L7OK/220: mail.example ESMTP"},
		{"login", smtp(SMTPOptions{User: "joe", Password: NewSecret("s3cret!")}), hello + "\n < AUTH PLAIN " + plain + "\n > 235 welcome", "up L7OK/220: mail"},
		{"login refused, with the password repeated", smtp(SMTPOptions{User: "joe", Password: NewSecret("s3cret!")}),
			hello + "\n < AUTH PLAIN .* \n > 535 not with s3cret! or " + plain, "down L7STS/535: answer to AUTH PLAIN: 535 not with (secret) or (secret)"},
		{"mail", smtp(SMTPOptions{MailFrom: "check@example.org", RcptTo: "postmaster@example.org"}), hello + `
			< MAIL FROM:<check@example.org>
			> 250 ok
			< RCPT TO:<postmaster@example.org>
			> 250 ok
			< RSET
			> 250 ok
			< QUIT`, "up L7OK/220: mail"},
		{"mail from nobody", smtp(SMTPOptions{MailFrom: "<>"}), hello + "\n < MAIL FROM:<> \n > 452 disk full", "down L7STS/452: answer to MAIL FROM: 452 disk full"},
		{"endless reply", smtp(SMTPOptions{}), strings.Repeat("> 220-more\n", 200), "down L7RSP: banner: a reply of more than 128 lines"},
		{"closed within a line", smtp(SMTPOptions{}), ">> 220 mai", `down L7RSP: banner: the server closed the connection after "220 mai"`},
		{"a POP3 server", smtp(SMTPOptions{}), "> +OK hi", `down L7RSP: banner: no reply with a code: "+OK hi"`},
	} {
		d.run(t, ca)
	}
}

func TestSMTPMistakes(t *testing.T) {
	_, err := NewSMTP(SMTPOptions{Security: "ssl", Hello: "a b", RcptTo: "x@example.org\r\nDATA", Password: NewSecret("s3cret!"), Banner: Pattern{Regex: "("}})
	for _, want := range []string{
		`smtp check: security: unknown "ssl" (known: plain, tls, starttls)`, `smtp check: hello: "a b" has a space`,
		`smtp check: rcpt to: control character "\r"`, "smtp check: rcpt to: needs mail from", "smtp check: user: missing beside a password",
		"smtp check: banner: error parsing regexp: missing closing )",
	} {
		wantError(t, err, want)
	}
	if strings.Contains(err.Error(), "s3cret!") {
		t.Errorf("the secret is shown: %v", err)
	}
}

func TestPOP3(t *testing.T) {
	ca := newAuthority(t)
	pop3 := func(o MailboxOptions) Checker { return must(NewPOP3(o)) }
	login := MailboxOptions{User: "joe", Password: NewSecret("s3cret!")}
	for _, d := range []dialogue{
		{"plain", pop3(MailboxOptions{}), "> +OK ready \n < QUIT \n > +OK bye", "up L7OK: +OK ready"},
		{"login", pop3(login), "> +OK ready \n < USER joe \n > +OK \n < PASS s3cret! \n > +OK 3 messages \n < QUIT", "up L7OK: +OK ready"},
		{"login refused", pop3(login), "> +OK \n < USER joe \n > +OK \n < PASS .* \n > -ERR [AUTH] not s3cret!", "down L7STS: answer to PASS: -ERR [AUTH] not (secret)"},
		{"out of order", pop3(MailboxOptions{}), "> -ERR [SYS/TEMP] try later", "down L7STS: banner: -ERR [SYS/TEMP] try later"},
		{"STLS", pop3(MailboxOptions{Security: StartTLS}), "> +OK \n < STLS \n > +OK \n tls \n < QUIT", "up L7OK: +OK"},
		{"STLS unknown", pop3(MailboxOptions{Security: StartTLS}), "> +OK \n < STLS \n > -ERR unknown", "down L7STS: answer to STLS: -ERR unknown"},
		{"POP3S", pop3(MailboxOptions{Security: TLS}), "tls \n > +OK ready", "up L7OK: +OK ready"},
		{"banner", pop3(MailboxOptions{Banner: Pattern{Text: "Dovecot"}}), "> +OK Courier", `down L7RSP: banner: "+OK Courier" does not contain "Dovecot"`},
		{"an SMTP server", pop3(MailboxOptions{}), "> 220 hi", `down L7RSP: banner: neither +OK nor -ERR: "220 hi"`},
	} {
		d.run(t, ca)
	}
	_, err := NewPOP3(MailboxOptions{Mailbox: "INBOX", Password: NewSecret("a\nb")})
	wantError(t, err, "pop3 check: mailbox: POP3 has only one")
	wantError(t, err, "pop3 check: user: missing beside a password or a mailbox")
	wantError(t, err, `pop3 check: password: control character "\n"`)
}

func TestIMAP(t *testing.T) {
	ca := newAuthority(t)
	imap := func(o MailboxOptions) Checker { return must(NewIMAP(o)) }
	login := MailboxOptions{User: `jo"e`, Password: NewSecret(`s3\ret`), Mailbox: "INBOX"}
	for _, d := range []dialogue{
		{"plain", imap(MailboxOptions{}), "> * OK ready \n < a1 NOOP \n > a1 OK done \n < z LOGOUT \n > * BYE", "up L7OK: * OK ready"},
		{"login", imap(login), `
			> * OK [CAPABILITY IMAP4rev1] ready
			< a1 LOGIN "jo\\"e" "s3\\\\ret"
			> * CAPABILITY IMAP4rev1
			> a1 OK logged in
			< a2 EXAMINE "INBOX"
			> * 3 EXISTS
			> a2 OK [READ-ONLY] done`, "up L7OK: * OK [CAPABILITY"},
		{"login refused", imap(login), "> * OK \n < a1 LOGIN .* \n > a1 NO [AUTHENTICATIONFAILED] no", "down L7STS: answer to LOGIN: NO [AUTHENTICATIONFAILED] no"},
		{"goes away", imap(MailboxOptions{}), "> * BYE overloaded", "down L7STS: banner: * BYE overloaded"},
		{"preauthenticated", imap(MailboxOptions{}), "> * PREAUTH hi \n < a1 NOOP \n > a1 OK", "up L7OK: * PREAUTH hi"},
		{"STARTTLS", imap(MailboxOptions{Security: StartTLS}), "> * OK \n < a1 STARTTLS \n > a1 OK \n tls \n < a2 NOOP \n > a2 OK", "up L7OK: * OK"},
		{"wrong tag", imap(MailboxOptions{}), "> * OK \n < a1 NOOP \n > b7 OK", `down L7RSP: answer to NOOP: no answer of IMAP: "b7 OK"`},
		{"endless", imap(MailboxOptions{}), "> * OK \n < a1 NOOP\n" + strings.Repeat("> * 1 EXISTS\n", 200), "down L7RSP: answer to NOOP: more than 128 lines"},
	} {
		d.run(t, ca)
	}
}
