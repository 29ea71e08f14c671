// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// RemoteOptions say who may ask over TCP, which is with TLS only.
type RemoteOptions struct {
	Listen       []netip.AddrPort
	CertFile     string // the daemon's certificate and those up to its CA, in PEM
	KeyFile      string
	ClientCAFile string // whose certificates clients may show; empty: none are looked at
	MinVersion   uint16 // of TLS, as package crypto/tls has it; 0: 1.2
	Tokens       []Token
	Clients      []ClientCertificate
	Rate         int // requests of one client in a second; 0: 50
}

// Token is who sends it as Authorization: Bearer. One of SHA256, File and Env says what it is.
type Token struct {
	Name   string // in the log
	Admin  bool   // it may change things
	SHA256 string // of the token, in hexadecimal digits
	File   string // whose content is the token, or sha256: and the digits
	Env    string // likewise, an environment variable
}

// ClientCertificate is who shows one of the client CA's.
type ClientCertificate struct {
	Subject string // as RFC 2253 writes it, or the common name alone
	Admin   bool
}

// defaultRate is how many requests a client may make in a second.
const defaultRate = 50

// caller is who asks.
type caller struct {
	have    role
	refusal func(need role) string // why that is not enough
	log     []any                  // what the log says of it
}

// ListenRemote listens on all addresses, or on none.
func ListenRemote(addresses []netip.AddrPort) (all []net.Listener, err error) {
	for _, a := range addresses {
		l, err := net.Listen("tcp", a.String())
		if err != nil {
			for _, earlier := range all {
				earlier.Close()
			}
			return nil, fmt.Errorf("listen for the api: %w", err)
		}
		all = append(all, l)
	}
	return all, nil
}

// NewRemoteServer makes a server for TCP listeners. It speaks TLS only, asks the gate who may what, and has none of the
// pages that are for administrators.
func NewRemoteServer(log *slog.Logger, b Backend, opts ServerOptions, gate *Gate) *Server {
	opts.Pages = slices.DeleteFunc(slices.Clone(opts.Pages), func(p Page) bool { return p.Admin })
	s := NewServer(log, b, opts)
	s.identify = gate.identify
	s.connContext = remoteContext
	s.wrap = func(l net.Listener) net.Listener {
		return tls.NewListener(newLimitListener(&gatedListener{l, gate.clients, max(1, s.opts.MaxConns/4)}, s.opts.MaxConns),
			&tls.Config{GetConfigForClient: gate.configFor})
	}
	s.netLevel = slog.LevelDebug // anybody can fail at a handshake, as often as he likes
	return s
}

// remoteContext finds out what a request cannot tell.
func remoteContext(ctx context.Context, c net.Conn) context.Context {
	info := &connInfo{}
	if secure, ok := c.(*tls.Conn); ok {
		if limited, ok := secure.NetConn().(*limitedConn); ok {
			info.refused = limited.refused
		}
	}
	info.from = addressOf(c.RemoteAddr())
	return context.WithValue(ctx, connKey{}, info)
}

func addressOf(a net.Addr) netip.Addr {
	if tcp, ok := a.(*net.TCPAddr); ok {
		return tcp.AddrPort().Addr().Unmap()
	}
	return netip.Addr{}
}

// badTokenCost is what a wrong guess costs of a client's requests.
const badTokenCost = 10

// identify finds out who makes a request over TCP: by a token, a certificate, or both.
func (g *Gate) identify(w http.ResponseWriter, r *http.Request, info *connInfo) (*caller, error) {
	if wait := g.clients.take(info.from, 1); wait > 0 {
		seconds := int(wait/time.Second) + 1
		w.Header().Set("Retry-After", strconv.Itoa(seconds))
		return nil, failure(http.StatusTooManyRequests, "too many requests from %s: try again in %d s", info.from, seconds)
	}
	who, have, err := g.current().whoAsks(r)
	if err != nil {
		g.clients.take(info.from, badTokenCost)
		g.tellRefused(info.from, err)
		w.Header().Set("WWW-Authenticate", "Bearer")
		return nil, err
	}
	return &caller{have: have, refusal: func(need role) string {
		return fmt.Sprintf("%s may not %s: that is for those with role %s", who, need.verb(), need)
	}, log: []any{"who", who, "from", info.from}}, nil
}

// whoAsks is the owner of the token, or of the certificate if that may do more.
func (k *keys) whoAsks(r *http.Request) (who string, have role, err error) {
	who, have, err = k.byToken(r)
	if err != nil {
		return "", nobody, err
	}
	if name, more := k.byCertificate(r); who == "" || more > have {
		who, have = name, more
	}
	if who == "" {
		err = failure(http.StatusUnauthorized, "who asks? Over TCP that takes a token (Authorization: Bearer) or a client certificate")
	}
	return who, have, err
}

// byToken is the owner of the request's token; nobody if it has none, an error if it is unknown.
func (k *keys) byToken(r *http.Request) (who string, have role, err error) {
	header := r.Header.Get("Authorization")
	if header == "" {
		return "", nobody, nil
	}
	scheme, token, _ := strings.Cut(header, " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return "", nobody, failure(http.StatusUnauthorized, "authorization is by Bearer and a token")
	}
	t := k.find(strings.TrimSpace(token))
	if t == nil {
		return "", nobody, failure(http.StatusUnauthorized, "unknown token")
	}
	return "token " + t.name, t.role, nil
}

// byCertificate is the owner of the connection's certificate, which the handshake has verified.
func (k *keys) byCertificate(r *http.Request) (who string, have role) {
	if r.TLS == nil || len(r.TLS.VerifiedChains) == 0 {
		return "", nobody
	}
	leaf := r.TLS.VerifiedChains[0][0]
	if time.Now().After(leaf.NotAfter) { // since the handshake
		return "", nobody
	}
	subject := leaf.Subject.String()
	return "certificate " + subject, max(k.subjects[subject], k.subjects[leaf.Subject.CommonName])
}
