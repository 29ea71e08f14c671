// SPDX-License-Identifier: Apache-2.0

package healthcheck

import (
	"strings"
	"testing"
	"time"
)

func TestFTP(t *testing.T) {
	ca := newAuthority(t)
	ftp := func(o FTPOptions) Checker { return must(NewFTP(o)) }
	login := FTPOptions{User: "joe", Password: NewSecret("s3cret!")}
	for _, d := range []dialogue{
		{"plain", ftp(FTPOptions{}), "> 220 ready \n < QUIT \n > 221 bye", "up L7OK/220: ready"},
		{"banner of several lines", ftp(FTPOptions{Banner: Pattern{Text: "anything"}}), "> 220-Welcome \n > anything \n > 220 ready", "up L7OK/220: Welcome"},
		{"login", ftp(login), "> 220 \n < USER joe \n > 331 password \n < PASS s3cret! \n > 230 in \n < QUIT", "up L7OK/220"},
		{"without password", ftp(login), "> 220 \n < USER joe \n > 230 in \n < QUIT", "up L7OK/220"},
		{"refused", ftp(login), "> 220 \n < USER joe \n > 331 \n < PASS .* \n > 530 not s3cret!", "down L7STS/530: answer to PASS: 530 not (secret)"},
		{"user refused", ftp(login), "> 220 \n < USER joe \n > 530 no", "down L7STS/530: answer to USER: 530 no"},
		{"too many", ftp(login), "> 421 too many users", "drain L7STS/421: banner: 421 too many users"},
		{"TLS", ftp(FTPOptions{Security: StartTLS}), "> 220 \n < AUTH TLS \n > 234 go \n tls \n < QUIT", "up L7OK/220"},
		{"no port", ftp(FTPOptions{User: "joe", File: "f"}), "> 220 \n < USER joe \n > 230 \n < TYPE I \n > 200 \n < EPSV \n > 229 where (|||x|)",
			`down L7RSP: answer to EPSV: no port in "where (|||x|)"`},
		{"no file", ftp(FTPOptions{User: "joe", File: "f"}), "> 220 \n < USER joe \n > 230 \n < TYPE I \n > 200 \n < EPSV \n > 500 what",
			"down L7STS/500: answer to EPSV: 500 what"},
	} {
		d.run(t, ca)
	}
	_, err := NewFTP(FTPOptions{File: "x\ny", Content: Pattern{Text: "a"}})
	wantError(t, err, `ftp check: file: control character "\n"`)
	wantError(t, err, "ftp check: user: missing beside a password or a file")
}

func TestRedis(t *testing.T) {
	ca := newAuthority(t)
	redis := func(o RedisOptions) Checker { return must(NewRedis(o)) }
	const ping = "< \\*1 \n < \\$4 \n < PING\n"
	info := func(lines ...string) string {
		text := strings.Join(lines, `\r\n`)
		length := len(strings.Join(lines, "\r\n"))
		return ping + "> +PONG \n < \\*2 \n < \\$4 \n < INFO \n < \\$11 \n < replication \n >> $" + itoa(length) + `\r\n` + text + `\r\n`
	}
	auth := func(words ...string) string {
		text := "< \\*" + itoa(len(words)) + "\n"
		for _, w := range words {
			text += "< \\$" + itoa(len(w)) + "\n< " + w + "\n"
		}
		return text
	}
	lag := LagOptions{Max: 10 * time.Second}
	for _, d := range []dialogue{
		{"plain", redis(RedisOptions{}), ping + "> +PONG", "up L7OK: PONG"},
		{"loading", redis(RedisOptions{}), ping + "> -LOADING Redis is loading", "down L7STS: answer to PING: LOADING Redis is loading"},
		{"password missing", redis(RedisOptions{}), ping + "> -NOAUTH Authentication required.", "down L7STS: answer to PING: NOAUTH"},
		{"login", redis(RedisOptions{Password: NewSecret("s3cret!")}), auth("AUTH", "s3cret!") + "> +OK\n" + ping + "> +PONG", "up L7OK: PONG"},
		{"login of a user", redis(RedisOptions{User: "joe", Password: NewSecret("s3cret!")}), auth("AUTH", "joe", "s3cret!") + "> -WRONGPASS not s3cret!",
			"down L7STS: answer to AUTH: WRONGPASS not (secret)"},
		{"TLS", redis(RedisOptions{Security: TLS}), "tls\n" + ping + "> +PONG", "up L7OK: PONG"},
		{"primary", redis(RedisOptions{Role: RolePrimary}), info("# Replication", "role:master"), "up L7OK: primary"},
		{"no primary", redis(RedisOptions{Role: RolePrimary}), info("role:slave", "master_link_status:up"), "down L7STS: the server is a replica (role:slave), want a primary"},
		{"lag", redis(RedisOptions{Role: RoleReplica, Lag: lag}), info("role:slave", "master_link_status:up", "master_last_io_seconds_ago:3", "master_sync_in_progress:0"),
			"up L7OK: lag 3s (master_last_io_seconds_ago)"},
		{"lag too long", redis(RedisOptions{Lag: lag}), info("role:slave", "master_link_status:up", "master_last_io_seconds_ago:11"),
			"down L7STS: lag 11s is more than 10s (master_last_io_seconds_ago)"},
		{"link down", redis(RedisOptions{Lag: lag}), info("role:slave", "master_link_status:down", "master_last_io_seconds_ago:-1"), "down L7STS: lag unknown: master_link_status:down"},
		{"syncing", redis(RedisOptions{Lag: lag}), info("role:slave", "master_link_status:up", "master_sync_in_progress:1"), "down L7STS: lag unknown: master_sync_in_progress:1"},
		{"sentinel", redis(RedisOptions{Role: RolePrimary}), info("role:sentinel"), `down L7RSP: answer to INFO: unknown role "sentinel"`},
		{"huge value", redis(RedisOptions{Role: RolePrimary}), ping + "> +PONG \n < \\*2 \n > $99999999", `down L7RSP: answer to INFO: a value of "99999999" bytes`},
		{"an HTTP server", redis(RedisOptions{}), "> HTTP/1.1 400 Bad Request", `down L7RSP: answer to PING: no answer of Redis: "HTTP/1.1 400 Bad Request"`},
	} {
		d.run(t, ca)
	}
	_, err := NewRedis(RedisOptions{Role: "master", Security: StartTLS, User: "joe"})
	wantError(t, err, `redis check: role: unknown "master" (known: primary, replica)`)
	wantError(t, err, `redis check: security: unknown "starttls" (known: plain, tls)`)
	wantError(t, err, "redis check: password: missing beside a user")
}

func TestRTSP(t *testing.T) {
	ca := newAuthority(t)
	rtsp := func(o RTSPOptions) Checker { return must(NewRTSP(o)) }
	const options = `
		< OPTIONS rtsp://cam.example/live RTSP/1.0
		< CSeq: 1
		< User-Agent: .*
		<
		> RTSP/1.0 200 OK
		> CSeq: 1
		> Public: DESCRIBE
		>
		`
	const describe = `
		< DESCRIBE rtsp://cam.example/live RTSP/1.0
		< CSeq: 2
		< User-Agent: .*
		< Accept: application/sdp
		<
		`
	live := RTSPOptions{Host: "cam.example", Path: "/live"}
	withLogin := RTSPOptions{Host: "cam.example", Path: "/live", User: "joe", Password: NewSecret("s3cret!")}
	withBody := RTSPOptions{Host: "cam.example", Path: "/live", Description: Pattern{Text: "m=video"}}
	for _, d := range []dialogue{
		{"options", rtsp(RTSPOptions{Host: "cam.example"}), strings.ReplaceAll(options, "/live", "/"), "up L7OK/200: OPTIONS"},
		{"describe", rtsp(withBody), options + describe + `
			> RTSP/1.0 200 OK
			> Cseq: 2
			> Content-Length: 14
			>
			>> v=0\r\nm=video\r\n`, "up L7OK/200: DESCRIBE"},
		{"description", rtsp(withBody), options + describe + "> RTSP/1.0 200 OK \n > CSeq: 2 \n > Content-Length: 5 \n > \n >> v=0\\r\\n",
			`down L7RSP: the description of /live, "v=0\r\n" does not contain "m=video"`},
		{"stream gone", rtsp(live), options + describe + "> RTSP/1.0 404 Stream Not Found \n > CSeq: 2 \n >", "down L7STS/404: DESCRIBE: RTSP/1.0 404 Stream Not Found, want 200-299"},
		{"login wanted", rtsp(live), options + describe + "> RTSP/1.0 401 Unauthorized \n > CSeq: 2 \n >", "down L7STS/401: DESCRIBE: RTSP/1.0 401 Unauthorized"},
		{"unknown login", rtsp(withLogin), options + describe + "> RTSP/1.0 401 Unauthorized \n > CSeq: 2 \n > WWW-Authenticate: Negotiate \n >",
			`down L7STS/401: no known way to log in is offered: "Negotiate" (known: Digest with MD5 or SHA-256, Basic)`},
		{"basic", rtsp(withLogin), options + describe + "> RTSP/1.0 401 Unauthorized \n > CSeq: 2 \n > WWW-Authenticate: Basic realm=\"x\" \n >" + `
			< DESCRIBE .*
			< CSeq: 3
			< User-Agent: .*
			< Accept: .*
			< Authorization: Basic am9lOnMzY3JldCE=
			<
			> RTSP/1.0 200 OK
			> CSeq: 3
			>`, "up L7OK/200: DESCRIBE"},
		{"other answer", rtsp(live), options + describe + "> RTSP/1.0 200 OK \n > CSeq: 7 \n >", `down L7RSP/200: answer to DESCRIBE: CSeq is "7", want 2`},
		{"huge body", rtsp(live), options + describe + "> RTSP/1.0 200 OK \n > CSeq: 2 \n > Content-Length: 999999999 \n >",
			`down L7RSP: answer to DESCRIBE: a body of "999999999" bytes (at most 65536)`},
		{"endless headers", rtsp(live), "> RTSP/1.0 200 OK\n" + strings.Repeat("> X: y\n", 300), "down L7RSP: answer to OPTIONS: more than 200 headers"},
		{"an HTTP server", rtsp(live), "> HTTP/1.1 400 Bad Request", `down L7RSP: answer to OPTIONS: no answer of RTSP: "HTTP/1.1 400 Bad Request"`},
	} {
		d.run(t, ca)
	}
	_, err := NewRTSP(RTSPOptions{Path: "live stream", Host: "a/b", Status: "2", Password: NewSecret("x")})
	for _, want := range []string{`rtsp check: path: "live stream" is no path`, `rtsp check: host: "a/b" is no host`, `rtsp check: status: "2" is no status`,
		"rtsp check: user: missing beside a password"} {
		wantError(t, err, want)
	}
}

// TestDigest has the examples of RFC 2617 and, without qop, of what servers by RFC 2069 want.
func TestDigest(t *testing.T) {
	who := credentials{"Mufasa", NewSecret("Circle Of Life")}
	const offer = `Digest realm="testrealm@host.com", nonce="dcd98b7102dd2f0e8b11d0f600bfb0c093", opaque="5ccc069c403ebaf9f0171e9517f40e41"`
	got, err := who.authorize([]string{"Basic realm=x", offer}, "GET", "/dir/index.html")
	const want = `Digest username="Mufasa", realm="testrealm@host.com", nonce="dcd98b7102dd2f0e8b11d0f600bfb0c093", uri="/dir/index.html", ` +
		`opaque="5ccc069c403ebaf9f0171e9517f40e41", response="670fd8c2df070c60b045671b8b24ff02"`
	if err != nil || got != want {
		t.Errorf("got  %s, %v\nwant %s", got, err, want)
	}
	for _, algorithm := range []string{"MD5", "SHA-256"} {
		got, err := who.authorize([]string{offer + ", algorithm=MD5", offer + `, qop="auth-int, auth", algorithm=` + algorithm}, "GET", "/")
		if err != nil || algorithm == "SHA-256" && !strings.Contains(got, "algorithm=SHA-256, ") {
			t.Errorf("%s: got %s, %v", algorithm, got, err)
		}
	}
	ch := parseChallenge(`Digest realm="a \"b\", c" , qop="auth,auth-int",stale=FALSE, nonce="open`)
	if ch.params["realm"] != `a "b", c` || ch.params["qop"] != "auth,auth-int" || ch.params["stale"] != "FALSE" || ch.params["nonce"] != "open" {
		t.Errorf("got %q", ch)
	}
}

func TestExpect(t *testing.T) {
	ca := newAuthority(t)
	expect := func(steps ...ExpectStep) Checker { return must(NewExpect(ExpectOptions{Steps: steps})) }
	hello := ExpectStep{Send: "hello\n", Expect: Pattern{Regex: `(?m)^world \d+$`}}
	for _, d := range []dialogue{
		{"one step", expect(hello), "< hello \n >> well\\nworld 42\\n", "up L7OK: 1 steps"},
		{"several steps", expect(ExpectStep{Expect: Pattern{Text: "ready"}}, hello, ExpectStep{Send: "login ", Secret: NewSecret("s3cret!\n"), Expect: Pattern{Text: "ok"}}),
			"> ready \n < hello \n >> world 1\\n \n < login s3cret! \n > ok", "up L7OK: 3 steps"},
		{"what was said is gone", expect(ExpectStep{Expect: Pattern{Text: "ready"}}, ExpectStep{Send: "x\n", Expect: Pattern{Text: "ready"}}),
			"> ready now \n < x", `down L7RSP: step 2: "ready": the server closed the connection after " now\r\n"`},
		{"two answers at once", expect(ExpectStep{Expect: Pattern{Text: "a"}}, ExpectStep{Expect: Pattern{Text: "b"}}), ">> ab \n eof", "up L7OK: 2 steps"},
		{"other answer", expect(hello), "< hello \n > sorry, s3cret", `down L7RSP: step 1: /(?m)^world \d+$/: the server closed the connection after "sorry, s3cret\r\n"`},
		{"secret repeated", expect(ExpectStep{Secret: NewSecret("s3cret!"), Send: "", Expect: Pattern{Text: "ok"}}), ">> what is s3cret! \n tls",
			`down L7RSP: step 1: "ok": the server closed the connection after "what is (secret)"`},
	} {
		d.run(t, ca)
	}
	cert := ca.valid()
	overTLS := must(NewExpect(ExpectOptions{TLS: &TLSClient{}, Steps: []ExpectStep{{Expect: Pattern{Text: "hi"}}}}))
	wants(t, ask(t, overTLS, script(t, &cert, "tls \n > hi")), "up L7OK: 1 steps")
	_, err := NewExpect(ExpectOptions{Steps: []ExpectStep{{}, {Expect: Pattern{Text: "a", Not: true}}, {Expect: Pattern{Regex: "["}}}})
	for _, want := range []string{"expect check: steps[0]: neither sends nor expects", "expect check: steps[1] expect: not is impossible", "expect check: steps[2] expect: error parsing regexp"} {
		wantError(t, err, want)
	}
	_, err = NewExpect(ExpectOptions{})
	wantError(t, err, "expect check: steps: missing")
}
