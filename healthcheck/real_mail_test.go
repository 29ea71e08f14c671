// SPDX-License-Identifier: Apache-2.0

package healthcheck

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"xdplvs/internal/programs"
)

// TestPostfix has a mail exchanger that is taken through a mail, overloaded, and stopped.
func TestPostfix(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("needs root: Postfix's master starts its servers as several users")
	}
	dir, ca := directory(t), newAuthority(t)
	keyPair(t, ca, dir)
	if err := os.Chown(filepath.Join(dir, "key.pem"), 0, 0); err != nil { // smtpd reads it before it becomes postfix
		t.Fatal(err)
	}
	plain, limited := freePort(t), freePort(t)
	listeners := "127.0.0.1:" + portText(plain) + " inet n - n - - smtpd\n127.0.0.1:" + portText(limited) +
		" inet n - n - - smtpd -o smtpd_client_connection_rate_limit=1 -o smtpd_client_event_limit_exceptions=\n"
	d := runServer(t, plain)(programs.NewPostfix(dir, `
myhostname = mx.example.org
mydestination = mx.example.org
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
smtpd_tls_cert_file = $dir/cert.pem
smtpd_tls_key_file = $dir/key.pem
smtpd_tls_security_level = may
local_recipient_maps = inline:{joe=x}
`, listeners))
	t.Cleanup(func() { programs.SignalPostfix(dir, syscall.SIGKILL) }) // it may have ended with its parent
	smtp := func(o SMTPOptions) Checker {
		o.Hello = "check.example.org"
		return must(NewSMTP(o))
	}
	trust := TLSClient{Verify: "full", ServerName: "www.example.org", CAFile: ca.file}
	runReal(t, d, []realCheck{
		{"plain", smtp(SMTPOptions{}), plain, "up L7OK/220: mx.example.org ESMTP Postfix"},
		{"STARTTLS", smtp(SMTPOptions{Security: StartTLS, TLS: trust, Extensions: []string{"PIPELINING"}}), plain, "up L7OK/220: mx.example.org ESMTP"},
		{"submission", smtp(SMTPOptions{Extensions: []string{"AUTH"}}), plain, "down L7STS: the server does not offer AUTH"},
		{"mail", smtp(SMTPOptions{MailFrom: "<>", RcptTo: "joe@mx.example.org"}), plain, "up L7OK/220"},
		{"unknown recipient", smtp(SMTPOptions{MailFrom: "<>", RcptTo: "jim@mx.example.org"}), plain, "down L7STS/550: answer to RCPT TO: 550 5.1.1 <jim@mx.example.org>: Recipient address rejected"},
		{"no relay", smtp(SMTPOptions{MailFrom: "<>", RcptTo: "joe@example.net"}), plain, "down L7STS/554: answer to RCPT TO: 554 5.7.1 <joe@example.net>: Relay access denied"},
		{"within the limit", smtp(SMTPOptions{}), limited, "up L7OK/220"},
		{"beyond the limit", smtp(SMTPOptions{}), limited, "drain L7STS/421: 421 4.7.0 mx.example.org Error: too many connections from 127.0.0.1"},
		{"TLS from the beginning", smtp(SMTPOptions{Security: TLS}), plain, `down L6RSP: TLS handshake: the server does not speak TLS, it says "220 m"`},
	})
}

// TestDovecot has POP3 and IMAP, with and without TLS.
func TestDovecot(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("needs root: Dovecot starts its servers as several users")
	}
	dir, ca := directory(t), newAuthority(t)
	keyPair(t, ca, dir)
	imap, imaps, pop3, pop3s := freePort(t), freePort(t), freePort(t), freePort(t)
	listeners := strings.NewReplacer("$imaps", portText(imaps), "$imap", portText(imap), "$pop3s", portText(pop3s), "$pop3", portText(pop3)).Replace(`
listen = 127.0.0.1
service imap-login {
  inet_listener imap {
    port = $imap
  }
  inet_listener imaps {
    port = $imaps
  }
}
service pop3-login {
  inet_listener pop3 {
    port = $pop3
  }
  inet_listener pop3s {
    port = $pop3s
  }
}
`)
	d := runServer(t, imap)(programs.NewDovecot(dir, filepath.Join(dir, "joe", "mail"), listeners))
	trust := TLSClient{Verify: "full", ServerName: "www.example.org", CAFile: ca.file}
	login := func(s Security, password, mailbox string) MailboxOptions {
		return MailboxOptions{Security: s, TLS: trust, User: "joe", Password: NewSecret(password), Mailbox: mailbox}
	}
	runReal(t, d, []realCheck{
		{"IMAP", must(NewIMAP(MailboxOptions{})), imap, "up L7OK: * OK [CAPABILITY IMAP4rev1"},
		{"IMAP with STARTTLS and login", must(NewIMAP(login(StartTLS, "s3cret!", "INBOX"))), imap, "up L7OK: * OK"},
		{"IMAPS, no such mailbox", must(NewIMAP(login(TLS, "s3cret!", "Lost"))), imaps, "down L7STS: answer to EXAMINE: NO Mailbox doesn't exist: Lost"},
		{"POP3", must(NewPOP3(MailboxOptions{Banner: Pattern{Text: "Dovecot"}})), pop3, "up L7OK: +OK Dovecot"},
		{"POP3 with STLS and login", must(NewPOP3(login(StartTLS, "s3cret!", ""))), pop3, "up L7OK: +OK Dovecot"},
		{"IMAP to POP3", must(NewIMAP(MailboxOptions{})), pop3, `down L7RSP: banner: no greeting of IMAP: "+OK Dovecot`},
		// Last, as Dovecot makes those wait who guess.
		{"IMAPS, wrong password", must(NewIMAP(login(TLS, "wrong", ""))), imaps, "down L7STS: answer to LOGIN: NO [AUTHENTICATIONFAILED] Authentication failed."},
		{"POP3S, wrong password", must(NewPOP3(login(TLS, "wrong", ""))), pop3s, "down L7STS: answer to PASS: -ERR [AUTH] Authentication failed."},
	})
}
