// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// RemoteDaemon is a daemon that is asked over TCP, and who asks it.
type RemoteDaemon struct {
	URL       string // https://HOST[:PORT]
	Token     string
	TokenFile string // whose content is the token, in the place of Token
	CAFile    string // whose certificate the daemon has; empty: the system's are trusted
	CertFile  string // the client's own certificate
	KeyFile   string
}

// How long a daemon may take to accept a connection.
const connectTimeout = 10 * time.Second

// setupError says that nobody can be asked at all, however often.
type setupError struct{ error }

// failing is a transport that has nobody to ask.
type failing struct{ err error }

// RoundTrip implements http.RoundTripper.
func (f failing) RoundTrip(*http.Request) (*http.Response, error) { return nil, &setupError{f.err} }

// Failing makes a client whose questions all have this error for an answer.
func Failing(err error) *Client {
	return &Client{base: url.URL{Scheme: "http", Host: "director"}, http: &http.Client{Transport: failing{err}}}
}

// DialRemote makes a client for a daemon. It reads the files now, and connects when it is first asked.
func DialRemote(d RemoteDaemon) (*Client, error) {
	base, err := parseURL(d.URL)
	if err != nil {
		return nil, err
	}
	c := &Client{base: *base, token: d.Token}
	if d.TokenFile != "" {
		text, err := readPrivate(d.TokenFile)
		if err != nil {
			return nil, fmt.Errorf("read token: %w", err)
		}
		c.token = strings.TrimSpace(string(text))
	}
	secure, err := d.tlsConfig()
	if err != nil {
		return nil, err
	}
	where := base.String()
	dialer := net.Dialer{Timeout: connectTimeout}
	c.http = &http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			DialTLSContext: func(ctx context.Context, network, address string) (net.Conn, error) {
				return dialSecure(ctx, &dialer, secure, where, network, address)
			},
			DisableCompression:    true,
			ResponseHeaderTimeout: answerTimeout,
			IdleConnTimeout:       idleTimeout / 2,
		},
	}
	return c, nil
}

// dialSecure connects and makes the handshake.
func dialSecure(ctx context.Context, dialer *net.Dialer, config *tls.Config, where, network, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	secure := tls.Dialer{NetDialer: dialer, Config: config}
	c, err := secure.DialContext(ctx, network, address)
	if err != nil {
		return nil, &ConnectError{Path: where, Err: cause(err)}
	}
	return c, nil
}

func parseURL(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	switch {
	case err != nil, u.Host == "", strings.Trim(u.Path, "/") != "", u.RawQuery != "", u.User != nil:
		return nil, fmt.Errorf("%q is not https://HOST:PORT", text)
	case u.Scheme != "https":
		return nil, fmt.Errorf("%s: over TCP the daemon speaks https only", text)
	}
	return &url.URL{Scheme: u.Scheme, Host: u.Host}, nil
}

func (d *RemoteDaemon) tlsConfig() (config *tls.Config, err error) {
	config = &tls.Config{MinVersion: tls.VersionTLS12}
	if d.CAFile != "" {
		if config.RootCAs, err = readCAs(d.CAFile); err != nil {
			return nil, err
		}
	}
	if (d.CertFile == "") != (d.KeyFile == "") {
		return nil, errors.New("a certificate needs its key, and a key its certificate")
	}
	if d.CertFile != "" {
		pair, err := readPair(d.CertFile, d.KeyFile)
		if err != nil {
			return nil, err
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}
