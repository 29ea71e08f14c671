// SPDX-License-Identifier: Apache-2.0

package configs

import (
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"
)

// first is the first error that a text has.
func first(t *testing.T, text string) Error {
	t.Helper()
	_, err := Parse("test.yaml", []byte(text))
	var errs *Errors
	if !errors.As(err, &errs) {
		t.Fatalf("got %v, want *Errors", err)
	}
	return (*errs)[0]
}

// TestSyntaxPositions fails if stopped no longer finds its way into yaml.v3, which
// by itself tells the lines in brackets, and no column.
func TestSyntaxPositions(t *testing.T) {
	long := "# comment\n\ninterfaces: [eth0]\nservices:\n" + strings.Repeat("  - {virtual: 192.0.2.1:80}\n", 500)
	for name, test := range map[string]struct {
		text         string
		line, column int
	}{
		"first line (none)":             {"interfaces: [eth0", 2, 1},
		"key without colon (3)":         {"a: 1\nb: 2\nc 2\nd: 3\n", 3, 1},
		"block in long file (3)":        {long + "   - x\n" + long, 505, 4},
		"mapping end in long file (3)":  {long + " services: x\n", 505, 2},
		"flow in long file (3)":         {strings.Replace(long, "[eth0]", "[eth0", 1), 4, 9},
		"tab (2)":                       {"interfaces:\n\t- eth0\n", 2, 1},
		"unknown anchor (none)":         {"interfaces:\n  - *eth0\n", 2, 5},
		"control character (none)":      {"interfaces:\n  - eéth\x00\n", 2, 9},
		"bad UTF-8 (none)":              {"interfaces:\n  - eéth\xff\n", 2, 9},
		"open quote (2)":                {"interfaces:\n  - 'eth0\n", 2, 5},
		"second document (3)":           {"interfaces: [eth0]\n---\na: [\n", 4, 1},
		"UTF-16 (none)":                 {"\xff\xfea\x00", 1, 1},
		"percent where no tag is legal": {"interfaces: [eth0]\nsocket: %x\n", 2, 9},
	} {
		t.Run(name, func(t *testing.T) {
			e := first(t, test.text)
			if e.Line != test.line || e.Column != test.column {
				t.Errorf("got %v, want %d:%d", e, test.line, test.column)
			}
		})
	}
}

// TestAliasesAreBounded has files that would be endless, or large, without aliases.
func TestAliasesAreBounded(t *testing.T) {
	doubled := "interfaces: [eth0]\nx-00: &m00 {port: 80}\n"
	for i := range 60 {
		doubled += strings.NewReplacer("A", num(i), "B", num(i+1)).Replace("x-B: &mB {<<: [*mA, *mA]}\n")
	}
	product := "interfaces: [eth0]\nx-r: &r [" + strings.Repeat("10.0.0.1, ", 20000) + "]\nservices:\n" +
		strings.Repeat("  - {reals: *r}\n", 16384)
	for name, text := range map[string]string{
		"merges twice each":    doubled + "services:\n  - {<<: *m60, address: 192.0.2.300}\n",
		"services x reals":     product,
		"list in itself":       "interfaces: [eth0]\nservices: &s [*s, *s]\n",
		"interface in itself":  "interfaces: &i [*i]\n",
		"mapping in itself":    "interfaces: [eth0]\nlimits: &l {services: *l}\n",
		"top in itself":        "&t\n<<: *t\ninterfaces: *t\n",
		"real in its service":  "interfaces: [eth0]\nservices:\n  - &s {virtual: '192.0.2.1:80', reals: [*s]}\n",
		"nested flow lists":    "interfaces: " + strings.Repeat("[", 9000),
		"nested flow mappings": "interfaces: " + strings.Repeat("{a: ", 9000),
	} {
		t.Run(name, func(t *testing.T) {
			start := time.Now()
			first(t, text)
			if took := time.Since(start); took > 20*time.Second {
				t.Errorf("took %s", took)
			}
		})
	}
}

func num(i int) string { return string([]byte{byte('0' + i/10), byte('0' + i%10)}) }

func TestSuggestion(t *testing.T) {
	known := []string{"port", "protocol", "scheduler", "weight", "rr", "wrr"}
	for text, want := range map[string]string{
		"prot": "port", "ports": "port", "Scheduler": "scheduler", "shceduler": "scheduler", "wieght": "weight",
		"protcol": "protocol", "x": "", "": "", "wr": "wrr", "lc": "", "address": "", "pört": "", "schedulerschedul": "",
		strings.Repeat("port", 1000): "",
	} {
		if got := suggestion(text, known); got != want {
			t.Errorf("%q: got %q, want %q", clip(text), got, want)
		}
	}
}

// TestOtherLibrary has a parser without the fields that stopped looks for.
func TestOtherLibrary(t *testing.T) {
	for _, v := range []any{struct{ parser int }{}, &struct{ parser *int }{}, 1, nil} {
		if got := inside(reflect.ValueOf(v), "parser", "problem_mark"); got.IsValid() {
			t.Errorf("%#v has %v", v, got)
		}
	}
	if markOf(reflect.Value{}) != (mark{}) || integer(reflect.ValueOf("x")) != 0 {
		t.Error("a position was made up")
	}
	d := &document{file: "test.yaml"}
	d.syntaxError(nil, nil, errors.New("yaml: line 7: no luck"))
	if got := d.report().Error(); got != "test.yaml:7:1: invalid YAML: no luck" {
		t.Error(got)
	}
}
