// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"xdplvs/test/stage"
)

// The binaries, built by TestMain if there is root.
var demoBinary, directorBinary string

func TestMain(m *testing.M) {
	if os.Geteuid() != 0 {
		os.Exit(m.Run())
	}
	dir, err := os.MkdirTemp("", "demo")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	demoBinary, directorBinary = filepath.Join(dir, "demo"), filepath.Join(dir, "director")
	code := 1
	if build(demoBinary, ".") && build(directorBinary, "xdplvs/cmd/director") {
		code = m.Run()
	}
	os.RemoveAll(dir)
	os.Exit(code)
}

func build(binary, pkg string) bool {
	out, err := exec.Command("go", "build", "-o", binary, pkg).CombinedOutput()
	if err != nil {
		fmt.Fprintf(os.Stderr, "build %s: %v\n%s", pkg, err, out)
	}
	return err == nil
}

// demo is one that runs.
type demo struct {
	t              *testing.T
	cmd            *exec.Cmd
	stdout, stderr bytes.Buffer
}

// prepare makes a demo that start or run starts. Afterwards nothing may be left of it.
func prepare(t *testing.T, args ...string) *demo {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: network namespaces and XDP")
	}
	d := &demo{t: t, cmd: exec.Command(demoBinary, append([]string{"-director", directorBinary}, args...)...)}
	d.cmd.Stdout, d.cmd.Stderr = &d.stdout, &d.stderr
	t.Cleanup(func() {
		if d.cmd.Process != nil && d.cmd.ProcessState == nil {
			d.cmd.Process.Signal(syscall.SIGTERM)
			d.cmd.Wait()
		}
		if t.Failed() {
			t.Logf("standard output:\n%s\nstandard error:\n%s", &d.stdout, &d.stderr)
		}
	})
	return d
}

func (d *demo) start() {
	d.t.Helper()
	if err := d.cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
}

// wait returns the exit code; -1 means killed by a signal.
func (d *demo) wait() int {
	d.t.Helper()
	var exit *exec.ExitError
	if err := d.cmd.Wait(); err != nil && !errors.As(err, &exit) {
		d.t.Fatal(err)
	}
	return d.cmd.ProcessState.ExitCode()
}

// run starts the demo and waits for its end.
func (d *demo) run() int {
	d.t.Helper()
	d.start()
	return d.wait()
}

// leftovers are the files and processes that carry the demo's number.
func (d *demo) leftovers() (left []string) {
	pid := d.cmd.Process.Pid
	for _, pattern := range []string{
		fmt.Sprintf("%s/%s.%d.*", stage.NamespaceDir, prefix, pid), fmt.Sprintf("%s/%s.%d.*", stage.FilesDir, prefix, pid),
		fmt.Sprintf("%s/%s-%d-*", stage.PinsDir, prefix, pid),
	} {
		found, _ := filepath.Glob(pattern)
		left = append(left, found...)
	}
	commands, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range commands {
		text, _ := os.ReadFile(path) // a process that has ended has no command line
		if strings.Contains(string(text), fmt.Sprintf("%s.%d.", prefix, pid)) {
			left = append(left, path+": "+strings.ReplaceAll(string(text), "\x00", " "))
		}
	}
	return left
}

func (d *demo) wantNothingLeft() {
	d.t.Helper()
	if left := d.leftovers(); len(left) > 0 {
		d.t.Errorf("left behind: %s", strings.Join(left, ", "))
	}
}

func (d *demo) wantOutput(texts ...string) {
	d.t.Helper()
	for _, text := range texts {
		if !strings.Contains(d.stdout.String(), text) {
			d.t.Errorf("standard output lacks %q", text)
		}
	}
}

// spreadLine is a real server's line of a spread.
var spreadLine = regexp.MustCompile(`(?m)^    (rs[1-3]) +(\d+) +(\d+)[ #]+ (\d+)[ #]+ (\d+)[ #]*$`)

// spreads are the numbers of all spreads: the weight, then the answers of each service.
func (d *demo) spreads() (lines []string) {
	for _, m := range spreadLine.FindAllStringSubmatch(d.stdout.String(), -1) {
		lines = append(lines, strings.Join(m[1:], " "))
	}
	return lines
}

func TestDemo(t *testing.T) {
	d := prepare(t)
	begun := time.Now()
	if code := d.run(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	// 6 s on a machine that does nothing else, 4 of them for the rates.
	if took := time.Since(begun); took > 30*time.Second {
		t.Errorf("took %v", took)
	}
	d.wantNothingLeft()
	before := []string{"rs1 1 10 10 20", "rs2 2 20 20 20", "rs3 3 30 30 20"}
	after := []string{"rs1 1 20 20 30", "rs2 2 40 40 30", "rs3 0 0 0 0"}
	want := append(append(before, after...), after...) // the last without a daemon
	if got := d.spreads(); strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("spreads:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	d.wantOutput("ok: 3 services, 9 real servers", "4. Quiesce rs3", "+ - {name: rs3, address: 10.0.0.13, weight: 0}",
		"-> 10.0.0.13:80                 Route   0      1          30",
		"SHA-256 a6667d1c5323f4910eefcbf84247c91fbcf38c0b9511aba2b7e5ce978e078a09, as it should be",
		"tx_new", "Everything is removed again")
	if strings.Contains(d.stdout.String(), "\x1b") {
		t.Error("colours in a file")
	}
	if d.stderr.Len() > 0 {
		t.Errorf("standard error:\n%s", &d.stderr)
	}
}

// TestInterrupted ends the demo at random moments, each with another signal.
func TestInterrupted(t *testing.T) {
	const longest = 2 * time.Second // after that it only sends requests, for some seconds
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for i, signal := range []syscall.Signal{
		syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGINT, syscall.SIGTERM, syscall.SIGQUIT, syscall.SIGINT, syscall.SIGINT,
	} {
		// Every part of the time gets its share.
		delay := longest * time.Duration(i) / 8
		delay += time.Duration(random.Int64N(int64(longest / 8)))
		t.Run(fmt.Sprintf("%v after %v", signal, delay.Round(time.Millisecond)), func(t *testing.T) {
			d := prepare(t)
			d.start()
			time.Sleep(delay)
			d.cmd.Process.Signal(signal)
			time.Sleep(time.Duration(random.Int64N(int64(100 * time.Millisecond))))
			d.cmd.Process.Signal(syscall.SIGINT) // impatience must not cut the removal short
			code := d.wait()
			d.wantNothingLeft()
			// On a busy machine both may wait for it, and come in any order. Before it can catch
			// signals it has nothing to remove, and is simply killed.
			if code != 128+int(signal) && code != 128+int(syscall.SIGINT) && (code != -1 || d.stdout.Len() > 0) {
				t.Errorf("exit code %d", code)
			}
		})
	}
}

// waitFor waits until the demo has printed this.
func (d *demo) waitFor(file, text string) {
	d.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		printed, err := os.ReadFile(file)
		if err != nil {
			d.t.Fatal(err)
		}
		if bytes.Contains(printed, []byte(text)) {
			return
		}
		if time.Now().After(deadline) {
			d.t.Fatalf("it does not print %q but:\n%s", text, printed)
		}
	}
}

// hint finds the commands to copy.
var hint = regexp.MustCompile(`(?m)^      (\S.*)$`)

// TestKeep tries the commands that are printed, and ends the demo in both ways.
func TestKeep(t *testing.T) {
	for _, end := range []string{"enter", "interrupt"} {
		t.Run(end, func(t *testing.T) {
			d := prepare(t, "-keep")
			stdin, err := d.cmd.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			file := d.toFile()
			d.start()
			d.waitFor(file, "tail -f")
			if end == "enter" {
				d.tryHints(file)
				stdin.Write([]byte("\n"))
			} else {
				stdin.Close() // no terminal: that is no Enter
				time.Sleep(100 * time.Millisecond)
				d.cmd.Process.Signal(syscall.SIGINT)
			}
			if code := d.wait(); code != 0 {
				t.Errorf("exit code %d", code)
			}
			d.wantNothingLeft()
		})
	}
}

// toFile sends standard output to a file, which may be read meanwhile.
func (d *demo) toFile() string {
	d.t.Helper()
	path := filepath.Join(d.t.TempDir(), "stdout")
	file, err := os.Create(path)
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { file.Close() })
	d.cmd.Stdout = file
	return path
}

// tryHints runs the commands, those that wait for a person excepted.
func (d *demo) tryHints(file string) {
	d.t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		d.t.Fatal(err)
	}
	_, hints, _ := strings.Cut(string(text), "Your turn")
	tried := 0
	for _, m := range hint.FindAllStringSubmatch(hints, -1) {
		command := strings.NewReplacer("${EDITOR:-vi}", "true", "list -w", "list", "tail -f", "tail").Replace(m[1])
		out, err := exec.Command("bash", "-c", "set -o pipefail; "+command).CombinedOutput()
		if err != nil || len(out) == 0 {
			d.t.Errorf("%s: %v\n%s", command, err, out)
		}
		tried++
	}
	if tried != 8 {
		d.t.Errorf("tried %d commands of\n%s", tried, hints)
	}
}

// TestDirectorFails runs a director that ends at once.
func TestDirectorFails(t *testing.T) {
	d := prepare(t)
	script := filepath.Join(t.TempDir(), "director")
	text := "#!/bin/sh\n[ \"$3\" = check ] && exit 0\necho no XDP here >&2\nexit 3\n"
	if err := os.WriteFile(script, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	d.cmd.Args = []string{demoBinary, "-director", script}
	if code := d.run(); code != 1 {
		t.Errorf("exit code %d", code)
	}
	d.wantNothingLeft()
	for _, want := range []string{"demo: the director ended (exit status 3)", "The end of the director's log:\n    no XDP here\n"} {
		if !strings.Contains(d.stderr.String(), want) {
			t.Errorf("standard error lacks %q", want)
		}
	}
}

// TestDirectorKilled kills the director in the middle.
func TestDirectorKilled(t *testing.T) {
	d := prepare(t)
	file := d.toFile()
	d.start()
	d.waitFor(file, "3. Traffic") // the director is ready
	pid := childOf(t, d.cmd.Process.Pid)
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if code := d.wait(); code != 1 {
		t.Errorf("exit code %d", code)
	}
	d.wantNothingLeft()
	if want := "demo: the director ended (signal: killed)"; !strings.Contains(d.stderr.String(), want) {
		t.Errorf("standard error lacks %q", want)
	}
}

// childOf returns the only child of a process.
func childOf(t *testing.T, pid int) int {
	t.Helper()
	children, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range children {
		text, _ := os.ReadFile(path)
		if child, err := strconv.Atoi(strings.TrimSpace(string(text))); err == nil {
			return child
		}
	}
	t.Fatal("the demo has no child")
	return 0
}

// TestNobodyReads closes the reading end of standard output, as head does.
func TestNobodyReads(t *testing.T) {
	d := prepare(t)
	d.cmd.Stdout = nil
	out, err := d.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	d.start()
	out.Read(make([]byte, 1))
	out.Close()
	if code := d.wait(); code != 1 {
		t.Errorf("exit code %d", code)
	}
	d.wantNothingLeft()
}

// TestKilled kills the demo, which nothing can catch: the next one clears up.
func TestKilled(t *testing.T) {
	d := prepare(t)
	file := d.toFile()
	d.start()
	d.waitFor(file, "3. Traffic") // the director is ready
	d.cmd.Process.Kill()
	d.wait()
	if len(d.leftovers()) == 0 {
		t.Error("a killed demo leaves nothing: this test tests nothing")
	}
	if err := stage.RemoveStale(prefix); err != nil {
		t.Error(err)
	}
	d.wantNothingLeft()
}
