// SPDX-License-Identifier: Apache-2.0

package healthcheck

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"strconv"
	"strings"
)

// FTPOptions are those of a check by FTP. A server that answers 421 anywhere drains.
type FTPOptions struct {
	// Security StartTLS is AUTH TLS (RFC 4217), for the data too.
	Security Security
	TLS      TLSClient
	// Banner is what the greeting must contain.
	Banner Pattern
	// User and Password log in. "": no login.
	User     string
	Password Secret
	// File is fetched after the login, in extended passive mode (RFC 2428), and must contain Content.
	// "": none.
	File    string
	Content Pattern
}

type ftpChecker struct {
	identity
	FTPOptions
	banner, content matcher
	client          *tlsClient
}

// NewFTP is a checker by FTP.
func NewFTP(o FTPOptions) (Checker, error) {
	m := mistakes{kind: "ftp"}
	c := &ftpChecker{FTPOptions: o, client: o.TLS.compile(&m, "tls")}
	c.identity = identify("ftp", o, c.client.files)
	var err error
	c.banner, err = o.Banner.compile()
	m.try("banner", err)
	c.content, err = o.Content.compile()
	m.try("content", err)
	o.Security.check(&m)
	m.line("user", o.User)
	m.line("password", o.Password.value)
	m.line("file", o.File)
	if o.User == "" && (!o.Password.IsZero() || o.File != "") {
		m.add("user", "missing beside a password or a file (known: anonymous, if the server has it)")
	}
	if o.File == "" && !o.Content.isZero() {
		m.add("file", "missing beside content")
	}
	return c, m.err()
}

// Check is Checker's.
func (c *ftpChecker) Check(ctx context.Context, t Target) Result {
	return run(ctx, t, func(p *probe) (Result, error) {
		p.keep(c.Password)
		return p.greeted(c.Security, c.client, &c.banner, c.session)
	})
}

func (c *ftpChecker) session(s *talk) error {
	if c.Security == StartTLS {
		if _, err := s.command("AUTH TLS", "AUTH TLS", "234"); err != nil {
			return err
		}
		if err := s.secure(c.client); err != nil {
			return err
		}
	}
	if err := c.login(s); err != nil {
		return err
	}
	if c.File == "" {
		return nil
	}
	return c.fetch(s)
}

func (c *ftpChecker) login(s *talk) error {
	if c.User == "" {
		return nil
	}
	if err := s.send("USER", "USER %s", c.User); err != nil {
		return err
	}
	code, text, err := s.reply("answer to USER")
	switch {
	case err != nil || code == "230": // without a password
		return err
	case code != "331":
		return fail(L7STS, number(code), "answer to USER: %s %s", code, text)
	}
	_, err = s.command("PASS", "PASS "+c.Password.value, "230", "202")
	return err
}

// fetch reads the file and judges it.
func (c *ftpChecker) fetch(s *talk) error {
	if _, isTLS := s.conn.(*tls.Conn); isTLS {
		for _, line := range []string{"PBSZ 0", "PROT P"} {
			if _, err := s.command(line, line, "200"); err != nil {
				return err
			}
		}
	}
	if _, err := s.command("TYPE", "TYPE I", "200"); err != nil {
		return err
	}
	data, err := c.dataConn(s)
	if err != nil {
		return err
	}
	if _, err := s.command("RETR", "RETR "+c.File, "125", "150"); err != nil {
		return err
	}
	if _, isTLS := s.conn.(*tls.Conn); isTLS {
		if data, err = s.p.startTLS(data, c.client); err != nil {
			return err
		}
	}
	s.p.enter(layer7, "file "+c.File)
	content, err := io.ReadAll(data)
	if err != nil {
		return err
	}
	if wrong := c.content.judge(content); wrong != "" {
		return fail(L7RSP, 0, "the file %s, %s", c.File, wrong)
	}
	data.Close()
	_, err = s.replyWith("end of RETR", "226", "250")
	return err
}

// dataConn connects to where the server says that it waits.
func (c *ftpChecker) dataConn(s *talk) (net.Conn, error) {
	text, err := s.command("EPSV", "EPSV", "229")
	if err != nil {
		return nil, err
	}
	_, port, _ := strings.Cut(text, "(|||")
	port, _, _ = strings.Cut(port, "|)")
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return nil, fail(L7RSP, 0, "answer to EPSV: no port in %s", excerpt(text))
	}
	return s.p.dialAddr("tcp", addrPort(s.p.target.Address.Addr(), uint16(n)))
}
