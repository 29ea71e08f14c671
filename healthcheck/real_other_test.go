// SPDX-License-Identifier: Apache-2.0

package healthcheck

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/bluenviron/gortsplib/v4"
	"github.com/bluenviron/gortsplib/v4/pkg/base"
	"github.com/bluenviron/gortsplib/v4/pkg/description"
	"github.com/bluenviron/gortsplib/v4/pkg/format"
	"github.com/bluenviron/gortsplib/v4/pkg/liberrors"

	"xdplvs/internal/programs"
)

// TestVsftpd has an FTP server with anonymous access.
func TestVsftpd(t *testing.T) {
	t.Parallel()
	vsftpd := program(t, "vsftpd", "/usr/sbin/vsftpd")
	if os.Geteuid() != 0 {
		t.Skip("needs root: vsftpd changes its root directory")
	}
	dir, port := directory(t), freePort(t)
	for _, name := range []string{"empty", "files"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write(t, filepath.Join(dir, "files", "alive.txt"), "all is well\n")
	config := write(t, filepath.Join(dir, "vsftpd.conf"), `
listen=YES
listen_address=127.0.0.1
listen_port=$port
background=NO
anonymous_enable=YES
local_enable=NO
ftp_username=daemon
anon_root=$dir/files
secure_chroot_dir=$dir/empty
xferlog_enable=NO
seccomp_sandbox=NO
isolate_network=NO
`, "$dir", dir, "$port", portText(port))
	if err := os.Chown(config, 0, 0); err != nil { // vsftpd wants it to be its own
		t.Fatal(err)
	}
	d := runDaemon(t, nil, port, vsftpd, config)
	file := func(name, content string) Checker {
		return must(NewFTP(FTPOptions{User: "anonymous", Password: NewSecret("check@example.org"), File: name, Content: Pattern{Text: content}}))
	}
	runReal(t, d, []realCheck{
		{"banner", must(NewFTP(FTPOptions{Banner: Pattern{Text: "vsFTPd"}})), port, "up L7OK/220: (vsFTPd "},
		{"file", file("alive.txt", "well"), port, "up L7OK/220"},
		{"content missing", file("alive.txt", "bad"), port, `down L7RSP: the file alive.txt, "all is well\n" does not contain "bad"`},
		{"no such file", file("dead.txt", ""), port, "down L7STS/550: answer to RETR: 550 Failed to open file."},
		{"login refused", must(NewFTP(FTPOptions{User: "joe", Password: NewSecret("s3cret!")})), port, "down L7STS/530: answer to USER: 530 This FTP server is anonymous only."},
		{"no TLS", must(NewFTP(FTPOptions{Security: StartTLS})), port, "down L7STS/530: answer to AUTH TLS: 530 Please login with USER and PASS."},
	})
}

// TestSlapd has an LDAP server with a small directory.
func TestSlapd(t *testing.T) {
	t.Parallel()
	slapd, slapadd := program(t, "slapd", "/usr/sbin/slapd"), program(t, "slapd", "/usr/sbin/slapadd")
	dir, ca := directory(t), newAuthority(t)
	keyPair(t, ca, dir)
	plain, secure := freePort(t), freePort(t)
	config := write(t, filepath.Join(dir, "slapd.conf"), `
include /etc/ldap/schema/core.schema
pidfile $dir/pid
modulepath /usr/lib/ldap
moduleload back_mdb
TLSCertificateFile $dir/cert.pem
TLSCertificateKeyFile $dir/key.pem
database mdb
maxsize 10485760
suffix "dc=example,dc=org"
rootdn "cn=admin,dc=example,dc=org"
rootpw s3cret!
directory $dir
access to attrs=userPassword by anonymous auth by * none
access to * by * read
`, "$dir", dir)
	ldif := write(t, filepath.Join(dir, "data.ldif"), `dn: dc=example,dc=org
objectClass: dcObject
objectClass: organization
dc: example
o: Example
description: all is well

dn: cn=joe,dc=example,dc=org
objectClass: person
cn: joe
sn: Joe
userPassword: s3cret!
`)
	as(t, nobody(), slapadd, "-f", config, "-l", ldif)
	// -d keeps it in the foreground.
	d := runDaemon(t, nobody(), plain, slapd, "-d", "0", "-f", config, "-h", "ldap://"+plain.Address.String()+" ldaps://"+secure.Address.String())
	const base, joe = "dc=example,dc=org", "cn=joe,dc=example,dc=org"
	ldap := func(o LDAPOptions) Checker { return must(NewLDAP(o)) }
	trust := TLSClient{Verify: "full", ServerName: "www.example.org", CAFile: ca.file}
	runReal(t, d, []realCheck{
		{"anonymous", ldap(LDAPOptions{}), plain, "up L7OK: bound"},
		{"bind", ldap(LDAPOptions{BindDN: joe, Password: NewSecret("s3cret!")}), plain, "up L7OK: bound"},
		{"wrong password", ldap(LDAPOptions{BindDN: joe, Password: NewSecret("wrong")}), plain, "down L7STS/49: bind: Invalid Credentials"},
		{"base", ldap(LDAPOptions{Base: base}), plain, "up L7OK: found dc=example,dc=org"},
		{"filter", ldap(LDAPOptions{Base: base, Scope: "sub", Filter: "(sn=Joe)"}), plain, "up L7OK: found cn=joe"},
		{"nothing found", ldap(LDAPOptions{Base: base, Scope: "sub", Filter: "(sn=Jim)"}), plain, `down L7STS: no entry at "dc=example,dc=org" for "(sn=Jim)"`},
		{"no such base", ldap(LDAPOptions{Base: "dc=example,dc=net"}), plain, "down L7STS/32: search: No Such Object"},
		{"attribute", ldap(LDAPOptions{Base: base, Attribute: "description", Expect: Pattern{Text: "well"}}), plain, "up L7OK: description of dc=example,dc=org"},
		{"other value", ldap(LDAPOptions{Base: base, Attribute: "description", Expect: Pattern{Text: "ill!"}}), plain,
			`down L7STS: description of dc=example,dc=org: "all is well" does not contain "ill!"`},
		{"attribute missing", ldap(LDAPOptions{Base: base, Attribute: "telephoneNumber"}), plain, "down L7STS: no entry has the attribute telephoneNumber"},
		{"StartTLS", ldap(LDAPOptions{Security: StartTLS, TLS: trust, Base: base}), plain, "up L7OK: found"},
		{"StartTLS, other name", ldap(LDAPOptions{Security: StartTLS, TLS: TLSClient{Verify: "full", ServerName: "x.example.org", CAFile: ca.file}}), plain,
			"down L6RSP: the certificate is for www.example.org, not for x.example.org"},
		{"ldaps", ldap(LDAPOptions{Security: TLS, TLS: trust, BindDN: joe, Password: NewSecret("s3cret!")}), secure, "up L7OK: bound"},
		{"plain to ldaps", ldap(LDAPOptions{}), secure, "down L7RSP: "},
	})
}

// TestNSD has an authoritative DNS server.
func TestNSD(t *testing.T) {
	t.Parallel()
	dir, port := directory(t), freePort(t)
	records := `@ 60 IN SOA ns hostmaster 2026 3600 600 86400 60
@ 60 IN NS ns
ns 60 IN A 192.0.2.53
www 60 IN A 192.0.2.1
www 60 IN AAAA 2001:db8::1
@ 60 IN MX 10 mail
@ 60 IN TXT "v=spf1 -all"
long 60 IN TXT "` + strings.Repeat("x", 255) + "\"\n" + longRecords()
	d := runServer(t, port)(programs.NewNSD(dir, "example.org", records, "  ip-address: 127.0.0.1@"+portText(port)))
	dns := func(o DNSOptions) Checker { return must(NewDNS(o)) }
	runReal(t, d, []realCheck{
		{"SOA", dns(DNSOptions{Name: "example.org", Authoritative: true, Answers: []string{"ns.example.org. hostmaster.example.org. 2026"}}), port, "up L7OK: NOERROR, 1 records"},
		{"A", dns(DNSOptions{Name: "www.example.org", Type: "A", Answers: []string{"192.0.2.1"}}), port, "up L7OK"},
		{"AAAA over TCP", dns(DNSOptions{Name: "www.example.org", Type: "AAAA", TCP: true, Answers: []string{"2001:db8::1"}}), port, "up L7OK"},
		{"MX", dns(DNSOptions{Name: "example.org", Type: "MX", Answers: []string{"10 mail.example.org."}}), port, "up L7OK"},
		{"too long for UDP", dns(DNSOptions{Name: "long.example.org", Type: "TXT"}), port, "up L7OK: NOERROR, 33 records"},
		{"other address", dns(DNSOptions{Name: "www.example.org", Type: "A", Answers: []string{"192.0.2.2"}}), port, `down L7STS: www.example.org. A is "192.0.2.1", not "192.0.2.2"`},
		{"no such name", dns(DNSOptions{Name: "x.example.org", Type: "A"}), port, "down L7STS/3: NXDOMAIN for x.example.org. A, want NOERROR"},
		{"other zone", dns(DNSOptions{Name: "example.net"}), port, "down L7STS/5: REFUSED for example.net. SOA, want NOERROR"},
		{"no recursion", dns(DNSOptions{Name: "example.org", Recursive: true}), port, "down L7STS: the server offers no recursion"},
	})
}

// longRecords are too many for a datagram.
func longRecords() string {
	var b strings.Builder
	for i := range 32 {
		b.WriteString("long 60 IN TXT \"" + itoa(i) + strings.Repeat("y", 250) + "\"\n")
	}
	return b.String()
}

// TestFreeRADIUS has a server that knows one user.
func TestFreeRADIUS(t *testing.T) {
	t.Parallel()
	radiusd := program(t, "freeradius", "/usr/sbin/freeradius")
	dir, port := directory(t), freePort(t)
	write(t, filepath.Join(dir, "users"), "joe Cleartext-Password := \"a long pass phrase: s3cret!\"\n\tReply-Message = \"hello joe\"\n")
	write(t, filepath.Join(dir, "dictionary"), "$INCLUDE /usr/share/freeradius/dictionary\n")
	write(t, filepath.Join(dir, "radiusd.conf"), `
prefix = /usr
localstatedir = $dir
logdir = $dir
run_dir = $dir
libdir = /usr/lib/freeradius
pidfile = $dir/pid
log {
	destination = stdout
}
security {
	allow_core_dumps = no
	status_server = yes
	allow_vulnerable_openssl = yes
}
thread pool {
	start_servers = 1
	max_servers = 2
	min_spare_servers = 1
	max_spare_servers = 2
}
client localhost {
	ipaddr = 127.0.0.1
	secret = shared
	require_message_authenticator = yes
}
modules {
	pap {
	}
	files {
		usersfile = $dir/users
	}
}
server default {
	listen {
		type = auth
		ipaddr = 127.0.0.1
		port = $port
	}
	authorize {
		files
		pap
	}
	authenticate {
		Auth-Type PAP {
			pap
		}
	}
}
`, "$dir", dir, "$port", portText(port))
	d := runDaemon(t, nobody(), Target{}, radiusd, "-f", "-d", dir, "-l", "stdout")
	radius := func(o RADIUSOptions) Checker {
		o.Secret = NewSecret("shared")
		return must(NewRADIUS(o))
	}
	d.await(t, radius(RADIUSOptions{}), port)
	runReal(t, d, []realCheck{
		{"status", radius(RADIUSOptions{}), port, "up L7OK/2: Access-Accept"},
		{"login", radius(RADIUSOptions{User: "joe", Password: NewSecret("a long pass phrase: s3cret!")}), port, `up L7OK/2: Access-Accept: "hello joe"`},
		{"wrong password", radius(RADIUSOptions{User: "joe", Password: NewSecret("wrong")}), port, "down L7STS/3: Access-Reject"},
		{"any answer", radius(RADIUSOptions{User: "jim", Reject: true}), port, "up L7OK/3: Access-Reject"},
	})
	other := must(NewRADIUS(RADIUSOptions{Secret: NewSecret("other"), User: "joe"}))
	wants(t, askWithin(t, other, port, shortTime), "down L7TOUT: answer to Access-Request (a wrong secret gets none): no answer in time")
}

// streams is an RTSP server of the gortsplib library with one stream, for those who log in.
type streams struct {
	stream *gortsplib.ServerStream
	login  bool
}

// OnDescribe is gortsplib's.
func (s *streams) OnDescribe(c *gortsplib.ServerHandlerOnDescribeCtx) (*base.Response, *gortsplib.ServerStream, error) {
	if c.Path != "/live" && c.Path != "live" {
		return &base.Response{StatusCode: base.StatusNotFound}, nil, nil
	}
	if s.login && !c.Conn.VerifyCredentials(c.Request, "joe", "s3cret!") {
		return &base.Response{StatusCode: base.StatusUnauthorized}, nil, liberrors.ErrServerAuth{}
	}
	return &base.Response{StatusCode: base.StatusOK}, s.stream, nil
}

// TestRTSPServer describes a stream, with a login by digest.
func TestRTSPServer(t *testing.T) {
	t.Parallel()
	video := &description.Session{Medias: []*description.Media{{Type: description.MediaTypeVideo, Formats: []format.Format{&format.H264{PayloadTyp: 96, PacketizationMode: 1}}}}}
	live := func(path, password string) Checker {
		o := RTSPOptions{Path: path, Description: Pattern{Regex: `m=video .* 96`}}
		if password != "" {
			o.User, o.Password = "joe", NewSecret(password)
		}
		return must(NewRTSP(o))
	}
	begin := func(login bool) Target {
		port, handler := freePort(t), &streams{login: login}
		server := &gortsplib.Server{Handler: handler, RTSPAddress: port.Address.String(), ReadTimeout: 5 * time.Second, WriteTimeout: 5 * time.Second}
		if err := server.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(server.Close)
		handler.stream = &gortsplib.ServerStream{Server: server, Desc: video}
		if err := handler.stream.Initialize(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(handler.stream.Close)
		return port
	}
	open, private := begin(false), begin(true)
	runReal(t, nil, []realCheck{
		{"options", must(NewRTSP(RTSPOptions{})), open, "up L7OK/200: OPTIONS"},
		{"describe", live("/live", ""), open, "up L7OK/200: DESCRIBE"},
		{"no such stream", live("/dead", ""), open, "down L7STS/404: DESCRIBE: RTSP/1.0 404 Not Found, want 200-299"},
		{"digest", live("/live", "s3cret!"), private, "up L7OK/200: DESCRIBE"},
		{"no login", live("/live", ""), private, "down L7STS/401: DESCRIBE: RTSP/1.0 401 Unauthorized"},
		{"wrong password", live("/live", "wrong"), private, "down L7STS/401: DESCRIBE: RTSP/1.0 401 Unauthorized"},
	})
}
