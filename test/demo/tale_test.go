// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"xdplvs/test/stage"
)

func TestTallyCheck(t *testing.T) {
	for _, c := range []struct {
		scheduler     string
		weights, want map[string]int
		ok            bool
	}{
		{"wrr", map[string]int{"a": 1, "b": 2}, map[string]int{"a": 10, "b": 20}, true},
		{"wrr", map[string]int{"a": 1, "b": 2}, map[string]int{"a": 15, "b": 15}, false},
		{"wrr", map[string]int{"a": 0, "b": 2}, map[string]int{"b": 30}, true},
		{"wrr", map[string]int{"a": 0, "b": 2}, map[string]int{"a": 1, "b": 29}, false},
		{"rr", map[string]int{"a": 1, "b": 2, "c": 0}, map[string]int{"a": 15, "b": 15}, true},
		{"rr", map[string]int{"a": 1, "b": 2, "c": 0}, map[string]int{"a": 30}, false},
	} {
		err := tally{service{name: "s", scheduler: c.scheduler}, c.want}.check(c.weights)
		if (err == nil) != c.ok {
			t.Errorf("%s, weights %v, answers %v: %v", c.scheduler, c.weights, c.want, err)
		}
	}
}

func TestSpreadIsPrinted(t *testing.T) {
	tallies := []tally{
		{services[0], map[string]int{"rs1": 10, "rs2": 30}},
		{services[1], map[string]int{}},
	}
	var b strings.Builder
	showSpread(stage.NewScreen(&b, nil), []string{"rs1", "rs2"}, map[string]int{"rs1": 1, "rs2": 3}, tallies)
	want := "" +
		"          weight  192.0.2.10:80 wrr       [2001:db8::10]:80 wrr\n" +
		"    rs1        1      10 ####                  0\n" +
		"    rs2        3      30 ############          0\n"
	if b.String() != want {
		t.Errorf("got:\n%s\nwant:\n%s", b.String(), want)
	}
}

func TestChangedLines(t *testing.T) {
	if got, want := changedLines("a\n  b 1\nc\n", "a\n  b 2\nc\n"), "- b 1\n+ b 2\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestExitCode(t *testing.T) {
	for want, err := range map[int]error{
		0:   nil,
		1:   errors.New("broken"),
		130: fmt.Errorf("play: %w", interrupted{syscall.SIGINT}),
	} {
		if got := exitCode(err); got != want {
			t.Errorf("%v: exit code %d, want %d", err, got, want)
		}
	}
}

// TestNoRoot runs the demo as nobody.
func TestNoRoot(t *testing.T) {
	binary := t.TempDir() + "/demo"
	if !build(binary, ".") {
		t.FailNow()
	}
	cmd := exec.Command(binary)
	if os.Geteuid() == 0 {
		// The directories of the binary are root's alone: it is started through a descriptor.
		file, err := os.Open(binary)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		cmd = exec.Command("/proc/self/fd/3")
		cmd.ExtraFiles = []*os.File{file}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	}
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil || cmd.ProcessState.ExitCode() != 1 || !strings.Contains(string(out), "needs root") {
		t.Errorf("%v: %s", err, out)
	}
}
