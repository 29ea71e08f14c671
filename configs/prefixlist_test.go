// SPDX-License-Identifier: Apache-2.0

package configs

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// listed writes a configuration that names a file of prefixes, and the file.
func listed(t *testing.T, prefixes string) (config, list string) {
	t.Helper()
	dir := t.TempDir()
	config, list = filepath.Join(dir, "director.yaml"), filepath.Join(dir, "deny.txt")
	text := fmt.Sprintf(`interfaces: [eth0]
defense: {deny: [192.0.2.1, %q]}
services:
  - {name: web, virtual: "192.0.2.10:80", defense: {allow: [%[1]q], deny: ["10.0.0.0/8"]}}
`, list)
	for file, text := range map[string]string{config: text, list: prefixes} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return config, list
}

func TestPrefixFiles(t *testing.T) {
	file, _ := listed(t, "# bad guys\n\n198.51.100.0/24 ; SBL1\r\n 203.0.113.7\n2001:db8::/32#x\n::1")
	c, err := Load(file)
	if err != nil {
		t.Fatal(err)
	}
	want := []netip.Prefix{
		netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("203.0.113.7/32"),
		netip.MustParsePrefix("2001:db8::/32"), netip.MustParsePrefix("::1/128"),
	}
	all, web := c.Desired.Defense.Guard, c.Desired.Services[0].Guard
	if !slices.Equal(all.Deny, append([]netip.Prefix{netip.MustParsePrefix("192.0.2.1/32")}, want...)) || all.Allow != nil {
		t.Errorf("everybody's guard is %+v", all)
	}
	if !slices.Equal(web.Allow, want) || !slices.Equal(web.Deny, []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}) {
		t.Errorf("the service's guard is %+v", web)
	}
}

func TestPrefixFileMistakes(t *testing.T) {
	file, list := listed(t, "192.0.2.0/24\n# fine\n192.0.2.0/33\nfe80::1%eth0\n192.0.2.1/24\nexample.com # who?\n::ffff:1.2.3.4\n")
	_, err := Load(file)
	want := strings.ReplaceAll(`LIST:3:1: expected an address or a prefix such as 192.0.2.0/24 or 2001:db8::/32, found "192.0.2.0/33"
LIST:4:1: expected an address or a prefix such as 192.0.2.0/24 or 2001:db8::/32, found "fe80::1%eth0"
LIST:5:1: 192.0.2.1/24 has ones after its prefix, write 192.0.2.0/24
LIST:6:1: expected an address or a prefix such as 192.0.2.0/24 or 2001:db8::/32, found "example.com"
LIST:7:1: ::ffff:1.2.3.4 is an IPv4-mapped address, write it as IPv4`, "LIST", list)
	if err == nil || err.Error() != want {
		t.Errorf("got\n%v\nwant\n%s", err, want)
	}
	file, list = listed(t, strings.Repeat("x\n", 1000))
	if _, err = Load(file); err == nil || strings.Count(err.Error(), "\n") != mostFaults || !strings.Contains(err.Error(), list+":10:1: too many mistakes") {
		t.Errorf("of 1000 mistakes: %v", err)
	}
	if err := os.Remove(list); err != nil {
		t.Fatal(err)
	}
	if _, err = Load(file); err == nil || !strings.Contains(err.Error(), "director.yaml:2:29: defense.deny[1]: open "+list+": no such file") {
		t.Errorf("without the file: %v", err)
	}
}
