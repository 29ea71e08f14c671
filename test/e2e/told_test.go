// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"xdplvs/director"
)

// certificate writes one for an address, signed by itself, and its key.
func certificate(t *testing.T, dir string, addr netip.Addr) (certFile, keyFile string) {
	t.Helper()
	key := get(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
	c := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{addr.AsSlice()}, IsCA: true, BasicConstraintsValid: true}
	der := get(x509.CreateCertificate(rand.Reader, c, c, key.Public(), key))(t)
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	must(t, os.WriteFile(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644))
	private := get(x509.MarshalPKCS8PrivateKey(key))(t)
	must(t, os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), 0o600))
	return certFile, keyFile
}

const postfixMain = `
compatibility_level = 3.6
queue_directory = $dir/spool
data_directory = $dir/data
myhostname = mx.example.org
mydestination =
inet_interfaces = all
inet_protocols = ipv4
maillog_file_permissions = 0644
maillog_file = /dev/stdout
smtpd_tls_cert_file = $cert
smtpd_tls_key_file = $key
smtpd_tls_security_level = encrypt
smtpd_relay_restrictions = reject_unauth_destination
smtpd_peername_lookup = no
alias_maps =
virtual_mailbox_domains = mx.example.org
virtual_mailbox_maps = inline:{ops@mx.example.org=ops}
virtual_mailbox_base = $dir/mail
virtual_uid_maps = static:65534
virtual_gid_maps = static:65534
virtual_minimum_uid = 1
`

const postfixMaster = `
$address:25 inet n - n - - smtpd
pickup    unix  n - n 60 1 pickup
cleanup   unix  n - n - 0 cleanup
qmgr      unix  n - n 300 1 qmgr
rewrite   unix  - - n - - trivial-rewrite
bounce    unix  - - n - 0 bounce
defer     unix  - - n - 0 bounce
trace     unix  - - n - 0 bounce
proxymap  unix  - - n - - proxymap
anvil     unix  - - n - 1 anvil
tlsmgr    unix  - - n 1000? 1 tlsmgr
virtual   unix  - n n - - virtual
postlog   unix-dgram n - n - 1 postlogd
`

// postfix runs on the client's host, takes mail with STARTTLS only, and delivers it to a mailbox.
func (f *farm) postfix(dir, cert, key string) (mailbox string) {
	f.t.Helper()
	const program = "/usr/sbin/postfix"
	if _, err := os.Stat(program); err != nil {
		f.t.Skipf("needs %s of Debian's package postfix", program)
	}
	owner := get(user.Lookup("postfix"))(f.t)
	for name, uid := range map[string]int{"spool": 0, "data": get(strconv.Atoi(owner.Uid))(f.t), "config": 0, "mail": 65534} {
		must(f.t, os.Mkdir(filepath.Join(dir, name), 0o755))
		must(f.t, os.Chown(filepath.Join(dir, name), uid, 0))
	}
	names := strings.NewReplacer("$dir", dir, "$cert", cert, "$key", key, "$address", client4.String())
	must(f.t, os.WriteFile(filepath.Join(dir, "config", "main.cf"), []byte(names.Replace(postfixMain)), 0o644))
	must(f.t, os.WriteFile(filepath.Join(dir, "config", "master.cf"), []byte(names.Replace(postfixMaster)), 0o644))
	log := &lockedBuffer{}
	cmd := f.client.Command(context.Background(), program, "-c", filepath.Join(dir, "config"), "start-fg")
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = log, log, time.Second
	must(f.t, f.client.Start(cmd))
	f.t.Cleanup(func() { // its master has a session of its own
		if out, err := f.client.Run(context.Background(), program, "-c", filepath.Join(dir, "config"), "stop"); err != nil {
			f.t.Errorf("stop Postfix: %v\n%s", err, out)
		}
		_ = cmd.Wait() // 1, or the pipe was held longer
		if f.t.Failed() {
			f.t.Logf("Postfix says\n%s", log.tail())
		}
	})
	return filepath.Join(dir, "mail", "ops")
}

// hook is a webhook's server, and what it was told.
type hook struct {
	mu     sync.Mutex
	events []string
}

// ServeHTTP implements http.Handler.
func (h *hook) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var body struct {
		Events []struct{ Event, Service, Name string }
	}
	text, err := io.ReadAll(r.Body)
	if err == nil {
		err = json.Unmarshal(text, &body)
	}
	if err != nil || r.Header.Get("Authorization") != "Bearer t0ken" {
		http.Error(w, "no", http.StatusBadRequest)
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, e := range body.Events {
		h.events = append(h.events, strings.TrimSpace(e.Event+" "+e.Service+" "+e.Name))
	}
}

func (h *hook) told() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.events)
}

func (f *farm) webhook() *hook {
	f.t.Helper()
	h := &hook{}
	server := &http.Server{Handler: h}
	listener := get(f.client.Listen("tcp", netip.AddrPortFrom(client4, 9000).String()))(f.t)
	go func() { _ = server.Serve(listener) }() // until Close
	f.t.Cleanup(func() { must(f.t, server.Close()) })
	return h
}

// fifoReader gives what was written to a FIFO so far.
type fifoReader struct {
	fd   int
	text []byte
}

func (r *fifoReader) lines(t *testing.T) []string {
	t.Helper()
	buf := make([]byte, 4096)
	for {
		n, err := unix.Read(r.fd, buf)
		if n <= 0 || err != nil {
			return strings.Split(strings.TrimSuffix(string(r.text), "\n"), "\n")
		}
		r.text = append(r.text, buf[:n]...)
	}
}

// A service loses its quorum below quorum - hysteresis, and only then its sorry server serves; it regains it at quorum +
// hysteresis. Each step is told to a webhook, by mail, to a command and in keepalived's lines.
func TestQuorumTold(t *testing.T) {
	t.Parallel()
	f := newFarm(t, 4)
	dir := get(os.MkdirTemp("", fmt.Sprintf("%s%d.", programPrefix, os.Getpid())))(t)
	t.Cleanup(func() { must(t, os.RemoveAll(dir)) })
	must(t, os.Chmod(dir, 0o755))
	cert, key := certificate(t, dir, client4)
	mailbox, hook := f.postfix(dir, cert, key), f.webhook()
	command, commandOut := filepath.Join(dir, "told"), filepath.Join(dir, "told.out")
	must(t, os.WriteFile(command, []byte("#!/bin/sh\necho \"$* $DIRECTOR_REAL_NAME $DIRECTOR_UP\" >> "+commandOut+"\n"), 0o755))
	fifo := filepath.Join(dir, "fifo")
	must(t, unix.Mkfifo(fifo, 0o600))
	lines := &fifoReader{fd: get(unix.Open(fifo, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0))(t)}
	t.Cleanup(func() { must(t, unix.Close(lines.fd)) })

	web := service{name: "web", protocol: "tcp", vip: vip4, port: webPort, scheduler: "rr", weights: []int{1, 1, 1},
		keys: fmt.Sprintf("method: dr, check: {tcp: {}, %s}, quorum: 2, hysteresis: 1, sorry_servers: [{name: rs4, address: %s}]", checkTimes, real4(3))}
	f.writeConfig(f.config("eth0", web) + fmt.Sprintf(`notify:
  - {webhook: {url: "http://%s:9000/", token: t0ken}}
  - {mail: {server: "%s:25", from: director@example.org, to: ops@mx.example.org, security: starttls}}
  - {command: %s}
  - {fifo: %s}
`, client4, client4, command, fifo))
	d := f.launchWith("SSL_CERT_FILE=" + cert)
	d.waitLog("event=ready", 1)
	for i := range 3 {
		f.condition("web", realName(i), director.Up)
	}
	f.loseAndRegain()
	want, wantLines, wantCommands, wantMail := f.transitions()
	mustTellAll(t, "the webhook", hook.told, want)
	mustTellAll(t, "the FIFO", func() []string { return lines.lines(t) }, wantLines)
	mustTellAll(t, "the command", func() []string {
		text, _ := os.ReadFile(commandOut) // there is none before the first event
		return strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
	}, wantCommands)
	eventually(t, patience, func() error {
		text, err := os.ReadFile(mailbox)
		for _, line := range wantMail {
			if !bytes.Contains(text, []byte(line)) {
				return fmt.Errorf("the mailbox does not have %q (%v):\n%s", line, err, text)
			}
		}
		return nil
	})
	if strings.Contains(d.log.String(), "event=notify_failed") {
		t.Error("somebody could not be told")
	}
}

// loseAndRegain lets the real servers die one after the other, and come back.
func (f *farm) loseAndRegain() {
	f.t.Helper()
	mustServe := func(what string, servers ...string) {
		f.t.Helper()
		eventually(f.t, patience, func() error {
			for range 4 {
				if name, err := f.fetch(vip4, webPort); err != nil || !slices.Contains(servers, name) {
					return fmt.Errorf("%s: answered by %q (%v), want %v", what, name, err, servers)
				}
			}
			return nil
		})
	}
	die := func(i int) {
		must(f.t, f.reals[i].http.Close())
		f.condition("web", realName(i), director.Down)
	}
	rise := func(i int) {
		f.reals[i].http = get(f.reals[i].ServeHTTP(realName(i), everywhere(webPort)...))(f.t)
		f.condition("web", realName(i), director.Up)
	}
	die(0)
	die(1)
	mustServe("one is left, which is quorum - hysteresis", "rs3")
	die(2)
	mustServe("the quorum is lost", "rs4")
	rise(0)
	rise(1)
	mustServe("two are back, less than quorum + hysteresis", "rs4")
	rise(2)
	mustServe("the quorum is back", "rs1", "rs2", "rs3")
}

// transitions are what loseAndRegain makes happen, as a webhook, the FIFO, the command and the mail have it.
func (f *farm) transitions() (hook, lines, commands, mail []string) {
	hook = []string{"real_down web rs1", "real_down web rs2", "real_down web rs3", "quorum_lost web",
		"real_up web rs1", "real_up web rs2", "real_up web rs3", "quorum_gained web"}
	for i, up := range []string{"2", "1", "0", "0", "1", "2", "3", "3"} {
		kind, name, _ := strings.Cut(hook[i], " web")
		name = strings.TrimSpace(name)
		word := map[bool]string{true: "DOWN", false: "UP"}[i < 4]
		if name == "" {
			lines = append(lines, "VS [192.0.2.10]:tcp:80 "+word)
			commands = append(commands, kind+" web  "+up)
			mail = append(mail, fmt.Sprintf("Service web has %s its quorum; weight %s is up", strings.TrimPrefix(kind, "quorum_"), up))
			continue
		}
		server := netip.AddrPortFrom(f.reals[name[2]-'1'].addr4, webPort)
		lines = append(lines, fmt.Sprintf("RS [%s]:tcp:80 [192.0.2.10]:tcp:80 %s", server.Addr(), word))
		commands = append(commands, fmt.Sprintf("%s web %s %s %s", kind, server, name, up))
		mail = append(mail, fmt.Sprintf("Real server %s (%s) of service web: %s, L4", name, server, strings.ToLower(word)))
	}
	return hook, lines, commands, mail
}

// mustTellAll fails unless somebody is told these, in this order.
func mustTellAll(t *testing.T, who string, told func() []string, want []string) {
	t.Helper()
	eventually(t, patience, func() error {
		if got := told(); !slices.Equal(got, want) {
			return fmt.Errorf("%s was told\n%s\nwant\n%s", who, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		return nil
	})
}
