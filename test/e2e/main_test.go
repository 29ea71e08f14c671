// SPDX-License-Identifier: Apache-2.0

// Package e2e runs the built director on network namespaces with real traffic.
package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"xdplvs/internal/netlab"
	"xdplvs/test/stage"
)

const (
	labPrefix = "e2e"
	pinRoot   = "/sys/fs/bpf"
	nsRoot    = "/run/netns"

	// programPrefix begins the name of the directory of the program; the test's pid follows.
	programPrefix = "director-e2e."
)

// programVariable of the environment names a director to test instead of building one, which takes Go:
// where only the compiled tests are, as in the machine of make test-vm.
const programVariable = "E2E_DIRECTOR"

// raceVariable of the environment, if it is set, has the director built with the race detector, whether the tests have it or not.
const raceVariable = "E2E_RACE"

// raceEnabled: the director has the race detector.
var raceEnabled = raceBuilt || os.Getenv(raceVariable) != ""

// slownessVariable of the environment tells how many times as long everything takes here, such as 10
// where the processor is an emulated one: tests have that much more patience.
const slownessVariable = "E2E_SLOWNESS"

func slowness() time.Duration {
	text := os.Getenv(slownessVariable)
	if text == "" {
		return 1
	}
	n, err := strconv.ParseUint(text, 10, 8)
	if err != nil || n == 0 {
		panic(fmt.Sprintf("%s is %q, want a number from 1 to 255", slownessVariable, text))
	}
	return time.Duration(n)
}

// program is the director under test. commands is the same where a command is run that is soon done: without the race
// detector, with which a process takes several times as long to begin as most commands to run.
var program, commands string

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", fmt.Sprintf("%s%d.", programPrefix, os.Getpid()))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	if err := findProgram(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if os.Geteuid() == 0 {
		cleanStale()
	}
	stage.Together(2 * cap(labs)) // some tests only wait
	code := m.Run()
	for _, left := range leftovers() {
		fmt.Fprintln(os.Stderr, "the tests left behind:", left)
		code = 1
	}
	return code
}

// findProgram builds the director in a directory, unless there is one to test.
func findProgram(dir string) error {
	if program = os.Getenv(programVariable); program != "" {
		commands = program
		return nil
	}
	program = filepath.Join(dir, "director")
	commands = program
	if !raceEnabled {
		return build(program)
	}
	commands = filepath.Join(dir, "commands")
	return errors.Join(build(program, "-race"), build(commands))
}

func build(program string, flags ...string) error {
	args := append([]string{"build", "-o", program}, flags...)
	if out, err := exec.Command("go", append(args, "xdplvs/cmd/director")...).CombinedOutput(); err != nil {
		return fmt.Errorf("build director: %w\n%s", err, out)
	}
	return nil
}

// cleanStale removes what earlier runs left because they were killed.
func cleanStale() {
	if err := netlab.CleanStale(labPrefix); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	for _, dir := range glob(os.TempDir(), programPrefix) {
		pid, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(dir), programPrefix), ".")
		if _, err := os.Stat("/proc/" + pid); errors.Is(err, os.ErrNotExist) {
			remove(dir)
		}
	}
	// Pins are made after their namespace and removed before it. Listed first, what has no namespace
	// now is nobody's.
	pins := glob(pinRoot, pinPrefix)
	used := map[string]bool{}
	for _, ns := range glob(nsRoot, labPrefix+".") {
		used[pinDir(filepath.Base(ns))] = true
	}
	for _, pin := range pins {
		if !used[pin] {
			remove(pin)
		}
	}
}

func remove(dir string) {
	if err := os.RemoveAll(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
}

// pinPrefix begins the names of the directories in which the tests' directors pin.
const pinPrefix = "e2e-director-"

// pinDir is where a director in the namespace pins. A bpffs takes no dots.
func pinDir(nsName string) string {
	return filepath.Join(pinRoot, pinPrefix+strings.ReplaceAll(nsName, ".", "-"))
}

// leftovers are the namespaces, pins and processes of this run.
func leftovers() []string {
	own := fmt.Sprintf("%s.%d.", labPrefix, os.Getpid())
	left := glob(nsRoot, own)
	left = append(left, glob(pinRoot, pinPrefix+strings.ReplaceAll(own, ".", "-"))...)
	links, _ := filepath.Glob("/proc/[0-9]*/exe") // fails on a bad pattern only
	for _, link := range links {
		// A process that has just ended has no program.
		if path, err := os.Readlink(link); err == nil && slices.Contains([]string{program, commands}, strings.TrimSuffix(path, " (deleted)")) {
			left = append(left, filepath.Dir(link)+" ("+path+")")
		}
	}
	return left
}

// glob lists what begins with the prefix in a directory.
func glob(dir, prefix string) []string {
	paths, _ := filepath.Glob(filepath.Join(dir, prefix+"*")) // fails on a bad pattern only
	return paths
}
