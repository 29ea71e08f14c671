// SPDX-License-Identifier: Apache-2.0

package healthcheck

import (
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"testing"
)

// TestPostfix has a mail exchanger that is taken through a mail, overloaded, and stopped.
func TestPostfix(t *testing.T) {
	t.Parallel()
	postfix := program(t, "postfix", "/usr/sbin/postfix")
	if os.Geteuid() != 0 {
		t.Skip("needs root: Postfix's master starts its servers as several users")
	}
	dir, ca := directory(t), newAuthority(t)
	keyPair(t, ca, dir)
	if err := os.Chown(filepath.Join(dir, "key.pem"), 0, 0); err != nil { // smtpd reads it before it becomes postfix
		t.Fatal(err)
	}
	postfixDirectories(t, dir)
	plain, limited := freePort(t), freePort(t)
	config := filepath.Join(dir, "config")
	write(t, filepath.Join(config, "main.cf"), `
compatibility_level = 3.6
queue_directory = $dir/spool
data_directory = $dir/data
myhostname = mx.example.org
mydestination = mx.example.org
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
maillog_file_permissions = 0644
maillog_file = /dev/stdout
smtpd_tls_cert_file = $dir/cert.pem
smtpd_tls_key_file = $dir/key.pem
smtpd_tls_security_level = may
smtpd_relay_restrictions = reject_unauth_destination
local_recipient_maps = inline:{joe=x}
alias_maps =
smtpd_peername_lookup = no
`, "$dir", dir)
	write(t, filepath.Join(config, "master.cf"), `
127.0.0.1:$plain   inet  n - n - - smtpd
127.0.0.1:$limited inet  n - n - - smtpd -o smtpd_client_connection_rate_limit=1 -o smtpd_client_event_limit_exceptions=
pickup    unix  n - n 60 1 pickup
cleanup   unix  n - n - 0 cleanup
qmgr      unix  n - n 300 1 qmgr
rewrite   unix  - - n - - trivial-rewrite
proxymap  unix  - - n - - proxymap
anvil     unix  - - n - 1 anvil
tlsmgr    unix  - - n 1000? 1 tlsmgr
local     unix  - n n - - local
postlog   unix-dgram n - n - 1 postlogd
`, "$plain", portText(plain), "$limited", portText(limited))
	for _, name := range []string{"main.cf", "master.cf"} {
		if err := os.Chown(filepath.Join(config, name), 0, 0); err != nil {
			t.Fatal(err)
		}
	}
	d := runDaemon(t, nil, plain, postfix, "-c", config, "start-fg")
	t.Cleanup(func() { // its master has a session of its own
		if out, err := exec.Command(postfix, "-c", config, "stop").CombinedOutput(); err != nil {
			t.Errorf("stop Postfix: %v\n%s", err, out)
		}
	})
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

// postfixDirectories makes those that Postfix wants to be its own, or root's.
func postfixDirectories(t *testing.T, dir string) {
	t.Helper()
	owner, err := user.Lookup("postfix")
	if err != nil {
		t.Fatal(err)
	}
	uid, _ := strconv.Atoi(owner.Uid)
	for name, id := range map[string]int{"spool": 0, "data": uid, "config": 0} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(filepath.Join(dir, name), id, 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chown(dir, 0, 0); err != nil {
		t.Fatal(err)
	}
}

// TestDovecot has POP3 and IMAP, with and without TLS.
func TestDovecot(t *testing.T) {
	t.Parallel()
	dovecot := program(t, "dovecot-imapd", "/usr/sbin/dovecot")
	program(t, "dovecot-pop3d", "/usr/lib/dovecot/pop3")
	if os.Geteuid() != 0 {
		t.Skip("needs root: Dovecot starts its servers as several users")
	}
	dir, ca := directory(t), newAuthority(t)
	keyPair(t, ca, dir)
	write(t, filepath.Join(dir, "passwords"), "joe:{PLAIN}s3cret!:65534:65534::"+dir+"/joe::\n")
	imap, imaps, pop3, pop3s := freePort(t), freePort(t), freePort(t), freePort(t)
	config := write(t, filepath.Join(dir, "dovecot.conf"), `
base_dir = $dir/run
state_dir = $dir/state
protocols = imap pop3
listen = 127.0.0.1
log_path = /dev/stderr
default_internal_user = nobody
default_internal_group = nogroup
default_login_user = nobody
first_valid_uid = 1
mail_location = maildir:$dir/joe/mail
ssl = yes
ssl_cert = <$dir/cert.pem
ssl_key = <$dir/key.pem
disable_plaintext_auth = yes
auth_failure_delay = 0
passdb {
  driver = passwd-file
  args = $dir/passwords
}
userdb {
  driver = passwd-file
  args = $dir/passwords
}
service imap-login {
  chroot =
  inet_listener imap {
    port = $imap
  }
  inet_listener imaps {
    port = $secureimap
  }
}
service pop3-login {
  chroot =
  inet_listener pop3 {
    port = $pop3
  }
  inet_listener pop3s {
    port = $securepop3
  }
}
service anvil {
  chroot =
}
service stats {
  chroot =
}
`, "$dir", dir, "$imap", portText(imap), "$secureimap", portText(imaps), "$pop3", portText(pop3), "$securepop3", portText(pop3s))
	d := runDaemon(t, nil, imap, dovecot, "-F", "-c", config)
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
