// SPDX-License-Identifier: Apache-2.0

// Package docs holds the documents to what they describe.
package docs

import (
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"xdplvs/bpf"
	"xdplvs/configs"
	"xdplvs/director"
)

func read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// documents are those for users, as paths from the top.
func documents(t *testing.T) []string {
	t.Helper()
	list := []string{"README.md"}
	for _, pattern := range []string{"docs/*.md", "docs/uses/*.md"} {
		found, err := filepath.Glob(filepath.Join("..", "..", pattern))
		if err != nil || len(found) == 0 {
			t.Fatalf("%s: %v, %v", pattern, found, err)
		}
		for _, path := range found {
			list = append(list, filepath.ToSlash(path)[len("../../"):])
		}
	}
	return list
}

// anchors are what a link into a document may point to.
func anchors(text string) map[string]bool {
	found := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(text, -1) {
		words := strings.ReplaceAll(strings.ToLower(m[1]), " ", "-")
		found[regexp.MustCompile(`[^\p{L}\p{N}_-]`).ReplaceAllString(words, "")] = true
	}
	return found
}

// TestLinks: what documents point to is there.
func TestLinks(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)\s]+)\)`)
	found := 0
	for _, name := range documents(t) {
		for _, m := range link.FindAllStringSubmatch(read(t, name), -1) {
			file, anchor, _ := strings.Cut(m[1], "#")
			if strings.Contains(file, "://") {
				continue
			}
			found++
			target := name
			if file != "" {
				target = path.Join(path.Dir(name), file)
			}
			if _, err := os.Stat(filepath.Join("..", "..", target)); err != nil {
				t.Errorf("%s points to %s, which is not there", name, m[1])
			} else if anchor != "" && !anchors(read(t, target))[anchor] {
				t.Errorf("%s points to %s, which has no such heading", name, m[1])
			}
		}
	}
	if found < 50 {
		t.Errorf("%d links found: the pattern is wrong", found)
	}
}

// TestCommandsInDocuments: the program has every command that a document gives.
func TestCommandsInDocuments(t *testing.T) {
	known := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^  ([a-z]+) +[A-Z]`).FindAllStringSubmatch(read(t, "internal/cli/testdata/golden/help.txt"), -1) {
		known[m[1]] = true
	}
	given, found := regexp.MustCompile("(?m)(?:^    (?:[a-z0-9]+[#$] |sudo |build/)*|`)director ([a-z]+)"), 0
	for _, name := range documents(t) {
		for _, m := range given.FindAllStringSubmatch(read(t, name), -1) {
			if found++; !known[m[1]] {
				t.Errorf("%s gives director %s, which is no command", name, m[1])
			}
		}
	}
	if found < 100 {
		t.Errorf("%d commands found: the pattern is wrong", found)
	}
}

func TestVerdictsAreDocumented(t *testing.T) {
	text := read(t, "docs/verdicts.md")
	names := bpf.VerdictNames()
	for _, name := range names {
		if !strings.Contains(text, "\n| "+name+" | ") {
			t.Errorf("verdict %s is not in docs/verdicts.md", name)
		}
	}
	if rows := strings.Count(text, "\n| ") - 1; rows != len(names) {
		t.Errorf("docs/verdicts.md has %d rows for %d verdicts", rows, len(names))
	}
}

func TestMetricsAreDocumented(t *testing.T) {
	text, exported := read(t, "docs/metrics.md"), read(t, "internal/metrics/testdata/metrics.txt")
	families := regexp.MustCompile(`(?m)^# TYPE (\S+) `).FindAllStringSubmatch(exported, -1)
	for _, f := range families {
		if !strings.Contains(text, "\n| "+f[1]+" | ") {
			t.Errorf("metric %s is not in docs/metrics.md", f[1])
		}
	}
	if rows := strings.Count(text, "\n| director_"); rows != len(families) || rows == 0 {
		t.Errorf("docs/metrics.md has %d rows for %d metrics", rows, len(families))
	}
}

// TestConfigurationsInDocuments loads every YAML block of the documents.
func TestConfigurationsInDocuments(t *testing.T) {
	block := regexp.MustCompile("(?s)```yaml\n(.*?)```")
	found := 0
	for _, name := range documents(t) {
		for _, m := range block.FindAllStringSubmatch(read(t, name), -1) {
			found++
			if _, err := configs.Parse(name, []byte(m[1])); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	if found == 0 {
		t.Error("no configuration found: the pattern is wrong")
	}
}

// TestSchedulerInDocument: the document shows the example that is compiled and
// tested, whole, in less than 60 lines.
func TestSchedulerInDocument(t *testing.T) {
	_, example, _ := strings.Cut(read(t, "scheduler/example_tier_test.go"), "\n\n")
	block := regexp.MustCompile("(?s)```go\n(.*?)```").FindStringSubmatch(read(t, "docs/schedulers.md"))
	if block == nil || block[1] != example {
		t.Errorf("docs/schedulers.md has another example than scheduler/example_tier_test.go:\n%s", example)
	}
	if lines := strings.Count(example, "\n"); lines >= 60 {
		t.Errorf("the example has %d lines, want less than 60", lines)
	}
}

// TestSchedulersAreDocumented: every one that a service can have.
func TestSchedulersAreDocumented(t *testing.T) {
	text := read(t, "docs/schedulers.md")
	for _, name := range director.SchedulerNames() {
		if !strings.Contains(text, "\n| "+name+" | ") {
			t.Errorf("scheduler %s is not in docs/schedulers.md", name)
		}
	}
}

// TestMakeTargets holds the documents' make targets to the Makefile.
func TestMakeTargets(t *testing.T) {
	makefile := read(t, "Makefile")
	for _, name := range documents(t) {
		for _, m := range regexp.MustCompile("(?m)(?:^    |`)make ([a-z][a-z-]*)").FindAllStringSubmatch(read(t, name), -1) {
			if !regexp.MustCompile(`(?m)^` + m[1] + `\b.*:`).MatchString(makefile) {
				t.Errorf("%s names make %s, which the Makefile does not have", name, m[1])
			}
		}
	}
}
