// SPDX-License-Identifier: Apache-2.0

package configs

import (
	"bytes"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"xdplvs/director"
)

var update = flag.Bool("update", false, "write the errors of testdata/invalid into its files")

// errorMark begins the first lines of an invalid file, which are its exact errors.
const errorMark = "# error: "

// TestInvalid has one file for each rule. After a wanted change of messages:
// go test ./configs -run TestInvalid -update, and read the difference.
func TestInvalid(t *testing.T) {
	pinAvailable(t)
	files, err := filepath.Glob("testdata/invalid/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no files: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".yaml"), func(t *testing.T) { testInvalid(t, file) })
	}
}

// pinAvailable keeps the messages when the director learns more.
func pinAvailable(t *testing.T) {
	schedulers, methods, protocols := knownSchedulers, availableMethods, availableProtocols
	t.Cleanup(func() { knownSchedulers, availableMethods, availableProtocols = schedulers, methods, protocols })
	knownSchedulers = func() []string { return []string{"rr", "wrr"} }
	availableMethods = []director.Method{director.DirectRouting, director.Tunnel, director.Local}
	availableProtocols = []director.Protocol{director.TCP, director.UDP}
}

func testInvalid(t *testing.T, file string) {
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	want, body := splitErrors(data)
	if *update {
		data = updated(t, file, body)
		want, _ = splitErrors(data)
	}
	if got := errorsOf(t, file, data); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func splitErrors(data []byte) (want string, body []byte) {
	var lines []string
	for bytes.HasPrefix(data, []byte(errorMark)) {
		line, rest, _ := bytes.Cut(data, []byte("\n"))
		lines, data = append(lines, string(line[len(errorMark):])), rest
	}
	return strings.Join(lines, "\n"), data
}

// updated finds the errors twice, as their number moves the lines that they name.
func updated(t *testing.T, file string, body []byte) []byte {
	data := body
	for range 2 {
		messages := errorsOf(t, file, data)
		data = append([]byte(errorMark+strings.ReplaceAll(messages, "\n", "\n"+errorMark)+"\n"), body...)
	}
	if err := os.WriteFile(file, data, 0o644); err != nil {
		t.Fatal(err)
	}
	return data
}

func errorsOf(t *testing.T, file string, data []byte) string {
	config, err := Parse(filepath.Base(file), data)
	var errs *Errors
	if config != nil || !errors.As(err, &errs) || len(*errs) == 0 {
		t.Fatalf("got %v, %v, want errors", config, err)
	}
	return errs.Error()
}
