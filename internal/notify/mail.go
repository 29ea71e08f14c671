// SPDX-License-Identifier: Apache-2.0

package notify

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"mime"
	"net"
	"net/smtp"
	"os"
	"strings"
	"time"

	"xdplvs/healthcheck"
	"xdplvs/internal/health"
)

// Mail sends mail by SMTP.
type Mail struct {
	Server   string // host:port
	From     string
	To       []string
	User     string // "": no login; with a login the connection must be secret, or to this host
	Password healthcheck.Secret
	Security healthcheck.Security // plain, tls or starttls; "": starttls if the server offers it
	// SkipVerify does not look at the server's certificate.
	SkipVerify bool
	CAs        healthcheck.CAs // who may have signed it
}

func (m *Mail) name() string          { return "mail to " + strings.Join(m.To, ", ") }
func (m *Mail) gather() time.Duration { return time.Second }

func (m *Mail) send(ctx context.Context, events []health.Event) error {
	host, _, err := net.SplitHostPort(m.Server)
	if err != nil {
		return err
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", m.Server)
	if err != nil {
		return err
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			return err
		}
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	if m.Security == healthcheck.TLS {
		conn = tls.Client(conn, m.tls(host))
	}
	client, err := smtp.NewClient(conn, host)
	if err != nil {
		return err
	}
	if err := m.greet(client, host); err != nil {
		return err
	}
	return m.say(client, events)
}

func (m *Mail) tls(host string) *tls.Config {
	return &tls.Config{ServerName: host, InsecureSkipVerify: m.SkipVerify, RootCAs: m.CAs.Pool()}
}

// greet makes the connection secret, and logs in.
func (m *Mail) greet(client *smtp.Client, host string) error {
	if name, err := os.Hostname(); err == nil {
		if err := client.Hello(name); err != nil {
			return err
		}
	}
	offered, _ := client.Extension("STARTTLS")
	switch {
	case m.Security == healthcheck.StartTLS && !offered:
		return errors.New("the server does not offer STARTTLS")
	case offered && (m.Security == healthcheck.StartTLS || m.Security == ""):
		if err := client.StartTLS(m.tls(host)); err != nil {
			return err
		}
	}
	if m.User == "" {
		return nil
	}
	return client.Auth(smtp.PlainAuth("", m.User, m.Password.Reveal(), host))
}

func (m *Mail) say(client *smtp.Client, events []health.Event) error {
	if err := client.Mail(m.From); err != nil {
		return err
	}
	for _, to := range m.To {
		if err := client.Rcpt(to); err != nil {
			return err
		}
	}
	w, err := client.Data()
	if err != nil {
		return err
	}
	if _, err := w.Write([]byte(m.text(events))); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	_ = client.Quit() // the server has taken the mail: another attempt would be a second one
	return nil
}

// text is the mail, with all that happened in its body and the first of it in its subject.
func (m *Mail) text(events []health.Event) string {
	subject := line(&events[0])
	if len(events) > 1 {
		subject += fmt.Sprintf(" (and %d more)", len(events)-1)
	}
	var b strings.Builder
	header := func(name, value string) { fmt.Fprintf(&b, "%s: %s\r\n", name, value) }
	header("From", m.From)
	header("To", strings.Join(m.To, ", "))
	header("Subject", mime.QEncoding.Encode("utf-8", "[director] "+subject))
	header("Date", events[0].Time.Format(time.RFC1123Z))
	header("Auto-Submitted", "auto-generated")
	header("MIME-Version", "1.0")
	header("Content-Type", "text/plain; charset=utf-8")
	b.WriteString("\r\n")
	for i := range events {
		fmt.Fprintf(&b, "%s  %s\r\n", events[i].Time.UTC().Format(time.RFC3339), line(&events[i]))
	}
	return b.String()
}
