// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const contrib = "../../contrib"

// promtool runs Prometheus's own checker.
func promtool(t *testing.T, stdin string, args ...string) {
	t.Helper()
	if _, err := exec.LookPath("promtool"); err != nil {
		t.Skip("promtool is not installed (as root, make tools-test does it)")
	}
	cmd := exec.Command("promtool", args...)
	cmd.Stdin = strings.NewReader(stdin)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

func TestPromtoolTakesMetrics(t *testing.T) {
	promtool(t, scrape(t, everything(), Limits{}), "check", "metrics")
}

func TestAlerts(t *testing.T) {
	promtool(t, "", "check", "rules", filepath.Join(contrib, "prometheus/alerts.yaml"))
	promtool(t, "", "test", "rules", filepath.Join(contrib, "prometheus/alerts_test.yaml"))
}

// dashboard is what is read of a Grafana dashboard.
type dashboard struct {
	Panels []struct {
		Title   string
		Type    string
		Targets []struct{ Expr string }
	}
	Templating struct {
		List []struct {
			Name       string
			Definition string
		}
	}
}

// dashboardQueries are all of the dashboard, by the panel's title or the variable's name.
func dashboardQueries(t *testing.T) map[string][]string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(contrib, "grafana/director.json"))
	if err != nil {
		t.Fatal(err)
	}
	var d dashboard
	if err := json.Unmarshal(text, &d); err != nil {
		t.Fatal(err)
	}
	queries := map[string][]string{}
	for _, p := range d.Panels {
		if p.Type != "row" && len(p.Targets) == 0 {
			t.Errorf("panel %q has no query", p.Title)
		}
		for _, target := range p.Targets {
			queries[p.Title] = append(queries[p.Title], target.Expr)
		}
	}
	for _, v := range d.Templating.List {
		if inner, ok := strings.CutPrefix(v.Definition, "label_values("); ok {
			queries["$"+v.Name] = []string{inner[:strings.LastIndex(inner, ",")]}
		}
	}
	return queries
}

var grafanaVariables = strings.NewReplacer("$__rate_interval", "5m", "$instance", ".*", "$service", ".*")

// alertQueries are those of the alert rules, each on a line of its own.
func alertQueries(t *testing.T) map[string][]string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(contrib, "prometheus/alerts.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(`- alert: (\w+)\n +expr: (.*)`).FindAllStringSubmatch(string(text), -1)
	if n := strings.Count(string(text), "expr:"); len(found) != n || n == 0 {
		t.Fatalf("%d of %d rules were understood", len(found), n)
	}
	queries := map[string][]string{}
	for _, m := range found {
		queries[m[1]] = []string{m[2]}
	}
	return queries
}

func TestDashboardQueriesAreQueries(t *testing.T) {
	rules := "groups:\n- name: dashboard\n  rules:\n"
	n := 0
	for _, list := range dashboardQueries(t) {
		for _, q := range list {
			n++
			rules += fmt.Sprintf("  - record: query:%d\n    expr: %q\n", n, grafanaVariables.Replace(q))
		}
	}
	file := filepath.Join(t.TempDir(), "dashboard.yaml")
	if err := os.WriteFile(file, []byte(rules), 0o600); err != nil {
		t.Fatal(err)
	}
	promtool(t, "", "check", "rules", file)
}

// selector is a metric, with its matchers if it has some.
var selector = regexp.MustCompile(`\b((?:director|process|go)_\w+)(?:\{([^}]*)\})?`)

// labelsOf are the labels of each family, from what the exporter sends.
func labelsOf(t *testing.T) map[string][]string {
	t.Helper()
	gathered, err := New(everything(), Build{}, Limits{}).registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	labels := map[string][]string{}
	for _, f := range gathered {
		labels[f.GetName()] = []string{"instance", "job"} // Prometheus's own
		for _, l := range f.GetMetric()[0].GetLabel() {
			labels[f.GetName()] = append(labels[f.GetName()], l.GetName())
		}
	}
	return labels
}

// What the dashboard and the alerts ask for is exported, with the labels that they select by.
func TestQueriesAskForWhatThereIs(t *testing.T) {
	known := labelsOf(t)
	matcher := regexp.MustCompile(`(\w+)\s*(?:=~|!~|!=|=)`)
	for _, queries := range []map[string][]string{dashboardQueries(t), alertQueries(t)} {
		for where, list := range queries {
			for _, m := range selector.FindAllStringSubmatch(strings.Join(list, "\n"), -1) {
				labels, ok := known[m[1]]
				if !ok {
					t.Errorf("%s: no metric is called %s", where, m[1])
				}
				for _, label := range matcher.FindAllStringSubmatch(m[2], -1) {
					if ok && !slices.Contains(labels, label[1]) {
						t.Errorf("%s: %s has no label %s", where, m[1], label[1])
					}
				}
			}
		}
	}
}
