// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestWhichDaemon: flags win over variables, and two daemons are one too many.
func TestWhichDaemon(t *testing.T) {
	open := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(open, []byte("0123456789abcdef"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(open, 0o644); err != nil {
		t.Fatal(err)
	}
	const nobody = "https://127.0.0.1:1"
	for name, c := range map[string]struct {
		vars map[string]string // beside the socket's
		args []string
		want string // on standard error; empty: the socket answers
	}{
		"the socket's variable":   {nil, nil, ""},
		"flag for a URL":          {nil, []string{"--api", nobody}, "connect to https://127.0.0.1:1: connection refused (is the daemon running?"},
		"two variables":           {map[string]string{envAPI: nobody}, nil, "--socket and --api (or their variables) name two daemons"},
		"two flags":               {nil, []string{"--api", nobody, "--socket", "/x"}, "name two daemons"},
		"no TLS":                  {nil, []string{"--api", "http://127.0.0.1:1"}, "over TCP the daemon speaks https only"},
		"a token for all to read": {map[string]string{envFile: open}, []string{"--api", nobody}, "token: permissions 0644 are too open"},
		"no such CA":              {map[string]string{envCA: "/nonexistent"}, []string{"--api", nobody}, "read CA: open /nonexistent: no such file"},
		"certificate without key": {map[string]string{envCert: open}, []string{"--api", nobody}, "a certificate needs its key"},
	} {
		w := newWorld(t, &fakeBackend{snapshot: farm()})
		for name, value := range c.vars {
			w.vars[name] = value
		}
		code, _, stderr := w.run(t.Context(), append([]string{"list"}, c.args...)...)
		if (c.want == "") != (code == 0) || !strings.Contains(stderr, c.want) {
			t.Errorf("%s: exit %d, %q, want %q", name, code, stderr, c.want)
		}
	}
	w := newWorld(t, &fakeBackend{snapshot: farm()})
	w.vars[envAPI] = nobody
	if code, _, stderr := w.run(t.Context(), "list", "--socket", w.socket); code != 0 {
		t.Errorf("flag for a socket: exit %d, %q", code, stderr)
	}
}
