// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"xdplvs/internal/netlab/pki"
)

const (
	opsToken   = "a-token-for-those-who-operate"
	watchToken = "a-token-for-those-who-look-on"
)

// remote is a farm whose director is asked over TCP.
type remote struct {
	*farm
	ca  *pki.Authority
	url string
}

func newRemote(t *testing.T, rate int) *remote {
	t.Helper()
	r := &remote{farm: newFarm(t, 2), ca: pki.New(t, "CA")}
	server := r.ca.Issue("server", pkix.Name{CommonName: "director"}, time.Hour, director4.String(), director6.String())
	r.url = fmt.Sprintf("https://%s:9443", director4)
	r.writeConfig(r.config("eth0", standard("rr", 1, 1)...) + fmt.Sprintf(`api:
  listen: ["%s:9443", "[%s]:9443"]
  cert_file: %s
  key_file: %s
  client_ca_file: %s
  rate: %d
  tokens:
    - {name: ops, role: admin, file: %s}
    - {name: lookers, role: read, file: %s}
  clients: [{subject: "CN=boss,O=Example", role: admin}]
`, director4, director6, server.Cert, server.Key, r.ca.File, rate, r.ca.Secret("ops.token", opsToken+"\n"), r.ca.Secret("look.token", watchToken+"\n")))
	return r
}

// ask runs a command on the client's machine.
func (r *remote) ask(flags []string, args ...string) result {
	r.t.Helper()
	return runOn(r.t, r.client, append(append([]string{"--api", r.url, "--cacert", r.ca.File}, flags...), args...)...)
}

// Who comes over TCP is let in by a token or a certificate, as far as that goes; everybody else is told why not.
func TestRemote(t *testing.T) {
	t.Parallel()
	r := newRemote(t, 1000)
	d := r.start()
	certified := func(name string, lasting time.Duration) []string {
		pair := r.ca.Issue(fmt.Sprint(name, lasting), pkix.Name{CommonName: name, Organization: []string{"Example"}}, lasting)
		return []string{"--cert", pair.Cert, "--key", pair.Key}
	}
	token := func(text string) []string { return []string{"--token-file", r.ca.Secret(text, text)} }
	stranger := pki.New(t, "CA").Issue("stranger", pkix.Name{CommonName: "boss", Organization: []string{"Example"}}, time.Hour)
	const readOnly = " may not change: that is for those with role admin"
	for _, c := range []struct {
		name         string
		flags        []string
		read, change string // what standard error has; empty: it works
	}{
		{"admin token", token(opsToken), "", ""},
		{"read token", token(watchToken), "", "token lookers" + readOnly},
		{"wrong token", token("no-token-that-anybody-has"), "unknown token", "unknown token"},
		{"nothing", nil, "who asks?", "who asks?"},
		{"certificate", certified("boss", time.Hour), "", ""},
		{"certificate without a role", certified("clerk", time.Hour), "certificate CN=clerk,O=Example may not read", "may not read"},
		{"expired certificate", certified("boss", -time.Minute), "expired certificate", "expired certificate"},
		{"another CA's certificate", []string{"--cert", stranger.Cert, "--key", stranger.Key}, "unknown certificate authority", "unknown certificate authority"},
	} {
		for _, try := range []struct {
			what, want string
			args       []string
		}{
			{"reads", c.read, []string{"list"}},
			{"changes", c.change, []string{"real", "set", "web4", "rs1", "weight=7"}},
		} {
			got := r.ask(c.flags, try.args...)
			if (try.want == "") != (got.code == 0) || !strings.Contains(got.stderr, try.want) {
				t.Errorf("%s %s: %+v, want %q", c.name, try.what, got, try.want)
			}
		}
	}
	if w := r.realState("web4", "rs1").Weight; w != 7 {
		t.Errorf("weight is %d, two were to set it to 7", w)
	}
	if log := d.log.String(); !strings.Contains(log, `who="token ops" from=`+client4.String()) || strings.Contains(log, opsToken) || strings.Contains(log, watchToken) {
		t.Errorf("log is\n%s", log)
	}
	if got := runOn(t, r.client, "--api", r.url, "list"); got.code != 1 || !strings.Contains(got.stderr, "(give the CA's certificate with --cacert)") {
		t.Errorf("without --cacert: %+v", got)
	}
	if text := r.ask(token(opsToken), "save").stdout; strings.Contains(text, opsToken) {
		t.Errorf("save shows a token:\n%s", text)
	}
}

// What is too large, too much, or without TLS comes to nothing.
func TestRemoteLimits(t *testing.T) {
	t.Parallel()
	r := newRemote(t, 10)
	r.start()
	client := &http.Client{Timeout: patience, Transport: &http.Transport{
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			return r.client.DialContext(ctx, network, address)
		},
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
	}}
	t.Cleanup(client.CloseIdleConnections)
	ask := func(method, url, body string) (int, string) {
		req := get(http.NewRequest(method, url, strings.NewReader(body)))(t)
		req.Header.Set("Authorization", "Bearer "+opsToken)
		answer := get(client.Do(req))(t)
		defer answer.Body.Close()
		return answer.StatusCode, string(get(io.ReadAll(answer.Body))(t))
	}
	at6 := fmt.Sprintf("https://[%s]:9443", director6)
	if code, text := ask(http.MethodPatch, at6+"/v1/timeouts", `{"tcp": "`+strings.Repeat("9", 20<<10)+`"}`); code != 413 {
		t.Errorf("too large a body: %d %s", code, text)
	}
	if code, text := ask(http.MethodGet, at6+"/debug/pprof/", ""); code != 404 {
		t.Errorf("profiles: %d %s", code, text)
	}
	if code, text := ask(http.MethodGet, strings.Replace(at6, "https", "http", 1)+"/v1/version", ""); code != 400 || !strings.Contains(text, "HTTPS") {
		t.Errorf("without TLS: %d %s", code, text)
	}
	eventually(t, patience, func() error {
		if code, text := ask(http.MethodGet, at6+"/v1/version", ""); code != 429 || !strings.Contains(text, "too many requests from "+client6.String()) {
			return fmt.Errorf("request after request: %d %s", code, text)
		}
		return nil
	})
	r.output("list") // the socket has no such limit
	if got := r.ask([]string{"--token-file", r.ca.Secret("own.token", opsToken)}, "version"); got.code != 0 {
		t.Errorf("the client's other address: %+v", got)
	}
}

// A certificate that is renewed is used without a restart, as are tokens; a reload changes who may what.
func TestRemoteRenewal(t *testing.T) {
	t.Parallel()
	r := newRemote(t, 1000)
	d := r.start()
	first := r.ca.File
	r.ca = pki.New(t, "the next CA")
	renewed := r.ca.Issue("server", pkix.Name{CommonName: "director"}, time.Hour, director4.String())
	dir := strings.TrimSuffix(first, "ca.pem")
	for from, to := range map[string]string{renewed.Cert: dir + "server.pem", renewed.Key: dir + "server.key"} {
		must(t, os.WriteFile(to+".new", get(os.ReadFile(from))(t), 0o600))
		must(t, os.Rename(to+".new", to))
	}
	own := []string{"--token-file", r.ca.Secret("own.token", opsToken)}
	eventually(t, patience, func() error {
		if got := r.ask(own, "version"); got.code != 0 {
			return fmt.Errorf("with the renewed certificate: %+v", got)
		}
		return nil
	})
	config := string(get(os.ReadFile(r.configFile()))(t))
	must(t, os.WriteFile(r.configFile(), []byte(strings.Replace(config, "name: ops, role: admin", "name: ops, role: read", 1)), 0o600))
	r.reload()
	if got := r.ask(own, "reload"); got.code != 1 || !strings.Contains(got.stderr, "token ops may not change") {
		t.Errorf("after the reload: %+v", got)
	}
	must(t, os.Chmod(dir+"ops.token", 0o604))
	got := r.run("reload")
	if want := "ops.token: permissions 0604 are too open"; got.code != 1 || !strings.Contains(got.stderr, want) {
		t.Errorf("a token that everybody can read: %+v, want %q", got, want)
	}
	if got := r.run("check", r.configFile()); got.code != 1 || !strings.Contains(got.stderr, "are too open") {
		t.Errorf("check: %+v", got)
	}
	must(t, os.Chmod(dir+"ops.token", 0o600))
	must(t, os.WriteFile(r.configFile(), []byte(strings.Replace(config, ":9443\",", ":9444\",", 1)), 0o600))
	got = r.run("reload")
	if want := "listen, admin_group and read_group of api are fixed while the director runs"; got.code != 1 || !strings.Contains(got.stderr, want) {
		t.Errorf("another port: %+v, want %q", got, want)
	}
	d.stop()
	taken := get(r.director.Listen("tcp", fmt.Sprintf("%s:9444", director4)))(t)
	defer taken.Close()
	got = r.run("run", "-c", r.configFile(), "--log-format", "text")
	if want := director4.String() + ":9444: bind: address already in use"; got.code != 1 || !strings.Contains(got.stderr, want) {
		t.Errorf("a port in use: %+v, want %q", got, want)
	}
}

// Members of the groups that the configuration names may look, or do everything; others nothing.
func TestSocketGroups(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("setpriv"); err != nil {
		t.Skip("setpriv is not installed")
	}
	f := newFarm(t, 1)
	command, state := f.asService()
	const readers, admins, user = serviceUser, 64997, 64996
	f.writeConfig(strings.Replace(f.config("eth0", standard("rr", 1)...), "state_dir: "+f.stateDir(), "state_dir: "+state, 1) +
		fmt.Sprintf("api: {read_group: %d, admin_group: %d}\n", readers, admins))
	must(t, os.Chmod(f.configFile(), 0o644))
	d := f.launchBy(command, nil, nil)
	d.waitLog("event=ready", 1)
	for _, c := range []struct {
		groups string
		args   []string
		want   string // on standard error; empty: it works
	}{
		{fmt.Sprint(readers), []string{"list"}, ""},
		{fmt.Sprint(readers), []string{"real", "set", "web4", "rs1", "weight=2"}, "uid 64996 may not change"},
		{fmt.Sprintf("%d,%d", readers, admins), []string{"real", "set", "web4", "rs1", "weight=2"}, ""},
		{"64995", []string{"list"}, "permission denied"},
	} {
		by := []string{fmt.Sprintf("--reuid=%d", user), "--regid=64995", "--groups=" + c.groups, command[len(command)-1], "-s", f.socket()}
		cmd := f.director.Command(t.Context(), "setpriv", append(by, c.args...)...)
		var errs bytes.Buffer
		cmd.Stderr, cmd.Env = &errs, environment()
		must(t, f.director.Start(cmd))
		err := cmd.Wait()
		if (c.want == "") != (err == nil) || !strings.Contains(errs.String(), c.want) {
			t.Errorf("groups %s, %v: %v %s, want %q", c.groups, c.args, err, &errs, c.want)
		}
	}
}
