// SPDX-License-Identifier: Apache-2.0

package healthcheck

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"time"
)

// TLSClient says how a probe speaks TLS. The zero value speaks it with anybody, as keepalived and
// ldirectord do, and warns of certificates that have expired.
type TLSClient struct {
	// ServerName is sent (SNI), and must be in the certificate if that is verified. "": none is sent.
	ServerName string
	// Verify is how much of the certificate: none, dates (it is valid today), chain (and signed by
	// somebody trusted) or full (and for ServerName). "": none.
	Verify string
	// CAFile has the trusted certificates in PEM. "": the system's.
	CAFile string
	// CertFile and KeyFile are the probe's own certificate in PEM. "": none.
	CertFile, KeyFile string
	// Warn is how long before a certificate's end the results begin to warn. 0: 7 days; negative: never.
	Warn time.Duration
	// MinVersion is 1.0, 1.1, 1.2 or 1.3. "": 1.2.
	MinVersion string
}

var tlsVersions = map[string]uint16{"": 0, "1.0": tls.VersionTLS10, "1.1": tls.VersionTLS11, "1.2": tls.VersionTLS12, "1.3": tls.VersionTLS13}

// How much of a certificate is verified: each level wants what those before it want.
var verifyLevels = []string{"none", "dates", "chain", "full"}

const (
	verifyNone = iota
	verifyDates
	verifyChain
	verifyFull
)

// tlsClient is a compiled TLSClient.
type tlsClient struct {
	TLSClient
	level  int
	config *tls.Config
	roots  *x509.CertPool // nil: the system's
	files  string         // what was read, for the identity of the checker
}

// compile reads the files and notes what is wrong below a field.
func (o TLSClient) compile(m *mistakes, field string) *tlsClient {
	o.Verify, o.Warn = orElse(o.Verify, "none"), orElse(o.Warn, 7*24*time.Hour)
	c := &tlsClient{TLSClient: o, level: slices.Index(verifyLevels, o.Verify)}
	m.known(field+" verify", o.Verify, verifyLevels...)
	m.known(field+" minimal version", o.MinVersion, "", "1.0", "1.1", "1.2", "1.3")
	if c.level == verifyFull && o.ServerName == "" {
		m.add(field+" verify", "full needs a server name")
	}
	if c.level < verifyChain && o.CAFile != "" {
		m.add(field+" CA file", "nothing is verified with it (verify is %s; known: chain, full)", o.Verify)
	}
	c.config = &tls.Config{
		ServerName:         o.ServerName,
		MinVersion:         tlsVersions[o.MinVersion],
		InsecureSkipVerify: true, // judge does it, as far as it is wanted
	}
	m.try(field+" CA file", c.loadRoots())
	m.try(field+" certificate", c.loadCertificate())
	return c
}

func (c *tlsClient) loadRoots() error {
	if c.CAFile == "" {
		return nil
	}
	cas, err := ReadCAs(c.CAFile)
	c.files += string(cas)
	c.roots = cas.Pool()
	return err
}

// CAs are certificates in PEM of who may sign those of servers. "" are the system's.
type CAs string

// ReadCAs reads a file, which must have one.
func ReadCAs(path string) (CAs, error) {
	pem, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	if !x509.NewCertPool().AppendCertsFromPEM(pem) {
		return "", fmt.Errorf("%s has no certificate in PEM", path)
	}
	return CAs(pem), nil
}

// Pool is for configurations of TLS; nil: the system's.
func (c CAs) Pool() *x509.CertPool {
	if c == "" {
		return nil
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM([]byte(c))
	return pool
}

func (c *tlsClient) loadCertificate() error {
	if c.CertFile == "" && c.KeyFile == "" {
		return nil
	}
	own, err := tls.LoadX509KeyPair(c.CertFile, c.KeyFile)
	if err != nil {
		return err
	}
	c.config.Certificates = []tls.Certificate{own}
	c.files += string(own.Leaf.Raw)
	return nil
}

// startTLS makes a connection one of TLS. protocols are offered by ALPN.
func (p *probe) startTLS(conn net.Conn, c *tlsClient, protocols ...string) (*tls.Conn, error) {
	p.enter(layer6, "TLS handshake")
	config := c.config
	if len(protocols) > 0 {
		config = config.Clone()
		config.NextProtos = protocols
	}
	secured := tls.Client(conn, config)
	if err := secured.HandshakeContext(p.ctx); err != nil {
		return nil, explainTLS(err)
	}
	return secured, p.verify(c, secured.ConnectionState())
}

// verify judges a server's certificate, and keeps what is to be said of it.
func (p *probe) verify(c *tlsClient, state tls.ConnectionState) error {
	warning, err := c.judge(state.PeerCertificates, time.Now())
	p.mu.Lock()
	defer p.mu.Unlock()
	p.warning, p.refused = warning, err
	return err
}

// inLibrary is a configuration for libraries that make the handshake themselves.
func (p *probe) inLibrary(c *tlsClient) *tls.Config {
	config := c.config.Clone()
	config.VerifyConnection = func(state tls.ConnectionState) error { return p.verify(c, state) }
	return config
}

// explainTLS says in words what a server answered that does not speak TLS.
func explainTLS(err error) error {
	if header, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return fail(L6RSP, 0, "TLS handshake: the server does not speak TLS, it says %s", excerpt(header.RecordHeader[:]))
	}
	return err
}

// judge verifies a chain as far as it is wanted.
func (c *tlsClient) judge(chain []*x509.Certificate, now time.Time) (warning string, err error) {
	if len(chain) == 0 {
		return "", fail(L6RSP, 0, "the server has no certificate")
	}
	leaf := chain[0]
	invalid := outsideDates(leaf, now)
	switch {
	case invalid != "" && c.level >= verifyDates:
		return "", fail(L6RSP, 0, "%s", invalid)
	case invalid != "":
		return invalid, nil
	}
	if err := c.verify(chain, now); err != nil {
		return "", err
	}
	if left := leaf.NotAfter.Sub(now); c.Warn > 0 && left < c.Warn {
		return fmt.Sprintf("the certificate expires in %s, on %s", days(left), date(leaf.NotAfter)), nil
	}
	return "", nil
}

// outsideDates says what is wrong with a certificate's dates, or nothing.
func outsideDates(leaf *x509.Certificate, now time.Time) string {
	switch {
	case now.After(leaf.NotAfter):
		return fmt.Sprintf("the certificate expired %s ago, on %s", days(now.Sub(leaf.NotAfter)), date(leaf.NotAfter))
	case now.Before(leaf.NotBefore):
		return fmt.Sprintf("the certificate is not valid before %s", date(leaf.NotBefore))
	default:
		return ""
	}
}

// verify checks signatures and name.
func (c *tlsClient) verify(chain []*x509.Certificate, now time.Time) error {
	if c.level < verifyChain {
		return nil
	}
	between := x509.NewCertPool()
	for _, cert := range chain[1:] {
		between.AddCert(cert)
	}
	if _, err := chain[0].Verify(x509.VerifyOptions{Roots: c.roots, Intermediates: between, CurrentTime: now}); err != nil {
		return fail(L6RSP, 0, "the certificate of %s: %s", subject(chain[0]), strings.TrimPrefix(err.Error(), "x509: "))
	}
	if c.level == verifyFull && chain[0].VerifyHostname(c.ServerName) != nil {
		return fail(L6RSP, 0, "the certificate is for %s, not for %s", subject(chain[0]), c.ServerName)
	}
	return nil
}

// subject names a certificate by its addresses, or by its subject.
func subject(cert *x509.Certificate) string {
	names := slices.Clone(cert.DNSNames)
	for _, ip := range cert.IPAddresses {
		names = append(names, ip.String())
	}
	if len(names) == 0 {
		return cert.Subject.String()
	}
	return strings.Join(names, ", ")
}

func date(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 MST") }

// days shows long times in days, short ones in hours.
func days(d time.Duration) string {
	if d < 48*time.Hour {
		return d.Truncate(time.Minute).String()
	}
	return fmt.Sprintf("%d days", d/(24*time.Hour))
}
