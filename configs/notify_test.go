// SPDX-License-Identifier: Apache-2.0

package configs

import (
	"strings"
	"testing"

	"xdplvs/internal/netlab/pki"
)

// TestNotifyAuthorities: a file of certificates is read, and one that nothing would be verified with is named.
func TestNotifyAuthorities(t *testing.T) {
	ca := pki.New(t, "ours").File
	text := func(target string) string {
		return "interfaces: [eth0]\nnotify: [" + strings.ReplaceAll(target, "CA", "ca_file: "+ca) + "]\n"
	}
	const people = "mail: {from: a@example.com, to: b@example.com, CA"
	config := mustParse(t, text("{webhook: {url: \"https://a/\", CA}}, {"+people+"}}"))
	for i, cas := range []string{string(config.Notify[0].Webhook.CAs), string(config.Notify[1].Mail.CAs)} {
		if !strings.HasPrefix(cas, "-----BEGIN CERTIFICATE-----") {
			t.Errorf("target %d has %q", i, cas)
		}
	}
	for target, want := range map[string]string{
		"{webhook: {url: \"http://a/\", CA}}":  "ca_file of a webhook that is not asked by https",
		"{" + people + ", skip_verify: true}}": "ca_file of a mail that looks at no certificate",
		"{" + people + ", security: plain}}":   "ca_file of a mail that looks at no certificate",
	} {
		if _, err := Parse("x.yaml", []byte(text(target))); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", target, err, want)
		}
	}
}
