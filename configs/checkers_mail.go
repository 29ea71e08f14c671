// SPDX-License-Identifier: Apache-2.0

package configs

import hc "xdplvs/healthcheck"

var smtpObject = object[hc.SMTPOptions]{
	what: "a mapping with options of an SMTP check",
	fields: []field[hc.SMTPOptions]{
		securityKey(func(o *hc.SMTPOptions) *hc.Security { return &o.Security }, withStartTLS...),
		tlsKey(func(o *hc.SMTPOptions) *hc.TLSClient { return &o.TLS }),
		option("hello", text("a host name"), func(o *hc.SMTPOptions) *string { return &o.Hello },
			"Name in EHLO; this host's if absent."),
		option("lmtp", boolean(), func(o *hc.SMTPOptions) *bool { return &o.LMTP },
			"Says LHLO instead, as LMTP does."),
		option("banner", pattern(), func(o *hc.SMTPOptions) *hc.Pattern { return &o.Banner },
			"What the greeting must contain."),
		option("extensions", elements("extensions", text("an extension")), func(o *hc.SMTPOptions) *[]string { return &o.Extensions },
			"Extensions that the server must offer, such as AUTH."),
		userKey(func(o *hc.SMTPOptions) *string { return &o.User }),
		passwordKey(func(o *hc.SMTPOptions) *hc.Secret { return &o.Password }),
		option("mail_from", text("a mail address"), func(o *hc.SMTPOptions) *string { return &o.MailFrom },
			"Begins a mail from this address, <> for the empty one, and takes it back."),
		option("rcpt_to", text("a mail address"), func(o *hc.SMTPOptions) *string { return &o.RcptTo },
			"Recipient that must be accepted after mail_from."),
	},
}

var mailboxObject = object[hc.MailboxOptions]{
	what: "a mapping with options of a POP3 or IMAP check",
	fields: []field[hc.MailboxOptions]{
		securityKey(func(o *hc.MailboxOptions) *hc.Security { return &o.Security }, withStartTLS...),
		tlsKey(func(o *hc.MailboxOptions) *hc.TLSClient { return &o.TLS }),
		option("banner", pattern(), func(o *hc.MailboxOptions) *hc.Pattern { return &o.Banner },
			"What the greeting must contain."),
		userKey(func(o *hc.MailboxOptions) *string { return &o.User }),
		passwordKey(func(o *hc.MailboxOptions) *hc.Secret { return &o.Password }),
		option("mailbox", text("a mailbox"), func(o *hc.MailboxOptions) *string { return &o.Mailbox },
			"Mailbox that is examined after the login; IMAP only."),
	},
}

var ftpObject = object[hc.FTPOptions]{
	what: "a mapping with options of an FTP check",
	fields: []field[hc.FTPOptions]{
		securityKey(func(o *hc.FTPOptions) *hc.Security { return &o.Security }, withStartTLS...),
		tlsKey(func(o *hc.FTPOptions) *hc.TLSClient { return &o.TLS }),
		option("banner", pattern(), func(o *hc.FTPOptions) *hc.Pattern { return &o.Banner },
			"What the greeting must contain."),
		userKey(func(o *hc.FTPOptions) *string { return &o.User }),
		passwordKey(func(o *hc.FTPOptions) *hc.Secret { return &o.Password }),
		option("file", text("the name of a file"), func(o *hc.FTPOptions) *string { return &o.File },
			"File that is fetched after the login."),
		option("content", pattern(), func(o *hc.FTPOptions) *hc.Pattern { return &o.Content },
			"What the file must contain."),
	},
}
