// SPDX-License-Identifier: Apache-2.0

package healthcheck

import (
	"bufio"
	"context"
	"crypto/md5"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// httpSession is one run of an HTTP check.
type httpSession struct {
	c    *httpChecker
	p    *probe
	wire *protocolConn // the latest
	is2  bool
}

// roundTrip connects and makes a request. Version 1.1 does without http.Transport, which would log what
// servers say without being asked.
func (s *httpSession) roundTrip(request *http.Request) (*http.Response, error) {
	conn, err := s.connect()
	if err != nil {
		return nil, err
	}
	s.p.enter(layer7, "response")
	if s.is2 {
		s.wire = &protocolConn{Conn: conn, protocol: "HTTP/2", first: "\x00"} // SETTINGS is short
		return s.roundTrip2(request)
	}
	s.wire = &protocolConn{Conn: conn, protocol: "HTTP", first: "H"}
	request.Close = true
	if err := request.Write(s.wire); err != nil {
		return nil, err
	}
	reader := bufio.NewReader(s.wire)
	for range maxInformational {
		response, err := http.ReadResponse(reader, request)
		if err != nil || response.StatusCode >= 200 || response.StatusCode == http.StatusSwitchingProtocols {
			return response, err
		}
	}
	return nil, fail(L7RSP, 0, "response: more than %d informational ones", maxInformational)
}

// maxInformational is how many responses with status 1xx can come before the final one.
const maxInformational = 8

// connect opens the connection; with TLS, ALPN may choose the version.
func (s *httpSession) connect() (net.Conn, error) {
	conn, err := s.p.dial("tcp")
	s.is2 = s.c.Version == "2"
	if err != nil || s.c.TLS == nil {
		return conn, err
	}
	offers := map[string][]string{"1.1": {"http/1.1"}, "2": {"h2"}, "auto": {"h2", "http/1.1"}}[s.c.Version]
	secured, err := s.p.startTLS(conn, s.c.client, offers...)
	if err != nil {
		return nil, err
	}
	s.is2 = secured.ConnectionState().NegotiatedProtocol == "h2"
	if s.c.Version == "2" && !s.is2 {
		return nil, fail(L6RSP, 0, "the server does not offer HTTP/2")
	}
	return secured, nil
}

// roundTrip2 speaks HTTP/2 on the connection. To the transport it is one that speaks it at once,
// whether there is TLS below or not.
func (s *httpSession) roundTrip2(request *http.Request) (*http.Response, error) {
	dial := func(context.Context, string, string) (net.Conn, error) { return s.wire, nil }
	t := &http.Transport{DialContext: dial, DialTLSContext: dial, DisableCompression: true, MaxConnsPerHost: 1,
		MaxResponseHeaderBytes: 64 << 10, Protocols: new(http.Protocols)}
	t.Protocols.SetUnencryptedHTTP2(true)
	s.p.closeLater(closerFunc(t.CloseIdleConnections))
	return t.RoundTrip(request)
}

// explain puts errors into words.
func (s *httpSession) explain(err error) error {
	if s.wire != nil {
		ended := s.wire.end()
		if _, ok := errors.AsType[*failure](ended); ok || errors.Is(ended, errTooMuch) || s.is2 && ended != nil && !isTimeout(err) {
			err = ended // HTTP/2 tells of a broken connection what comes first
		}
	}
	if _, ok := errors.AsType[*failure](err); ok || isTimeout(err) {
		return err
	}
	if at, _ := s.p.progress(); at == layer7 {
		return fail(L7RSP, 0, "response: %s", strings.TrimPrefix(cause(err), "net/http: "))
	}
	return err
}

// statusRanges are codes and ranges of them.
type statusRanges []statusRange

type statusRange struct{ first, last int }

// parseStatusRanges reads "200 301-303"; commas separate as well.
func parseStatusRanges(text string, lowest, highest int) (statusRanges, error) {
	var ranges statusRanges
	for _, part := range strings.FieldsFunc(text, func(r rune) bool { return r == ' ' || r == ',' }) {
		from, to, isRange := strings.Cut(part, "-")
		if !isRange {
			to = from
		}
		first, err1 := strconv.Atoi(from)
		last, err2 := strconv.Atoi(to)
		if err1 != nil || err2 != nil || first < lowest || last > highest || first > last {
			return nil, fmt.Errorf("%q is no status between %d and %d, as 200 or 200-299", part, lowest, highest)
		}
		ranges = append(ranges, statusRange{first, last})
	}
	if len(ranges) == 0 {
		return nil, errors.New("names no status, as 200 or 200-299")
	}
	return ranges, nil
}

func (s statusRanges) has(code int) bool {
	return slices.ContainsFunc(s, func(r statusRange) bool { return r.first <= code && code <= r.last })
}

// digest is what a body must hash to.
type digest struct{ kind, want string }

func parseDigest(text string) (digest, error) {
	kind, want, _ := strings.Cut(strings.ToLower(text), ":")
	size, ok := map[string]int{"": 0, "md5": md5.Size, "sha256": sha256.Size}[kind]
	if !ok {
		return digest{}, fmt.Errorf("unknown %q (known: md5:HEX, sha256:HEX)", kind)
	}
	if raw, err := hex.DecodeString(want); err != nil || len(raw) != size {
		return digest{}, fmt.Errorf("%s has %d hexadecimal digits", kind, 2*size)
	}
	return digest{kind, want}, nil
}

func (d digest) isZero() bool { return d.kind == "" }

func (d digest) of(body []byte) string {
	if d.kind == "md5" {
		return fmt.Sprintf("%x", md5.Sum(body))
	}
	return fmt.Sprintf("%x", sha256.Sum256(body))
}
