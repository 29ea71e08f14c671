// SPDX-License-Identifier: Apache-2.0

package uses

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/smtp"
	"strings"
	"sync"
	"time"

	"xdplvs/internal/netlab"
	"xdplvs/test/stage"
)

// sender sends mails by swaks, one after the other, each until it is taken, as a mail server does that has them in its
// queue.
type sender struct {
	host *netlab.Host
	vip  netip.Addr
	name string

	mu    sync.Mutex
	tries map[string]int // of each mail that was taken, by its subject
	last  string         // what was said of the last try that failed
	next  int
}

func newSender(h *netlab.Host, vip netip.Addr, name string) *sender {
	return &sender{host: h, vip: vip, name: name, tries: map[string]int{}}
}

// run sends until ctx ends. A mail that was begun is sent to the end.
func (s *sender) run(ctx context.Context) {
	for stage.Sleep(ctx, 250*time.Millisecond) == nil {
		s.send(context.WithoutCancel(ctx)) // the last error is told where nothing goes on
	}
}

// send sends one mail until it is taken.
func (s *sender) send(ctx context.Context) error {
	s.next++
	subject, tries := fmt.Sprintf("mail %s %d.", s.name, s.next), 0
	return Await(ctx, func() error {
		tries++
		_, err := s.host.Run(ctx, "swaks", "--server", s.vip.String(), "--from", "sender@example.net", "--to", "joe@example.org",
			"--h-Subject", subject, "--helo", "client.example.net", "--timeout", "10", "--hide-all")
		s.mu.Lock()
		defer s.mu.Unlock()
		if err != nil {
			s.last = err.Error()
			return err
		}
		s.tries[subject] = tries
		return nil
	})
}

// taken is how many mails were.
func (s *sender) taken() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.tries)
}

// String tells how it went.
func (s *sender) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	again := 0
	for _, tries := range s.tries {
		again += tries - 1
	}
	text := fmt.Sprintf("to %v: %d mails were taken, with %d repetitions", s.vip, len(s.tries), again)
	if s.last != "" {
		text += "; the last one because of\n" + s.last
	}
	return text
}

// compare fails unless each mail was delivered, and no more often than it was sent.
func (s *sender) compare(copies map[string]int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for subject, tries := range s.tries {
		if n := copies[subject]; n == 0 || n > tries {
			return fmt.Errorf("%q was sent %d times, and delivered %d times", subject, tries, n)
		}
	}
	return nil
}

// subject is a mail's.
func subject(mail string) string {
	for line := range strings.Lines(mail) {
		if text, ok := strings.CutPrefix(line, "Subject: "); ok {
			return strings.TrimSpace(text)
		}
	}
	return ""
}

// conversation is SMTP with one server, up to the beginning of a mail.
type conversation struct{ *smtp.Client }

// converse begins conversations until one is with this server.
func (f *mailFarm) converse(ctx context.Context, vip netip.Addr, with *mailServer) (*conversation, error) {
	var c *conversation
	return c, Await(ctx, func() (err error) {
		c, err = f.greet(ctx, vip, with.real.Name()+".example.org")
		return err
	})
}

// greet begins a conversation, and gives it up if it is with another server.
func (f *mailFarm) greet(ctx context.Context, vip netip.Addr, name string) (*conversation, error) {
	conn, err := f.Client.DialContext(ctx, "tcp", netip.AddrPortFrom(vip, 25).String())
	if err != nil {
		return nil, err
	}
	heard := &listener{Conn: conn}
	client, err := smtp.NewClient(heard, name)
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	if !strings.Contains(string(heard.said), name) {
		return nil, errors.Join(fmt.Errorf("%q is not %s", heard.said, name), client.Quit())
	}
	return &conversation{client}, errors.Join(client.Hello("client.example.net"), client.Mail("sender@example.net"))
}

// listener keeps what was said to begin with.
type listener struct {
	net.Conn
	said []byte
}

// Read is io.Reader's.
func (l *listener) Read(b []byte) (int, error) {
	n, err := l.Conn.Read(b)
	if l.said == nil {
		l.said = append(l.said, b[:n]...)
	}
	return n, err
}

// finish sends the mail.
func (c *conversation) finish() error {
	if err := c.Rcpt("joe@example.org"); err != nil {
		return err
	}
	text, err := c.Data()
	if err != nil {
		return err
	}
	_, err = fmt.Fprint(text, "Subject: begun before\r\n\r\nand ended after.\r\n")
	return errors.Join(err, text.Close(), c.Quit())
}
