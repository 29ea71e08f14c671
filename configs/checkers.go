// SPDX-License-Identifier: Apache-2.0

package configs

import (
	"time"

	hc "xdplvs/healthcheck"
)

// The largest values that options of checks can have.
const (
	mostCheckTime = 24 * time.Hour
	mostWarning   = 10 * 365 * 24 * time.Hour
)

// asked is whom a check is for: some commands are told.
type asked struct {
	address string // the virtual service's, or its firewall mark
	port    uint16 // likewise
	weight  uint32 // the real server's
}

// checker is a way to check as written.
type checker struct {
	key  string
	at   cursor
	ok   bool // nothing was wrong in it
	make func(asked) (hc.Checker, error)
}

// asks is a key that says how to check, for options that know nothing of whom it is for.
func asks[O any](name string, k kind[O], construct func(O) (hc.Checker, error), doc string) field[check] {
	return asksFor(name, k, func(o O, _ asked) (hc.Checker, error) { return construct(o) }, doc)
}

func asksFor[O any](name string, k kind[O], construct func(O, asked) (hc.Checker, error), doc string) field[check] {
	return field[check]{key: name, doc: doc, schema: k.schema, decode: func(c cursor, into *check) {
		d := c.path.document()
		before := len(d.errs)
		o, ok := k.decode(c)
		into.checkers = append(into.checkers, checker{name, c, ok && len(d.errs) == before,
			func(whom asked) (hc.Checker, error) { return construct(o, whom) }})
	}}
}

// simpleCheckers need no options, so that their keys do as names of checks.
var simpleCheckers = map[string]func() (hc.Checker, error){
	"tcp":   func() (hc.Checker, error) { return hc.NewTCP(hc.TCPOptions{}) },
	"tls":   func() (hc.Checker, error) { return hc.NewTLS(hc.TLSOptions{}) },
	"http":  func() (hc.Checker, error) { return hc.NewHTTP(hc.HTTPOptions{}) },
	"https": func() (hc.Checker, error) { return hc.NewHTTP(hc.HTTPOptions{TLS: &hc.TLSClient{}}) },
	"smtp":  func() (hc.Checker, error) { return hc.NewSMTP(hc.SMTPOptions{}) },
	"pop3":  func() (hc.Checker, error) { return hc.NewPOP3(hc.MailboxOptions{}) },
	"imap":  func() (hc.Checker, error) { return hc.NewIMAP(hc.MailboxOptions{}) },
	"ftp":   func() (hc.Checker, error) { return hc.NewFTP(hc.FTPOptions{}) },
	"ldap":  func() (hc.Checker, error) { return hc.NewLDAP(hc.LDAPOptions{}) },
	"redis": func() (hc.Checker, error) { return hc.NewRedis(hc.RedisOptions{}) },
	"dns":   func() (hc.Checker, error) { return hc.NewDNS(hc.DNSOptions{}) },
	"sip":   func() (hc.Checker, error) { return hc.NewSIP(hc.SIPOptions{}) },
	"rtsp":  func() (hc.Checker, error) { return hc.NewRTSP(hc.RTSPOptions{}) },
	"icmp":  func() (hc.Checker, error) { return hc.NewICMP(hc.ICMPOptions{}) },
}

// portless are the checkers that do without a port.
var portless = map[string]bool{"icmp": true, "file": true, "external": true}

// silent are those that send nothing themselves.
var silent = map[string]bool{"file": true, "external": true}

// leafCheckers are the keys of all checkers but combinations.
func leafCheckers() []field[check] {
	return []field[check]{
		asks("tcp", tcpObject.kind(), hc.NewTCP, "Connects by TCP."),
		asks("tls", tlsObject.kind(), hc.NewTLS, "Makes a TLS handshake."),
		asks("http", httpKind, httpChecker(false), "Asks by HTTP; the short form is a path."),
		asks("https", httpKind, httpChecker(true), "Asks by HTTPS; the short form is a path."),
		asks("smtp", smtpObject.kind(), hc.NewSMTP, "Speaks SMTP up to a mail that is taken back; 421 drains."),
		asks("pop3", mailboxObject.kind(), hc.NewPOP3, "Speaks POP3."),
		asks("imap", mailboxObject.kind(), hc.NewIMAP, "Speaks IMAP."),
		asks("ftp", ftpObject.kind(), hc.NewFTP, "Speaks FTP; 421 drains."),
		asks("rtsp", rtspObject.kind(), hc.NewRTSP, "Asks by RTSP for OPTIONS, and DESCRIBE if there is a path."),
		asks("sip", sipObject.kind(), hc.NewSIP, "Asks by SIP for OPTIONS."),
		asks("mysql", mysqlObject.kind(), hc.NewMySQL, "Logs in to MySQL or MariaDB; role, replication lag, Galera."),
		asks("postgres", postgresObject.kind(), hc.NewPostgres, "Logs in to PostgreSQL; role, replication lag."),
		asks("redis", redisObject.kind(), hc.NewRedis, "Speaks to Redis; role, replication lag."),
		asks("ldap", ldapObject.kind(), hc.NewLDAP, "Binds to an LDAP server, and searches."),
		asks("dns", dnsObject.kind(), hc.NewDNS, "Asks a DNS server."),
		asks("radius", radiusObject.kind(), hc.NewRADIUS, "Asks a RADIUS server."),
		asks("udp", udpObject.kind(), udpChecker, "Sends a datagram."),
		asks("icmp", icmpObject.kind(), hc.NewICMP, "Sends an ICMP or ICMPv6 echo request."),
		asks("expect", expectObject.kind(), hc.NewExpect, "Sends texts over TCP or TLS, and waits for others."),
		asks("file", fileKind, hc.NewFile, "Looks at a file of the director; the short form is its path, and the file means maintenance."),
		asksFor("external", externalKind, externalChecker, "Runs a command; the short form is its path, and keepalived's convention."),
	}
}

var tcpObject = object[hc.TCPOptions]{
	what: "a mapping with options of a TCP check",
	fields: []field[hc.TCPOptions]{
		option("half_open", boolean(), func(o *hc.TCPOptions) *bool { return &o.HalfOpen },
			"Ends the handshake with a reset once the server has accepted; its application sees no connection."),
		option("reset", boolean(), func(o *hc.TCPOptions) *bool { return &o.Reset },
			"Ends the connection with a reset."),
	},
}

var tlsClientObject = object[hc.TLSClient]{what: "a mapping with options of TLS", fields: tlsClientFields(func(o *hc.TLSClient) *hc.TLSClient { return o })}

// tlsClientFields are those of TLS, wherever the options lie in others.
func tlsClientFields[T any](in func(*T) *hc.TLSClient) []field[T] {
	return []field[T]{
		option("server_name", text("a host name"), func(o *T) *string { return &in(o).ServerName },
			"Name that is sent (SNI), and that the certificate is for with verify: full; none if absent."),
		option("verify", oneOf("verification", "none", "dates", "chain", "full"), func(o *T) *string { return &in(o).Verify },
			"How much of the certificate is verified: none, dates, chain (and signed by somebody trusted) or full (and for server_name); none if absent."),
		option("ca_file", absolutePath(longestPath), func(o *T) *string { return &in(o).CAFile },
			"Trusted certificates in PEM; the system's if absent."),
		option("cert_file", absolutePath(longestPath), func(o *T) *string { return &in(o).CertFile },
			"The probe's own certificate in PEM."),
		option("key_file", absolutePath(longestPath), func(o *T) *string { return &in(o).KeyFile },
			"Key of the probe's own certificate."),
		option("warn", orNever(mostWarning), func(o *T) *time.Duration { return &in(o).Warn },
			"How long before the certificate's end results warn; 168h if absent, 0: never."),
		option("min_version", oneOf("TLS version", "1.0", "1.1", "1.2", "1.3"), func(o *T) *string { return &in(o).MinVersion },
			"Lowest version of TLS; 1.2 if absent."),
	}
}

// orNever is a duration of which 0 stands for never, where options have a negative one for it.
func orNever(most time.Duration) kind[time.Duration] {
	return mapped(duration(0, most), func(_ cursor, d time.Duration) (time.Duration, bool) {
		if d == 0 {
			return -1, true
		}
		return d, true
	})
}

var tlsObject = object[hc.TLSOptions]{
	what: "a mapping with options of a TLS check",
	fields: append(tlsClientFields(func(o *hc.TLSOptions) *hc.TLSClient { return &o.TLS }),
		option("protocols", elements("protocols", text("a protocol")), func(o *hc.TLSOptions) *[]string { return &o.Protocols },
			"Offered by ALPN; the server must take one of them.")),
}

// httpOptions are an HTTP check's, and those of its only URL.
type httpOptions struct {
	hc.HTTPOptions
	only hc.HTTPURL
}

// urlFields are those of a request, wherever it lies in other options.
func urlFields[T any](in func(*T) *hc.HTTPURL) []field[T] {
	return []field[T]{
		option("path", text("a path"), func(o *T) *string { return &in(o).Path },
			"What is asked for, with the query; / if absent."),
		option("status", text("status codes such as 200 or 200-299 404"), func(o *T) *string { return &in(o).Status },
			"Status codes and ranges that will do; 200-299 if absent."),
		option("body", pattern(), func(o *T) *hc.Pattern { return &in(o).Body },
			"What the answer's body must contain."),
		option("digest", text("a digest"), func(o *T) *string { return &in(o).Digest },
			"Digest of the whole body: md5:HEX, as keepalived's genhash prints it, or sha256:HEX."),
	}
}

var urlObject = object[hc.HTTPURL]{
	what: "a mapping with path and status",
	fields: append(urlFields(func(u *hc.HTTPURL) *hc.HTTPURL { return u }),
		option("host", text("a host"), func(u *hc.HTTPURL) *string { return &u.Host }, "Host of this request; the check's if absent.")),
}

var httpKind = either("a path, or a mapping with options of an HTTP check",
	mapped(text("a path"), func(_ cursor, path string) (httpOptions, bool) {
		return httpOptions{only: hc.HTTPURL{Path: path}}, true
	}), httpObject.kind())

var httpObject = object[httpOptions]{
	what: "a mapping with options of an HTTP check",
	fields: append(urlFields(func(o *httpOptions) *hc.HTTPURL { return &o.only }),
		option("urls", elements("requests", urlObject.kind()), func(o *httpOptions) *[]hc.HTTPURL { return &o.URLs },
			"Several requests, in the place of path, status, body and digest; all must be answered well."),
		option("host", text("a host"), func(o *httpOptions) *string { return &o.Host },
			"Host of the requests, and of https the server_name unless that is given; the real server's address if absent."),
		option("method", text("a method"), func(o *httpOptions) *string { return &o.Method },
			"Method of the requests; GET if absent."),
		option("version", oneOf("version of HTTP", "1.1", "2", "auto"), func(o *httpOptions) *string { return &o.Version },
			"Version of HTTP: 1.1, 2, or auto, which is 2 if the server offers it by ALPN; 1.1 if absent."),
		option("headers", headers(), func(o *httpOptions) *map[string]hc.Secret { return &o.Header },
			"Headers of the requests; a value is a text or a secret as {file: PATH} or {env: NAME}."),
		option("send", text("a text"), func(o *httpOptions) *string { return &o.HTTPOptions.Body },
			"Body of the requests."),
		option("user", text("a user"), func(o *httpOptions) *string { return &o.User },
			"User for basic authentication."),
		option("password", secret(), func(o *httpOptions) *hc.Secret { return &o.Password },
			"Password for basic authentication."),
		option("max_body", plainNumber(1, hc.MaxRead), func(o *httpOptions) *int { return &o.MaxBody },
			"Bytes of the answer's body that are looked at; 262144 if absent."),
		option("tls", whole(&tlsClientObject), func(o *httpOptions) **hc.TLSClient { return &o.TLS },
			"Options of TLS, which make it https."),
	),
}

// httpChecker makes one with TLS, or without it unless there are options of TLS.
func httpChecker(secure bool) func(httpOptions) (hc.Checker, error) {
	return func(o httpOptions) (hc.Checker, error) {
		if len(o.URLs) == 0 {
			o.URLs = []hc.HTTPURL{o.only}
		} else if o.only != (hc.HTTPURL{}) {
			o.URLs = append([]hc.HTTPURL{o.only}, o.URLs...)
		}
		if secure || o.TLS != nil {
			client := hc.TLSClient{}
			if o.TLS != nil {
				client = *o.TLS
			}
			if client.ServerName == "" {
				client.ServerName = o.Host
			}
			o.TLS = &client
		}
		return hc.NewHTTP(o.HTTPOptions)
	}
}

// securityKey is how a protocol becomes secret; tls is in the same options.
func securityKey[T any](in func(*T) *hc.Security, known ...string) field[T] {
	return option("security", as[hc.Security](oneOf("security", known...)), in,
		"How the connection becomes secret: plain, tls (from the first byte on), or starttls where the protocol has it; plain if absent.")
}

func tlsKey[T any](in func(*T) *hc.TLSClient) field[T] {
	return option("tls", tlsClientObject.kind(), in, "Options of TLS.")
}

func userKey[T any](in func(*T) *string) field[T] {
	return option("user", text("a user"), in, "User that logs in.")
}

func passwordKey[T any](in func(*T) *hc.Secret) field[T] {
	return option("password", secret(), in, "Password, or where it is.")
}

var withStartTLS = []string{"plain", "tls", "starttls"}
