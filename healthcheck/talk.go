// SPDX-License-Identifier: Apache-2.0

package healthcheck

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"
)

// maxLine is the longest line that a server may say, in bytes.
const maxLine = 8192

// Security is how a line protocol becomes secret.
type Security string

// The kinds of security. "" is Plain.
const (
	Plain    Security = "plain"
	TLS      Security = "tls"      // from the first byte on, as smtps, pop3s, imaps, ldaps
	StartTLS Security = "starttls" // by the protocol's own command, which must succeed
)

func (s Security) check(m *mistakes) {
	m.known("security", string(s), "", string(Plain), string(TLS), string(StartTLS))
}

// talk is a conversation in lines.
type talk struct {
	p    *probe
	conn net.Conn
	r    *bufio.Reader
}

// talk connects; with TLS, if that comes first.
func (p *probe) talk(s Security, c *tlsClient) (*talk, error) {
	conn, err := p.dial("tcp")
	if err != nil {
		return nil, err
	}
	t := &talk{p: p}
	t.use(conn)
	if s == TLS {
		err = t.secure(c)
	}
	return t, err
}

func (t *talk) use(conn net.Conn) {
	t.conn, t.r = conn, bufio.NewReaderSize(conn, maxLine)
}

// secure goes on in TLS. What the server said beforehand and was not asked for must not be taken for
// an answer under TLS.
func (t *talk) secure(c *tlsClient) error {
	if n := t.r.Buffered(); n > 0 {
		said, _ := t.r.Peek(n)
		return fail(L6RSP, 0, "the server talks on before TLS: %s", excerpt(said))
	}
	conn, err := t.p.startTLS(t.conn, c)
	if err != nil {
		return err
	}
	t.use(conn)
	return nil
}

// line reads one line without its end. what names it if it does not come.
func (t *talk) line(what string) (string, error) {
	t.p.enter(layer7, what)
	raw, err := t.r.ReadSlice('\n')
	line := hide(string(raw), t.p.secrets...) // before it is cut
	switch {
	case err == nil:
		return strings.TrimRight(line, "\r\n"), nil
	case errors.Is(err, bufio.ErrBufferFull):
		return "", fail(L7RSP, 0, "%s: a line of more than %d bytes: %s", what, maxLine, excerpt(line))
	case isTimeout(err) && len(line) > 0:
		return "", fail(L7TOUT, 0, "%s: no whole line in time, only %s", what, excerpt(line))
	case errors.Is(err, io.EOF) && len(line) > 0:
		return "", fail(L7RSP, 0, "%s: the server closed the connection after %s", what, excerpt(line))
	default:
		return "", err
	}
}

// block reads exactly n bytes.
func (t *talk) block(what string, n int) ([]byte, error) {
	t.p.enter(layer7, what)
	b := make([]byte, n)
	_, err := io.ReadFull(t.r, b)
	return b, err
}

// send writes one line.
func (t *talk) send(what, format string, args ...any) error {
	return t.write(what, fmt.Sprintf(format, args...)+"\r\n")
}

func (t *talk) write(what, text string) error {
	t.p.enter(layer7, what)
	_, err := io.WriteString(t.conn, text)
	return err
}

// farewell is how long a server may take to say goodbye.
const farewell = 200 * time.Millisecond

// bye ends a conversation politely; the verdict is known, and how the server takes it does not matter.
func (t *talk) bye(command string) {
	if deadline, ok := t.p.ctx.Deadline(); !ok || time.Until(deadline) > farewell {
		t.conn.SetDeadline(time.Now().Add(farewell))
	}
	if t.write("goodbye", command+"\r\n") == nil {
		t.line("goodbye")
	}
}

// greeted is the probe of a server that begins with reply 220, its banner, and ends at QUIT; session says what comes between.
func (p *probe) greeted(security Security, client *tlsClient, banner *matcher, session func(*talk) error) (Result, error) {
	s, err := p.talk(security, client)
	if err != nil {
		return Result{}, err
	}
	text, err := s.replyWith("banner", "220")
	if err != nil {
		return Result{}, err
	}
	if wrong := banner.judge([]byte(text)); wrong != "" {
		return Result{}, fail(L7RSP, 0, "banner: %s", wrong)
	}
	if err := session(s); err != nil {
		return Result{}, err
	}
	s.bye("QUIT")
	r := good(L7OK, "%s", text)
	r.Status = 220
	return r, nil
}
