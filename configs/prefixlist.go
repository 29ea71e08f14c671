// SPDX-License-Identifier: Apache-2.0

package configs

import (
	"fmt"
	"net/netip"
	"strings"
)

// mostFaults of one list are reported.
const mostFaults = 10

// parsePrefixes reads a list of prefixes and addresses, one in a line. What follows a # or ; is a comment, as
// published lists have them.
func parsePrefixes(file, text string) (all []netip.Prefix, errs Errors) {
	number := 0
	for line := range strings.Lines(text) {
		number++
		if end := strings.IndexAny(line, "#;"); end >= 0 {
			line = line[:end]
		}
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		p, fault := parsePrefix(line)
		if fault == "" {
			all = append(all, p)
			continue
		}
		errs = append(errs, Error{File: file, Line: number, Column: 1, Message: fault})
		if len(errs) == mostFaults {
			return nil, append(errs, Error{File: file, Line: number, Column: 1, Message: "too many mistakes, the rest was not read"})
		}
	}
	return all, errs
}

// parsePrefix says what is wrong with the text, if something is.
func parsePrefix(text string) (p netip.Prefix, fault string) {
	p, err := netip.ParsePrefix(text)
	if a, e := netip.ParseAddr(text); e == nil && a.Zone() == "" {
		p, err = netip.PrefixFrom(a, a.BitLen()), nil
	}
	switch {
	case err != nil:
		return p, fmt.Sprintf("expected an address or a prefix such as 192.0.2.0/24 or 2001:db8::/32, found %s", quote(text))
	case p.Addr().Is4In6():
		return p, fmt.Sprintf("%s is an IPv4-mapped address, write it as IPv4", text)
	case p.Masked() != p:
		return p, fmt.Sprintf("%s has ones after its prefix, write %s", p, p.Masked())
	}
	return p, ""
}
