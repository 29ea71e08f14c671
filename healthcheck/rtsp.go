// SPDX-License-Identifier: Apache-2.0

package healthcheck

import (
	"context"
	"fmt"
	"net/url"
	"strings"
)

// RTSPOptions are those of a check by RTSP 1.0 (RFC 2326).
type RTSPOptions struct {
	// TLS makes it rtsps. nil: plain.
	TLS *TLSClient
	// Path of a stream is described, after OPTIONS: "/camera". "": OPTIONS only.
	Path string
	// Host is that in the URL, where servers look for virtual hosts. "": the target's address.
	Host string
	// User and Password answer the server's challenge, digest (MD5, SHA-256) or basic. "": none.
	User     string
	Password Secret
	// Status is what DESCRIBE, or else OPTIONS, must be answered with. "": 200-299.
	Status string
	// Description is what the body of DESCRIBE must contain.
	Description Pattern
}

type rtspChecker struct {
	identity
	RTSPOptions
	client      *tlsClient
	status      statusRanges
	description matcher
}

// NewRTSP is a checker by RTSP.
func NewRTSP(o RTSPOptions) (Checker, error) {
	m := mistakes{kind: "rtsp"}
	c := &rtspChecker{RTSPOptions: o}
	files := ""
	if o.TLS != nil {
		c.client = o.TLS.compile(&m, "tls")
		files = c.client.files
	}
	c.identity = identify("rtsp", o, files)
	c.Status = orElse(o.Status, "200-299")
	var err error
	c.status, err = parseStatusRanges(c.Status, 100, 999)
	m.try("status", err)
	c.description, err = o.Description.compile()
	m.try("description", err)
	if _, err := url.ParseRequestURI(orElse(o.Path, "/")); err != nil || !strings.HasPrefix(orElse(o.Path, "/"), "/") || strings.Contains(o.Path, " ") {
		m.add("path", "%q is no path with a slash in front", o.Path)
	}
	if strings.ContainsAny(o.Host, "/ @\r\n") {
		m.add("host", "%q is no host", o.Host)
	}
	if o.Path == "" && !o.Description.isZero() {
		m.add("path", "missing beside description")
	}
	if o.User == "" && !o.Password.IsZero() {
		m.add("user", "missing beside a password")
	}
	m.line("user", o.User)
	return c, m.err()
}

// Check is Checker's.
func (c *rtspChecker) Check(ctx context.Context, t Target) Result {
	return run(ctx, t, func(p *probe) (Result, error) {
		p.keep(c.Password)
		security := Plain
		if c.TLS != nil {
			security = TLS
		}
		s, err := p.talk(security, c.client)
		if err != nil {
			return Result{}, err
		}
		return c.session(&rtspTalk{talk: s, c: c, url: c.url(t)})
	})
}

func (c *rtspChecker) url(t Target) string {
	scheme := "rtsp"
	if c.TLS != nil {
		scheme = "rtsps"
	}
	return scheme + "://" + orElse(c.Host, t.Address.String()) + orElse(c.Path, "/")
}

// session asks for the options, and for the stream if there is one.
func (c *rtspChecker) session(s *rtspTalk) (Result, error) {
	a, err := s.ask("OPTIONS")
	if err != nil {
		return Result{}, err
	}
	if c.Path == "" {
		return c.judge("OPTIONS", a)
	}
	if a, err = s.ask("DESCRIBE", "Accept: application/sdp"); err != nil {
		return Result{}, err
	}
	r, err := c.judge("DESCRIBE", a)
	if err != nil {
		return Result{}, err
	}
	if wrong := c.description.judge(a.content); wrong != "" {
		return Result{}, fail(L7RSP, 0, "the description of %s, %s", c.Path, wrong)
	}
	return r, nil
}

func (c *rtspChecker) judge(method string, a rtspAnswer) (Result, error) {
	if !c.status.has(a.status) {
		return Result{}, fail(L7STS, a.status, "%s: %s, want %s", method, a.line, c.Status)
	}
	r := good(L7OK, "%s", method)
	r.Status = a.status
	return r, nil
}

// rtspTalk counts its requests.
type rtspTalk struct {
	*talk
	c        *rtspChecker
	url      string
	requests int
}

// rtspAnswer is an answer with its body.
type rtspAnswer struct {
	answer
	content []byte
}

// ask makes a request; if the server wants a login, once more with it.
func (s *rtspTalk) ask(method string, headers ...string) (rtspAnswer, error) {
	a, err := s.request(method, headers)
	if err != nil || a.status != 401 || s.c.User == "" {
		return a, err
	}
	who := credentials{s.c.User, s.c.Password}
	authorization, err := who.authorize(a.header["www-authenticate"], method, s.url)
	if err != nil {
		return a, err
	}
	return s.request(method, append(headers, "Authorization: "+authorization))
}

func (s *rtspTalk) request(method string, headers []string) (a rtspAnswer, err error) {
	s.requests++
	text := fmt.Sprintf("%s %s RTSP/1.0\r\nCSeq: %d\r\nUser-Agent: director-healthcheck\r\n", method, s.url, s.requests)
	for _, h := range headers {
		text += h + "\r\n"
	}
	if err := s.write(method, text+"\r\n"); err != nil {
		return a, err
	}
	what := "answer to " + method
	if a.answer, err = s.answerOf(what, "RTSP"); err != nil {
		return a, err
	}
	if got := a.first("cseq"); got != fmt.Sprint(s.requests) {
		return a, fail(L7RSP, a.status, "%s: CSeq is %s, want %d", what, excerpt(got), s.requests)
	}
	a.content, err = s.body(what, a.answer)
	return a, err
}
