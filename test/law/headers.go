// SPDX-License-Identifier: Apache-2.0

package law

import (
	"bytes"
	"fmt"
	"io/fs"
	"path"
	"regexp"
)

// spdx finds the licence in a comment of any kind.
var spdx = regexp.MustCompile(`(?m)^(?://|#|/\*) SPDX-License-Identifier: (.+?)(?: \*/)?$`)

// headerLines is how far down the licence may stand, behind #! or a build constraint.
const headerLines = 3

// Headers finds the files that name no licence at their head, or not that of their kind. Generated
// files are spared.
func Headers(root fs.FS) (violations []Violation, err error) {
	err = eachFile(root, func(name string, text []byte) error {
		want := licenceOf(name, text)
		head := firstLines(text, headerLines)
		if want == "" || bytes.Contains(head, []byte("DO NOT EDIT")) {
			return nil
		}
		found := spdx.FindSubmatch(head)
		switch {
		case found == nil:
			violations = append(violations, Violation{name, 1, "names no licence: SPDX-License-Identifier: " + want})
		case string(found[1]) != want:
			violations = append(violations, Violation{name, 1, fmt.Sprintf("names the licence %s, want %s", found[1], want)})
		}
		return nil
	})
	return violations, err
}

// licenceOf is the licence of a kind of file, nothing for what carries none, as texts and data.
func licenceOf(name string, text []byte) string {
	switch path.Ext(name) {
	case ".c", ".h":
		return bpf
	case ".go", ".sh", ".yaml", ".yml":
		return apache
	}
	if path.Base(name) == "Makefile" || bytes.HasPrefix(text, []byte("#!")) {
		return apache
	}
	return ""
}

func firstLines(text []byte, n int) []byte {
	end := 0
	for range n {
		at := bytes.IndexByte(text[end:], '\n')
		if at < 0 {
			return text
		}
		end += at + 1
	}
	return text[:end]
}
