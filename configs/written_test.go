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
