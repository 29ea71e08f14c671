// SPDX-License-Identifier: Apache-2.0

package uses

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"xdplvs/internal/programs"
	"xdplvs/test/stage"
)

const prefix = "uses"

// update writes the plots of docs/uses anew.
var update = flag.Bool("update", false, "write the plots of docs/uses")

// binary is the director that the tests run.
var binary string

// together is how many stories are played at a time: they wait for programs and for the checks' verdicts more than they compute.
const together = 4

func TestMain(m *testing.M) {
	stage.Together(together)
	if os.Geteuid() != 0 {
		os.Exit(m.Run())
	}
	dir, err := os.MkdirTemp("", prefix)
	if err == nil {
		binary = filepath.Join(dir, "director")
		err = errors.Join(stage.RemoveStale(prefix), build(binary))
	}
	code := 1
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	} else {
		code = m.Run()
	}
	os.RemoveAll(dir)
	os.Exit(code)
}

func build(binary string) error {
	if out, err := exec.Command("go", "build", "-o", binary, "xdplvs/cmd/director").CombinedOutput(); err != nil {
		return fmt.Errorf("build director: %w\n%s", err, out)
	}
	return nil
}

// TestUses plays every use by every forwarding method that it allows.
func TestUses(t *testing.T) {
	for _, u := range All() {
		for _, m := range u.Methods {
			t.Run(u.Name+"/"+m.String(), func(t *testing.T) {
				t.Parallel()
				if os.Geteuid() != 0 {
					t.Skip("needs root: network namespaces and XDP")
				}
				ctx, cancel := context.WithCancelCause(t.Context())
				defer cancel(nil)
				var told programs.Log
				plots := t.TempDir()
				if *update && m == u.Methods[0] {
					plots = "../../docs/uses"
				}
				err := Play(ctx, u, m, Options{Prefix: prefix, Binary: binary, Configs: "../../configs", Plots: plots, Screen: stage.NewScreen(&told, cancel), Fail: cancel})
				if errors.Is(err, programs.ErrMissing) {
					t.Skip(err)
				}
				if err != nil {
					t.Errorf("%v (%v)\n%s", err, context.Cause(ctx), told.String())
				}
				if testing.Verbose() {
					t.Log(told.String())
				}
			})
		}
	}
}

// TestUsesAreWhole: each has a configuration and a guide, which names it.
func TestUsesAreWhole(t *testing.T) {
	for _, u := range All() {
		guide, err := os.ReadFile("../../docs/uses/" + u.Name + ".md")
		if err != nil {
			t.Error(err)
		}
		for _, want := range []string{"make demo USE=" + u.Name, "configs/" + u.Name + ".yaml", "director realserver"} {
			if !strings.Contains(string(guide), want) {
				t.Errorf("docs/uses/%s.md lacks %q", u.Name, want)
			}
		}
	}
	guides, _ := filepath.Glob("../../docs/uses/*.md") // fails on a bad pattern only
	for _, path := range guides {
		if name := strings.TrimSuffix(filepath.Base(path), ".md"); name != "README" {
			if _, err := Find(name); err != nil {
				t.Errorf("%s: %v", path, err)
			}
		}
	}
}

func TestUnknownUse(t *testing.T) {
	_, err := Find("httpd")
	if want := `unknown use "httpd" (known: `; err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("got %v, want %s", err, want)
	}
	_, err = All()[0].Method("masq")
	if want := `unknown or impossible method "masq" (possible: `; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want %s", err, want)
	}
}
