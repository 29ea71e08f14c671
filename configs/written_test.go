// SPDX-License-Identifier: Apache-2.0

package configs

import (
	"fmt"
	"strings"
	"testing"

	"xdplvs/director"
)

// TestSecretsAreHidden: neither a plan nor the run-time changes show what a check logs in with.
func TestSecretsAreHidden(t *testing.T) {
	text := func(password string) string {
		return "interfaces: [eth0]\nservices:\n  - {virtual: \"192.0.2.1:3306\", check: {mysql: {user: u, password: " + password + "}}, reals: [10.0.0.1]}\n"
	}
	headed := mustParse(t, "interfaces: [eth0]\nservices:\n  - {virtual: \"192.0.2.1:80\", check: {http: {headers: {X-Key: hunter4, X-Other: {env: HOME}}}}, reals: [10.0.0.1]}\n").Desired.Services
	if text := Hide(director.Diff(nil, headed)).Services[0].Options.Written; strings.Contains(text, "hunter4") || !strings.Contains(text, "env: HOME") {
		t.Errorf("headers are shown as %s", text)
	}
	before, after := mustParse(t, text("hunter2")).Desired.Services, mustParse(t, text("hunter3")).Desired.Services
	changed := DifferService(&before[0], &after[0])
	if len(changed) != 1 {
		t.Errorf("another password is %+v", changed)
	}
	shown := fmt.Sprintf("%+v", changed)
	changes := Hide(director.Diff(before, after))
	shown += fmt.Sprintf("%+v", *changes.Services[0].Options)
	if strings.Contains(shown, "hunter") || !strings.Contains(shown, hidden) {
		t.Errorf("shown is %s", shown)
	}
	if got := after[0].Written; !strings.Contains(got, "hunter3") {
		t.Errorf("what is in force is %s", got)
	}
}

// TestHiddenText: what is shown of a file has no secret, and all else; and it is not taken for a file with a password.
func TestHiddenText(t *testing.T) {
	const text = `# the farm
interfaces: [eth0]
services:
  # the database
  - {virtual: "192.0.2.1:3306", check: {mysql: {user: u, password: hunter2}}, reals: [10.0.0.1]}
`
	shown, err := HideSecrets([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if want := strings.Replace(text, "hunter2", hidden, 1); string(shown) != want {
		t.Errorf("shown is\n%s, want\n%s", shown, want)
	}
	if _, err := Parse("shown.yaml", shown); err == nil || !strings.Contains(err.Error(), "shown.yaml:5:68: services[0].check.mysql.password: (hidden) stands for a secret that is not shown") {
		t.Errorf("what is shown is read: %v", err)
	}
	elsewhere := strings.Replace(text, "hunter2", "{env: PASSWORD}", 1)
	if shown, err := HideSecrets([]byte(elsewhere)); err != nil || string(shown) != elsewhere {
		t.Errorf("a secret that stands elsewhere: %v, %s", err, shown)
	}
}
