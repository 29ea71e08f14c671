// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// sample is a module whose tests end in every way.
var sample = map[string]string{
	"go.mod":         "module sample\n\ngo 1.26\n",
	"broken/b.go":    "package broken\n\nvar x int = \"text\"\n",
	"good/g_test.go": "package good\n\nimport \"testing\"\n\nfunc TestGood(t *testing.T) { t.Log(\"not shown\") }\n",
	"skips/s_test.go": `package skips

import "testing"

func TestA(t *testing.T) { t.Skip("needs root: to fly") }

func TestB(t *testing.T) {
	t.Run("sub", func(t *testing.T) { t.Log("first"); t.Skip("needs root: to fly") })
	t.Run("other", func(t *testing.T) { t.SkipNow() })
}
`,
	"fails/f_test.go": "package fails\n\nimport \"testing\"\n\nfunc TestBad(t *testing.T) { t.Fatal(\"two is not three\") }\n",
	"panics/p_test.go": `package panics

import "testing"

func TestPanic(t *testing.T) { panic("help") }
`,
}

func runSample(t *testing.T, patterns ...string) (out string, failed bool) {
	t.Helper()
	dir := t.TempDir()
	for name, text := range sample {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(dir)
	var b strings.Builder
	failed, err := run(patterns, &b)
	if err != nil {
		t.Fatal(err)
	}
	return b.String(), failed
}

func TestFailuresAreShown(t *testing.T) {
	out, failed := runSample(t, "./...")
	if !failed {
		t.Error("a run with failures succeeds")
	}
	for _, want := range []string{
		"ok    sample/good", "FAIL  sample/fails", "two is not three", "FAIL  sample/panics", "panic: help",
		"cannot use \"text\"", "tests: 2 passed", "2 failed", "3 skipped",
		"skipped 2: needs root: to fly\n", "skipped 1: no reason given\n",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("the report lacks %q", want)
		}
	}
	for _, noise := range []string{"not shown", "=== RUN", "FAIL\n", "FAIL\tsample"} {
		if strings.Contains(out, noise) {
			t.Errorf("the report has %q", noise)
		}
	}
	if t.Failed() {
		t.Log(out)
	}
}

func TestSuccess(t *testing.T) {
	out, failed := runSample(t, "./good", "./skips")
	if failed || !strings.Contains(out, "tests: 2 passed, 0 failed, 3 skipped") {
		t.Errorf("failed is %v:\n%s", failed, out)
	}
}

// TestAlone: what matches -alone comes last, and counts in the same sum.
func TestAlone(t *testing.T) {
	out, failed := runSample(t, "-alone", "./good,./fails", "-beside", "-skip=TestB", "./good", "./skips", "--", "-count=1")
	skips, good := strings.Index(out, "ok    sample/skips"), strings.Index(out, "ok    sample/good")
	if failed || skips < 0 || good < skips || strings.Contains(out, "sample/fails") || !strings.Contains(out, "tests: 1 passed, 0 failed, 1 skipped") {
		t.Errorf("failed is %v:\n%s", failed, out)
	}
}

// TestGoesOn: a failure of those that run together does not keep the others from running.
func TestGoesOn(t *testing.T) {
	if out, failed := runSample(t, "-alone", "./good", "./..."); !failed || !strings.Contains(out, "FAIL  sample/broken") || !strings.Contains(out, "ok    sample/good") {
		t.Errorf("failed is %v:\n%s", failed, out)
	}
}

func TestUnknownPackage(t *testing.T) {
	t.Chdir(t.TempDir()) // no module
	var b strings.Builder
	if failed, err := run([]string{"-alone", "./here", "./there"}, &b); !failed || err == nil {
		t.Errorf("failed is %v, error %v", failed, err)
	}
}

func TestUnknownFlag(t *testing.T) {
	var b strings.Builder
	if failed, err := run([]string{"--", "-race=perhaps"}, &b); !failed || err == nil {
		t.Errorf("failed is %v, error %v", failed, err)
	}
}
