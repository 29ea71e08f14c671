// SPDX-License-Identifier: Apache-2.0

package uses

import (
	"context"
	"fmt"
	"net/netip"
	"regexp"
	"slices"

	"xdplvs/internal/programs"
)

// greeting tells who has greeted, in what curl shows of a conversation.
var greeting = regexp.MustCompile(`(?m)^< (?:\* |\+)OK.* (rs[0-9]+) ready`)

// tellBoxes has clients that look for mail, in all four ways.
func (f *mailFarm) tellBoxes(ctx context.Context) error {
	f.Screen.Step("Mailboxes are read", "By IMAP and POP3, with STARTTLS and TLS: each client finds one server, whatever it asks by.")
	return f.eachVIP(func(vip netip.Addr) error {
		readers, err := clients(f.Client, vip, 6)
		if err != nil {
			return err
		}
		var homes []string
		for _, reader := range readers {
			home, err := f.homeOfReader(ctx, vip, reader)
			if err != nil {
				return err
			}
			f.Screen.Block(fmt.Sprintf("%-16v %s", reader, home))
			homes = append(homes, home)
		}
		slices.Sort(homes)
		if n := len(slices.Compact(homes)); n != len(f.Reals) {
			return fmt.Errorf("%d clients are at %d servers", len(readers), n)
		}
		return nil
	})
}

// homeOfReader reads by all protocols, and fails if not always the same server answers.
func (f *mailFarm) homeOfReader(ctx context.Context, vip, reader netip.Addr) (home string, err error) {
	for _, scheme := range []string{"imap", "imaps", "pop3", "pop3s"} {
		out, err := curl(ctx, f.Client, "--stderr", "-", "-v", "--ssl-reqd", "--interface", reader.String(),
			"--user", programs.MailUser+":"+programs.Password, url(scheme, vip, "/"))
		if err != nil {
			return "", err
		}
		m := greeting.FindStringSubmatch(out)
		switch {
		case m == nil:
			return "", fmt.Errorf("nobody greets:\n%s", out)
		case home != "" && m[1] != home:
			return "", fmt.Errorf("%v is at %s by %s, elsewhere at %s", reader, m[1], scheme, home)
		}
		home = m[1]
	}
	return home, nil
}
