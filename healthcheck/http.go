// SPDX-License-Identifier: Apache-2.0

package healthcheck

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// HTTPOptions are those of a check by HTTP. Redirections are not followed: their status is judged.
type HTTPOptions struct {
	// TLS makes it https. nil: plain.
	TLS *TLSClient
	// Version is 1.1, 2, or auto: 2 if the server offers it by ALPN. Without TLS, 2 begins at once
	// (prior knowledge). "": 1.1.
	Version string
	// Method, Host, Header and Body are those of every request. "": GET, and the target's address.
	Method, Host string
	Header       map[string]Secret
	Body         string
	// User and Password are for basic authentication. "": none.
	User     string
	Password Secret
	// URLs are asked one after the other, each on a connection of its own; all must be answered well.
	// None: "/".
	URLs []HTTPURL
	// MaxBody is how much of an answer's body is looked at, in bytes, at most MaxRead. 0: 256 KiB.
	MaxBody int
}

// HTTPURL is one request and what it must be answered.
type HTTPURL struct {
	Path string // with the query. "": /
	Host string // "": that of the options
	// Status lists codes and ranges, as 200 301-303 404. "": 200-299.
	Status string
	Body   Pattern
	// Digest is that of the whole body: md5:HEX, as keepalived's genhash prints it, or sha256:HEX.
	// "": any.
	Digest string
}

type httpChecker struct {
	identity
	HTTPOptions
	client *tlsClient
	urls   []httpURL
}

// httpURL is a compiled HTTPURL.
type httpURL struct {
	HTTPURL
	status statusRanges
	body   matcher
	digest digest
}

// NewHTTP is a checker by HTTP.
func NewHTTP(o HTTPOptions) (Checker, error) {
	m := mistakes{kind: "http"}
	id := o
	o.Method, o.Version = orElse(o.Method, http.MethodGet), orElse(o.Version, "1.1")
	o.MaxBody = orElse(o.MaxBody, 256<<10)
	if len(o.URLs) == 0 {
		o.URLs = []HTTPURL{{}}
	}
	c := &httpChecker{HTTPOptions: o}
	files := ""
	if o.TLS != nil {
		c.client = o.TLS.compile(&m, "tls")
		files = c.client.files
	}
	c.identity = identify("http", id, files)
	c.validate(&m)
	for i, u := range o.URLs {
		c.urls = append(c.urls, u.compile(&m, fmt.Sprintf("urls[%d]", i)))
	}
	return c, m.err()
}

func (c *httpChecker) validate(m *mistakes) {
	m.known("version", c.Version, "1.1", "2", "auto")
	if !httpguts.ValidHeaderFieldName(c.Method) { // both are tokens
		m.add("method", "%q is no method", c.Method)
	}
	for name, value := range c.Header {
		if !httpguts.ValidHeaderFieldName(name) || !httpguts.ValidHeaderFieldValue(value.Reveal()) {
			m.add("header", "%q is none, or has no proper value", name)
		}
		if strings.EqualFold(name, "host") {
			m.add("header", "the host has a field of its own")
		}
	}
	if c.MaxBody < 0 || c.MaxBody > MaxRead {
		m.add("max body", "%d is not between 1 and %d", c.MaxBody, MaxRead)
	}
	if c.Version == "auto" && c.TLS == nil {
		m.add("version", "auto needs TLS")
	}
	if c.User == "" && !c.Password.IsZero() {
		m.add("user", "missing beside a password")
	}
}

func (u HTTPURL) compile(m *mistakes, field string) (c httpURL) {
	u.Path, u.Status = orElse(u.Path, "/"), orElse(u.Status, "200-299")
	c.HTTPURL = u
	if _, err := url.ParseRequestURI(u.Path); err != nil || !strings.HasPrefix(u.Path, "/") {
		m.add(field+" path", "%q is no path with a slash in front", u.Path)
	}
	if !httpguts.ValidHostHeader(u.Host) {
		m.add(field+" host", "%q is no host", u.Host)
	}
	var err error
	c.status, err = parseStatusRanges(u.Status, 100, 999)
	m.try(field+" status", err)
	c.body, err = u.Body.compile()
	m.try(field+" body", err)
	c.digest, err = parseDigest(u.Digest)
	m.try(field+" digest", err)
	return c
}

// shortestToken is the length of the shortest value of a header that is taken for a secret: shorter ones would be found
// everywhere in what servers say.
const shortestToken = 8

// Check is Checker's.
func (c *httpChecker) Check(ctx context.Context, t Target) Result {
	return run(ctx, t, func(p *probe) (Result, error) {
		p.keep(c.Password)
		for _, value := range c.Header {
			if len(value.value) >= shortestToken {
				p.keep(value)
			}
		}
		s := &httpSession{c: c, p: p}
		var result Result
		for _, u := range c.urls {
			status, err := s.ask(u)
			if err != nil {
				return Result{}, err
			}
			result = good(L7OK, "%s", u.Path)
			result.Status = status
		}
		if len(c.urls) > 1 {
			result.Text = fmt.Sprintf("%d URLs", len(c.urls))
		}
		return result, nil
	})
}

// ask makes one request and judges the answer.
func (s *httpSession) ask(u httpURL) (status int, err error) {
	request, err := s.request(u)
	if err != nil {
		return 0, err
	}
	response, err := s.roundTrip(request)
	if err != nil {
		return 0, s.explain(err)
	}
	defer response.Body.Close()
	if !u.status.has(response.StatusCode) {
		return 0, fail(L7STS, response.StatusCode, "%s for %s, want %s%s", printable(response.Status, 60), u.Path, u.Status, leadsTo(response))
	}
	return response.StatusCode, s.judgeBody(response, u)
}

// leadsTo says where a redirection goes.
func leadsTo(response *http.Response) string {
	if location := response.Header.Get("Location"); location != "" {
		return ", leads to " + excerpt(location)
	}
	return ""
}

func (s *httpSession) request(u httpURL) (*http.Request, error) {
	scheme := "http"
	if s.c.TLS != nil {
		scheme = "https"
	}
	// The address in the URL is not connected to: dialling goes to the target.
	request, err := http.NewRequestWithContext(s.p.ctx, s.c.Method, scheme+"://"+s.p.target.Address.String(), strings.NewReader(s.c.Body))
	if err != nil {
		return nil, err
	}
	if request.URL, err = request.URL.Parse(u.Path); err != nil {
		return nil, err
	}
	request.Host = orElse(u.Host, s.c.Host)
	request.Header.Set("User-Agent", "director-healthcheck")
	for name, value := range s.c.Header {
		request.Header.Set(name, value.Reveal())
	}
	if s.c.User != "" {
		request.SetBasicAuth(s.c.User, s.c.Password.value)
	}
	return request, nil
}

// judgeBody reads a body only if something is expected of it.
func (s *httpSession) judgeBody(response *http.Response, u httpURL) error {
	if u.body.isZero() && u.digest.isZero() {
		return nil
	}
	s.p.enter(layer7, "body of "+u.Path)
	body, err := io.ReadAll(io.LimitReader(response.Body, int64(s.c.MaxBody)+1))
	if err != nil {
		return s.explain(err)
	}
	whole := len(body) <= s.c.MaxBody
	body = body[:min(len(body), s.c.MaxBody)]
	if wrong := u.body.judge(body); wrong != "" {
		return fail(L7RSP, 0, "the body of %s, %s", u.Path, wrong)
	}
	if u.digest.isZero() {
		return nil
	}
	if !whole {
		return fail(L7RSP, 0, "the body of %s has more than %d bytes", u.Path, s.c.MaxBody)
	}
	if got := u.digest.of(body); got != u.digest.want {
		return fail(L7RSP, 0, "the body of %s has the digest %s:%s", u.Path, u.digest.kind, got)
	}
	return nil
}
