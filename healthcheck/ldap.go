// SPDX-License-Identifier: Apache-2.0

package healthcheck

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"

	"github.com/go-ldap/ldap/v3"
)

// LDAPOptions are those of a check by LDAP.
type LDAPOptions struct {
	// Security StartTLS is the extended operation of RFC 4511, 4.14; TLS is ldaps.
	Security Security
	TLS      TLSClient
	// BindDN and Password log in. "": an anonymous bind.
	BindDN   string
	Password Secret
	// Base and Filter are searched for after the bind; Scope is base, one or sub. Base "" without a
	// filter: no search. Filter "": (objectClass=*). Scope "": base.
	Base, Filter, Scope string
	// Attribute must be among those of an entry found, with a value that contains Expect. "": any entry
	// will do.
	Attribute string
	Expect    Pattern
}

type ldapChecker struct {
	identity
	LDAPOptions
	expect matcher
	client *tlsClient
}

var ldapScopes = map[string]int{"": ldap.ScopeBaseObject, "base": ldap.ScopeBaseObject, "one": ldap.ScopeSingleLevel, "sub": ldap.ScopeWholeSubtree}

// NewLDAP is a checker by LDAP.
func NewLDAP(o LDAPOptions) (Checker, error) {
	m := mistakes{kind: "ldap"}
	c := &ldapChecker{LDAPOptions: o, client: o.TLS.compile(&m, "tls")}
	c.identity = identify("ldap", o, c.client.files)
	var err error
	c.expect, err = o.Expect.compile()
	m.try("expect", err)
	o.Security.check(&m)
	m.known("scope", o.Scope, "", "base", "one", "sub")
	if o.BindDN == "" && !o.Password.IsZero() {
		m.add("bind DN", "missing beside a password")
	}
	if o.BindDN != "" && o.Password.IsZero() { // servers take it for an anonymous bind (RFC 4513, 5.1.2)
		m.add("password", "missing beside a bind DN")
	}
	if _, err := ldap.CompileFilter(o.filter()); err != nil {
		m.add("filter", "%q: %w", o.Filter, err)
	}
	if !o.searches() && (o.Scope != "" || o.Attribute != "" || !o.Expect.isZero()) {
		m.add("base", "missing: nothing is searched")
	}
	if o.Attribute == "" && !o.Expect.isZero() {
		m.add("attribute", "missing beside expect")
	}
	return c, m.err()
}

func (o LDAPOptions) filter() string { return orElse(o.Filter, "(objectClass=*)") }

func (o LDAPOptions) searches() bool { return o.Base != "" || o.Filter != "" }

// ldapServer is a connection to one.
type ldapServer struct {
	*ldap.Conn
	wire *protocolConn
}

// Check is Checker's.
func (c *ldapChecker) Check(ctx context.Context, t Target) Result {
	return run(ctx, t, func(p *probe) (Result, error) {
		p.keep(c.Password)
		s, err := c.connect(p)
		if err != nil {
			return Result{}, err
		}
		r, err := c.session(p, s)
		return r, s.explain(p, err)
	})
}

// connect opens a connection, secret from the beginning if that is wanted.
func (c *ldapChecker) connect(p *probe) (*ldapServer, error) {
	s := &ldapServer{}
	conn, err := p.dial("tcp")
	if err == nil && c.Security == TLS {
		conn, err = c.secure(p, conn)
	}
	if err != nil {
		return nil, err
	}
	const message = "\x30" // a sequence in BER
	s.wire = &protocolConn{Conn: conn, protocol: "LDAP", first: message}
	s.Conn = ldap.NewConn(s.wire, c.Security == TLS)
	s.Start()
	p.closeLater(s.Conn)
	return s, nil
}

func (c *ldapChecker) session(p *probe, s *ldapServer) (Result, error) {
	if c.Security == StartTLS {
		p.enter(layer7, "StartTLS")
		if err := s.StartTLS(p.inLibrary(c.client)); err != nil {
			return Result{}, err
		}
	}
	p.enter(layer7, "bind")
	if err := c.bind(s.Conn); err != nil {
		return Result{}, err
	}
	if !c.searches() {
		return good(L7OK, "bound"), nil
	}
	p.enter(layer7, "search")
	return c.search(s.Conn)
}

func (c *ldapChecker) secure(p *probe, conn net.Conn) (net.Conn, error) {
	secured, err := p.startTLS(conn, c.client)
	if err != nil {
		return nil, err
	}
	return secured, nil
}

func (c *ldapChecker) bind(s *ldap.Conn) error {
	if c.BindDN == "" {
		return s.UnauthenticatedBind("")
	}
	return s.Bind(c.BindDN, c.Password.value)
}

// maxEntries is how many entries of a search are looked at.
const maxEntries = 10

func (c *ldapChecker) search(s *ldap.Conn) (Result, error) {
	attributes := []string{"1.1"} // none (RFC 4511, 4.5.1.8)
	if c.Attribute != "" {
		attributes = []string{c.Attribute}
	}
	found, err := s.Search(ldap.NewSearchRequest(c.Base, ldapScopes[c.Scope], ldap.NeverDerefAliases, maxEntries, 0, false,
		c.filter(), attributes, nil))
	if err != nil && !(ldap.IsErrorWithCode(err, ldap.LDAPResultSizeLimitExceeded) && found != nil) {
		return Result{}, err
	}
	if len(found.Entries) == 0 {
		return Result{}, fail(L7STS, 0, "no entry at %s for %s", excerpt(c.Base), excerpt(c.filter()))
	}
	if c.Attribute == "" {
		return good(L7OK, "found %s", found.Entries[0].DN), nil
	}
	return c.judge(found.Entries)
}

// judge looks for the attribute.
func (c *ldapChecker) judge(entries []*ldap.Entry) (Result, error) {
	wrong := "no entry has the attribute " + c.Attribute
	for _, e := range entries {
		for _, value := range e.GetRawAttributeValues(c.Attribute) {
			if why := c.expect.judge(value); why != "" {
				wrong = fmt.Sprintf("%s of %s: %s", c.Attribute, e.DN, why)
				continue
			}
			return good(L7OK, "%s of %s", c.Attribute, e.DN), nil
		}
	}
	return Result{}, fail(L7STS, 0, "%s", wrong)
}

// explain puts the library's errors into words; what it could not read is known better here.
func (s *ldapServer) explain(p *probe, err error) error {
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*failure](err); ok {
		return err
	}
	_, doing := p.progress()
	said, ok := errors.AsType[*ldap.Error](err)
	if ok && said.ResultCode < ldap.ErrorNetwork {
		return fail(L7STS, int(said.ResultCode), "%s: %s: %s", doing, ldap.LDAPResultCodeMap[said.ResultCode], cause(said.Err))
	}
	if ended := s.wire.end(); ended != nil {
		return ended
	}
	if header, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return explainTLS(header)
	}
	if ok {
		err = said.Err
	}
	return fail(L7RSP, 0, "%s: %s", doing, cause(err))
}
