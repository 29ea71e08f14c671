// SPDX-License-Identifier: Apache-2.0

package healthcheck

import (
	"context"
	"crypto/hmac"
	"crypto/md5"
	"crypto/rand"
	"crypto/subtle"
	"encoding/binary"
	"strings"
)

// RADIUSOptions are those of a check of a RADIUS server.
type RADIUSOptions struct {
	// Secret is the one shared with the server; needed. Servers do not answer to a wrong one.
	Secret Secret
	// User and Password ask for access (PAP). "": Status-Server (RFC 5997), which wants neither.
	User     string
	Password Secret
	// NASIdentifier is what the director calls itself. "": director.
	NASIdentifier string
	// Reject says that Access-Reject will do too: the server works, it only does not know the user.
	Reject bool
}

type radiusChecker struct {
	identity
	RADIUSOptions
}

// Codes and attributes (RFC 2865, 2869, 5997).
const (
	radiusRequest   = 1
	radiusAccept    = 2
	radiusReject    = 3
	radiusCounted   = 5
	radiusChallenge = 11
	radiusStatus    = 12

	radiusUserName             = 1
	radiusUserPassword         = 2
	radiusReplyMessage         = 18
	radiusNASIdentifier        = 32
	radiusMessageAuthenticator = 80

	radiusHeader = 20
)

var radiusCodes = map[byte]string{
	radiusAccept: "Access-Accept", radiusReject: "Access-Reject",
	radiusCounted: "Accounting-Response", radiusChallenge: "Access-Challenge"} // the third to Status-Server at port 1813

// NewRADIUS is a checker of RADIUS servers.
func NewRADIUS(o RADIUSOptions) (Checker, error) {
	m := mistakes{kind: "radius"}
	c := &radiusChecker{identify("radius", o), o}
	c.NASIdentifier = orElse(o.NASIdentifier, "director")
	if o.Secret.IsZero() {
		m.add("secret", "missing")
	}
	if o.User == "" && (!o.Password.IsZero() || o.Reject) {
		m.add("user", "missing beside a password or reject")
	}
	if len(o.Password.value) > 128 {
		m.add("password", "more than 128 bytes")
	}
	if len(o.User) > 253 || len(c.NASIdentifier) > 253 {
		m.add("user", "the user or the NAS identifier has more than 253 bytes")
	}
	return c, m.err()
}

// Check is Checker's.
func (c *radiusChecker) Check(ctx context.Context, t Target) Result {
	return run(ctx, t, func(p *probe) (r Result, err error) {
		p.keep(c.Password, c.Secret)
		conn, err := p.dial("udp")
		if err != nil {
			return r, err
		}
		request := c.request()
		what := "Access-Request (a wrong secret gets none)"
		if c.User == "" {
			what = "Status-Server (a wrong secret gets none)"
		}
		err = p.exchange(conn, layer7, what, request, func(b []byte) (bool, error) {
			if len(b) < radiusHeader || b[1] != request[1] {
				return false, nil
			}
			r, err = c.judge(b, request)
			return true, err
		})
		return r, err
	})
}

// request makes a packet with a new identifier and authenticator.
func (c *radiusChecker) request() []byte {
	var random [17]byte
	rand.Read(random[:])
	b := make([]byte, radiusHeader, 512)
	b[0], b[1] = radiusRequest, random[0]
	copy(b[4:], random[1:])
	if c.User == "" {
		b[0] = radiusStatus
	} else {
		b = radiusAttribute(b, radiusUserName, []byte(c.User))
		b = radiusAttribute(b, radiusUserPassword, c.hidden(b[4:radiusHeader]))
	}
	b = radiusAttribute(b, radiusNASIdentifier, []byte(c.NASIdentifier))
	b = radiusAttribute(b, radiusMessageAuthenticator, make([]byte, md5.Size))
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	mac := hmac.New(md5.New, []byte(c.Secret.value))
	mac.Write(b) // with zeros in place of the sum (RFC 2869, 5.14)
	copy(b[len(b)-md5.Size:], mac.Sum(nil))
	return b
}

func radiusAttribute(b []byte, kind byte, value []byte) []byte {
	return append(append(b, kind, byte(2+len(value))), value...)
}

// hidden is the password as RFC 2865, 5.2 has it.
func (c *radiusChecker) hidden(authenticator []byte) []byte {
	password := []byte(c.Password.value)
	b := make([]byte, max(1, (len(password)+15)/16)*16)
	copy(b, password)
	for i, last := 0, authenticator; i < len(b); i, last = i+16, b[i:i+16] {
		key := md5.Sum(append([]byte(c.Secret.value), last...))
		subtle.XORBytes(b[i:], b[i:i+16], key[:])
	}
	return b
}

// judge looks at an answer with the identifier of the request.
func (c *radiusChecker) judge(b, request []byte) (Result, error) {
	length := int(binary.BigEndian.Uint16(b[2:]))
	if length < radiusHeader || length > len(b) {
		return Result{}, fail(L7RSP, 0, "no answer of RADIUS: %d bytes that say they are %d", len(b), length)
	}
	b = b[:length]
	if !c.signed(b, request) {
		return Result{}, fail(L7RSP, int(b[0]), "the answer is not signed with our secret")
	}
	name, known := radiusCodes[b[0]]
	if !known {
		return Result{}, fail(L7RSP, int(b[0]), "an answer with the code %d (known: 2, 3, 5, 11)", b[0])
	}
	if message := radiusMessage(b[radiusHeader:]); message != "" {
		name += ": " + excerpt(message)
	}
	if b[0] == radiusReject && !c.Reject {
		return Result{}, fail(L7STS, int(b[0]), "%s", name)
	}
	r := good(L7OK, "%s", name)
	r.Status = int(b[0])
	return r, nil
}

// signed verifies the response authenticator (RFC 2865, 3).
func (c *radiusChecker) signed(b, request []byte) bool {
	h := md5.New()
	h.Write(b[:4])
	h.Write(request[4:radiusHeader])
	h.Write(b[radiusHeader:])
	h.Write([]byte(c.Secret.value))
	return subtle.ConstantTimeCompare(h.Sum(nil), b[4:radiusHeader]) == 1
}

// radiusMessage is what a server says to people.
func radiusMessage(attributes []byte) string {
	var said []string
	for len(attributes) >= 2 {
		n := int(attributes[1])
		if n < 2 || n > len(attributes) {
			break
		}
		if attributes[0] == radiusReplyMessage {
			said = append(said, string(attributes[2:n]))
		}
		attributes = attributes[n:]
	}
	return strings.Join(said, " ")
}
