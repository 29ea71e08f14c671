// SPDX-License-Identifier: Apache-2.0

package netlab

import (
	"errors"
	"io"
	"net/http"
	"net/netip"
	"os"
	"testing"
)

// newLab returns a lab that ends with the test, and skips the test without root.
func newLab(t testing.TB) *Lab {
	t.Helper()
	l, err := New("netlabtest")
	if errors.Is(err, os.ErrPermission) {
		t.Skip("needs root to make network namespaces")
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

// need returns value, or ends the test.
func need[T any](value T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func prefixes(texts ...string) []netip.Prefix {
	var all []netip.Prefix
	for _, text := range texts {
		all = append(all, netip.MustParsePrefix(text))
	}
	return all
}

// get returns the body of an answer that must be 200, and its headers.
func get(t testing.TB, client *http.Client, url string) (string, http.Header) {
	t.Helper()
	answer, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatalf("GET %s: %v", url, err)
	}
	if answer.StatusCode != http.StatusOK {
		t.Fatalf("GET %s: %s: %s", url, answer.Status, body)
	}
	return string(body), answer.Header
}

// addrPort is short for a constant.
func addrPort(text string) netip.AddrPort { return netip.MustParseAddrPort(text) }

// pair is a lab of two hosts, 10.0.0.1 and fd00::1, 10.0.0.2 and fd00::2, on one switch.
type pair struct {
	lab  *Lab
	sw   *Switch
	a, b *Host
	// Interfaces eth0 of a and b.
	aEnd, bEnd *Iface
}

func newPair(t testing.TB) pair {
	t.Helper()
	p := pair{lab: newLab(t)}
	p.sw = need(p.lab.Switch("sw"))(t)
	p.a, p.b = need(p.lab.Host("a"))(t), need(p.lab.Host("b"))(t)
	p.aEnd = need(p.a.Connect(p.sw, "eth0", prefixes("10.0.0.1/24", "fd00::1/64")...))(t)
	p.bEnd = need(p.b.Connect(p.sw, "eth0", prefixes("10.0.0.2/24", "fd00::2/64")...))(t)
	return p
}
