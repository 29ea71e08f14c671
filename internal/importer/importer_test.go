// SPDX-License-Identifier: Apache-2.0

package importer

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"xdplvs/configs"
)

var update = flag.Bool("update", false, "write the golden files")

// samples are configurations as people have them, by format.
var samples = map[string]string{
	"keepalived": "keepalived.conf", "ldirectord": "ldirectord.cf", "ipvsadm-save": "ipvsadm-save", "lvs.cf": "lvs.cf",
}

func sample(t testing.TB, file string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", file))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// shown is all that an import says.
func shown(r *Result) string {
	var b strings.Builder
	b.Write(r.File())
	for _, n := range r.Notes {
		fmt.Fprintf(&b, "%d: %s: %s\n", n.Line, n.Text, n.Why)
	}
	return b.String()
}

// TestImport: what becomes of a whole configuration of each kind, and of each of its lines.
func TestImport(t *testing.T) {
	for _, format := range Formats() {
		r, err := Import(format, sample(t, samples[format]))
		if err != nil {
			t.Fatal(err)
		}
		golden := filepath.Join("testdata", samples[format]+".golden")
		if *update {
			if err := os.WriteFile(golden, []byte(shown(r)), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := configs.Parse(format, append([]byte("interfaces: [eth0]\n"), r.File()...)); err != nil {
			t.Errorf("%s: %v", format, err)
		}
		if want := sample(t, samples[format]+".golden"); shown(r) != string(want) {
			t.Errorf("%s: got\n%s\nwant\n%s", format, shown(r), want)
		}
	}
	if _, err := Import("haproxy", nil); err == nil || !strings.Contains(err.Error(), "known: ipvsadm-save, keepalived, ldirectord, lvs.cf") {
		t.Errorf("error %v", err)
	}
}

// TestKeepalivedFaults: what is wrong with a file is listed where it is.
func TestKeepalivedFaults(t *testing.T) {
	for text, want := range map[string]string{
		"virtual_server 192.0.2.1 80 {\n lb_kind DR\n": "its brace is not closed",
		"}\n":                            "a brace that closes nothing",
		"{\n}\n":                         "a brace without a word before it",
		"~SEQ(a,1,2) x\n":                "sequences are not expanded",
		"virtual_server group X {\n}\n":  "there is no virtual_server_group X",
		"virtual_server\n{\n}\n":         "it has no address",
		"virtual_server fwmark x {\n}\n": "it has no firewall mark",
	} {
		r, err := Import("keepalived", []byte(text))
		if err != nil || !slices.ContainsFunc(r.Notes, func(n Note) bool { return n.Why == want }) {
			t.Errorf("%q: %v, notes %+v, want %s", text, err, r, want)
		}
	}
}

// FuzzImport holds that whatever a file says, import ends, and makes services that are valid, and notes
// of lines that there are.
func FuzzImport(f *testing.F) {
	for format, file := range samples {
		f.Add(format, sample(f, file))
	}
	f.Fuzz(func(t *testing.T, format string, text []byte) {
		if len(text) > 4<<10 || !slices.Contains(Formats(), format) {
			return
		}
		r, err := Import(format, text)
		if err != nil {
			t.Fatal(err)
		}
		for i := range r.Services {
			if err := r.Services[i].Validate(); err != nil {
				t.Error(err)
			}
		}
		for _, n := range r.Notes {
			if n.Line < 1 || n.Line > strings.Count(string(text), "\n")+1 || n.Why == "" {
				t.Errorf("note %+v", n)
			}
		}
		if _, err := configs.Parse("import", append([]byte("interfaces: [eth0]\nlimits: {services: 1M, real_servers: 4M}\n"), r.File()...)); err != nil {
			t.Error(err)
		}
	})
}
