// SPDX-License-Identifier: Apache-2.0

package healthcheck

import (
	"context"
	"crypto/tls"
	"fmt"
)

// TLSOptions are those of a check that makes a TLS handshake.
type TLSOptions struct {
	TLS TLSClient
	// Protocols are offered by ALPN; the server must take one of them. None: ALPN is not used.
	Protocols []string
}

type tlsChecker struct {
	identity
	protocols []string
	client    *tlsClient
}

// NewTLS is a checker that makes a TLS handshake.
func NewTLS(o TLSOptions) (Checker, error) {
	m := mistakes{kind: "tls"}
	for i, p := range o.Protocols {
		if p == "" || len(p) > 255 {
			m.add(fmt.Sprintf("protocols[%d]", i), "a name has 1 to 255 bytes")
		}
	}
	client := o.TLS.compile(&m, "tls")
	return &tlsChecker{identify("tls", o, client.files), o.Protocols, client}, m.err()
}

// Check is Checker's.
func (c *tlsChecker) Check(ctx context.Context, t Target) Result {
	return run(ctx, t, func(p *probe) (Result, error) {
		conn, err := p.dial("tcp")
		if err != nil {
			return Result{}, err
		}
		secured, err := p.startTLS(conn, c.client, c.protocols...)
		if err != nil {
			return Result{}, err
		}
		state := secured.ConnectionState()
		if len(c.protocols) > 0 && state.NegotiatedProtocol == "" {
			return Result{}, fail(L6RSP, 0, "the server took none of the protocols %q", c.protocols)
		}
		return good(L6OK, "%s, certificate of %s", tls.VersionName(state.Version), subject(state.PeerCertificates[0])), nil
	})
}
