// SPDX-License-Identifier: Apache-2.0

package configs

import (
	"cmp"
	"net"
	"net/mail"
	"net/url"
	"strings"
	"time"

	hc "xdplvs/healthcheck"
	"xdplvs/internal/health"
	"xdplvs/internal/notify"
)

// notification is a notify.Target as written.
type notification struct {
	notify.Target
	ways []string
}

// eventKinds are those that a target can be told of.
var eventKinds = []health.Kind{health.RealUp, health.RealDraining, health.RealDown, health.RealUnknown, health.QuorumGained, health.QuorumLost}

var notificationObject = object[notification]{
	what: "a mapping with webhook, mail, command or fifo",
	fields: []field[notification]{
		tells("webhook", either("a URL, or a mapping with url", mapped(webURL(), func(_ cursor, v string) (notify.Webhook, bool) {
			return notify.Webhook{URL: v}, true
		}), webhookObject.kind()), func(n *notification, w notify.Webhook) { n.Webhook = &w },
			"Posts events as JSON; the short form is a URL."),
		tells("mail", mailObject.kind(), func(n *notification, m notify.Mail) { n.Mail = &m },
			"Sends mail."),
		tells("command", either("a path, or a mapping with path", mapped(absolutePath(longestPath), func(_ cursor, v string) (notify.Command, bool) {
			return notify.Command{Path: v}, true
		}), commandObject.kind()), func(n *notification, c notify.Command) { n.Command = &c },
			"Runs a command for each event, as the director's user; the short form is its path."),
		tells("fifo", absolutePath(longestPath), func(n *notification, path string) { n.FIFO = path },
			"Writes keepalived's lines into a FIFO, which is made if there is none."),
		option("events", elements("events", eventKind()), func(n *notification) *[]health.Kind { return &n.Events },
			"Events that are told of: real_up, real_drain, real_down, real_unknown, quorum_gained, quorum_lost; all but real_unknown if absent."),
		option("timeout", duration(time.Millisecond, time.Hour), func(n *notification) *time.Duration { return &n.Timeout },
			"How long one attempt may take; 10s if absent."),
	},
}

// tells is a key that says how somebody is told.
func tells[V any](name string, k kind[V], put func(*notification, V), doc string) field[notification] {
	return field[notification]{key: name, doc: doc, schema: k.schema, decode: func(c cursor, into *notification) {
		into.ways = append(into.ways, name)
		if v, ok := k.decode(c); ok {
			put(into, v)
		}
	}}
}

func eventKind() kind[health.Kind] {
	var known []string
	for _, k := range eventKinds {
		known = append(known, string(k))
	}
	return as[health.Kind](oneOf("event", known...))
}

var webhookObject = object[notify.Webhook]{
	what: "a mapping with url",
	fields: []field[notify.Webhook]{
		option("url", webURL(), func(w *notify.Webhook) *string { return &w.URL },
			"Where events are posted to.").must(),
		option("token", secret(), func(w *notify.Webhook) *hc.Secret { return &w.Token },
			"Sent as Authorization: Bearer."),
		option("headers", headers(), func(w *notify.Webhook) *map[string]hc.Secret { return &w.Header },
			"Further headers; a value is a text or a secret as {file: PATH} or {env: NAME}."),
		option("ca_file", authorities(), func(w *notify.Webhook) *hc.CAs { return &w.CAs },
			"Certificates in PEM that the server's is verified with; the system's if absent."),
	},
}

func webURL() kind[string] {
	return parsed("a URL with http or https", schema{"type": "string", "pattern": "^https?://"}, func(text string) (string, string, bool) {
		u, err := url.Parse(text)
		return text, "", err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != ""
	})
}

var mailObject = object[notify.Mail]{
	what: "a mapping with server, from and to",
	fields: []field[notify.Mail]{
		option("server", hostAndPort(), func(m *notify.Mail) *string { return &m.Server },
			"Mail server, as HOST or HOST:PORT; localhost if absent, and port 25."),
		option("from", mailAddress(), func(m *notify.Mail) *string { return &m.From },
			"Address that the mail comes from.").must(),
		option("to", oneOrMore("mail addresses", mailAddress()), func(m *notify.Mail) *[]string { return &m.To },
			"Addresses that the mail goes to.").must(),
		option("security", as[hc.Security](oneOf("security", withStartTLS...)), func(m *notify.Mail) *hc.Security { return &m.Security },
			"plain, tls or starttls; starttls if the server offers it, if absent."),
		option("skip_verify", boolean(), func(m *notify.Mail) *bool { return &m.SkipVerify },
			"Does not look at the server's certificate."),
		option("ca_file", authorities(), func(m *notify.Mail) *hc.CAs { return &m.CAs },
			"Certificates in PEM that the server's is verified with; the system's if absent."),
		userKey(func(m *notify.Mail) *string { return &m.User }),
		passwordKey(func(m *notify.Mail) *hc.Secret { return &m.Password }),
	},
}

func mailAddress() kind[string] {
	return parsed("a mail address", schema{"type": "string"}, func(text string) (string, string, bool) {
		a, err := mail.ParseAddress(text)
		if err == nil && a.Address != text {
			return text, "without a name beside it", false
		}
		return text, "", err == nil
	})
}

// hostAndPort adds the port of mail where there is none.
func hostAndPort() kind[string] {
	return parsed("a host, or HOST:PORT", schema{"type": "string"}, func(text string) (string, string, bool) {
		if host, port, err := net.SplitHostPort(text); err == nil {
			return text, "", host != "" && port != ""
		}
		return net.JoinHostPort(text, "25"), "", text != ""
	})
}

var commandObject = object[notify.Command]{
	what: "a mapping with path",
	fields: []field[notify.Command]{
		option("path", absolutePath(longestPath), func(c *notify.Command) *string { return &c.Path },
			"The command; there is no shell.").must(),
		option("args", elements("arguments", text("an argument")), func(c *notify.Command) *[]string { return &c.Args },
			"Arguments in front of the event's kind, the service and the real server."),
	},
}

// complete fills in what is absent, and finds certificates that nothing is verified with.
func (n *notification) complete(at cursor) {
	if m := n.Mail; m != nil {
		m.Server = cmp.Or(m.Server, "localhost:25")
		if m.CAs != "" && (m.SkipVerify || m.Security == hc.Plain) {
			at.failf("ca_file of a mail that looks at no certificate: with skip_verify or security: plain nothing is verified")
		}
	}
	if w := n.Webhook; w != nil && w.CAs != "" && !strings.HasPrefix(strings.ToLower(w.URL), "https:") {
		at.failf("ca_file of a webhook that is not asked by https: nothing is verified")
	}
}

func (b *builder) notifications(all list[notification]) {
	for _, s := range all.all {
		if !s.ok {
			continue
		}
		if n := len(s.value.ways); n != 1 {
			s.at.failf("expected one of webhook, mail, command and fifo, found %d", n)
			continue
		}
		s.value.complete(s.at)
		b.config.Notify = append(b.config.Notify, s.value.Target)
	}
}
