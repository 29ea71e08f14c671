// SPDX-License-Identifier: Apache-2.0

package stage

import (
	"strings"
	"testing"
)

func TestColourChangesNoText(t *testing.T) {
	var plain, colourful strings.Builder
	for s := range map[*Screen]bool{{out: &plain}: true, {out: &colourful, colour: true}: true} {
		s.Step("Title", "Sentence.")
		s.Command("director list", "output\n")
		s.Block(s.Mark(Green, "####"))
	}
	if !strings.Contains(colourful.String(), "\x1b[1m# director list\x1b[0m") {
		t.Errorf("no colour: %q", colourful.String())
	}
	bare := strings.NewReplacer("\x1b["+Bold+"m", "", "\x1b["+Green+"m", "", "\x1b["+cyan+"m", "", "\x1b[0m", "").Replace(colourful.String())
	if bare != plain.String() {
		t.Errorf("without colours:\n%s\nwant:\n%s", bare, plain.String())
	}
}
