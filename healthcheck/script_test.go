// SPDX-License-Identifier: Apache-2.0

package healthcheck

import (
	"bufio"
	"crypto/tls"
	"io"
	"net"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// script is a server that follows a dialogue, a line each:
//
//	> text      it says text, with a line end
//	>> text     without one; \r and \n are escapes
//	< regexp    it reads a line, which must match as a whole
//	tls         it goes on in TLS
//	eof         the client must end the connection
//
// When the dialogue ends, so does the connection.
func script(t testing.TB, certificate *tls.Certificate, dialogue string) Target {
	return serve(t, func(c net.Conn) {
		s := scripted{t: t, conn: c, r: bufio.NewReader(c), certificate: certificate}
		for _, line := range strings.Split(dialogue, "\n") {
			if line = strings.TrimSpace(line); line != "" && !s.follow(line) {
				return
			}
		}
		c.(*net.TCPConn).CloseWrite() // and no reset, because something is unread
		c.SetReadDeadline(time.Now().Add(5 * time.Second))
		io.Copy(io.Discard, c)
	})
}

type scripted struct {
	t           testing.TB
	conn        net.Conn
	r           *bufio.Reader
	certificate *tls.Certificate
}

// follow does what a line says; false ends the dialogue.
func (s *scripted) follow(line string) bool {
	verb, text, _ := strings.Cut(line, " ")
	switch verb {
	case ">":
		_, err := io.WriteString(s.conn, text+"\r\n")
		return err == nil
	case ">>":
		_, err := io.WriteString(s.conn, strings.NewReplacer(`\r`, "\r", `\n`, "\n").Replace(text))
		return err == nil
	case "<":
		got, err := s.r.ReadString('\n')
		if err != nil {
			return false // the check may have seen enough
		}
		got = strings.TrimRight(got, "\r\n")
		if !regexp.MustCompile("^(?:" + text + ")$").MatchString(got) {
			s.t.Errorf("the client says %q, want %s", got, text)
		}
		return true
	case "tls":
		conn := tls.Server(s.conn, &tls.Config{Certificates: []tls.Certificate{*s.certificate}})
		s.conn, s.r = conn, bufio.NewReader(conn)
		return conn.Handshake() == nil
	case "eof":
		if said, _ := io.ReadAll(s.r); len(said) > 0 {
			s.t.Errorf("the client says %q, want the end", said)
		}
		return true
	}
	s.t.Errorf("unknown line of a dialogue: %q", line)
	return false
}

func itoa(n int) string { return strconv.Itoa(n) }
