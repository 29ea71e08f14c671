// SPDX-License-Identifier: Apache-2.0

package configs

import (
	"fmt"
	"path/filepath"
	"strings"
)

// name is what services and real servers are called.
func name() kind[string] {
	s := schema{"type": "string", "pattern": `^[a-zA-Z0-9._-]{1,63}$`}
	return parsed("a name of 1 to 63 letters, digits, dots, underscores and hyphens", s, parseName)
}

func parseName(s string) (name, note string, ok bool) {
	odd := func(r rune) bool {
		letter := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z'
		return !letter && (r < '0' || r > '9') && !strings.ContainsRune("._-", r)
	}
	return s, "", len(s) >= 1 && len(s) <= 63 && !strings.ContainsFunc(s, odd)
}

// interfaceName is checked as the kernel's dev_valid_name does (net/core/dev.c).
func interfaceName() kind[string] {
	s := schema{"type": "string", "minLength": 1, "maxLength": 15}
	return parsed("an interface name", s, func(v string) (name, note string, ok bool) {
		if v == "" || len(v) > 15 {
			return "", "names have 1 to 15 bytes", false
		}
		if v == "." || v == ".." || strings.ContainsAny(v, "/:\x00 \t\n\v\f\r") {
			return "", "names have no slash, colon or space, and are not . or ..", false
		}
		return v, "", true
	})
}

// absolutePath is the name of a file; most is its largest length in bytes.
func absolutePath(most int) kind[string] {
	s := schema{"type": "string", "pattern": "^/", "maxLength": most}
	return parsed("an absolute path", s, func(v string) (path, note string, ok bool) {
		switch {
		case !filepath.IsAbs(v) || strings.ContainsRune(v, 0):
			return "", "", false
		case len(v) > most:
			return "", fmt.Sprintf("at most %d bytes, it has %d", most, len(v)), false
		}
		return filepath.Clean(v), "", true
	})
}
