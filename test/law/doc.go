// SPDX-License-Identifier: Apache-2.0

// Package law holds the rules about the source text that no compiler knows: who imports whom
// (imports.go, rules.go), how long a function may be (sizes.go), which licence a file names
// (headers.go). Its tests run them on this module.
package law

import (
	"fmt"
	"io/fs"
	"path"
	"strings"
)

// Violation is a place that breaks a rule.
type Violation struct {
	File string // below the module's root
	Line int
	Text string
}

// String is file:line: text.
func (v Violation) String() string { return fmt.Sprintf("%s:%d: %s", v.File, v.Line, v.Text) }

// eachFile calls fn with the files of the module that people write. What lies in build, testdata and
// hidden directories is not theirs, .ci excepted.
func eachFile(root fs.FS, fn func(name string, text []byte) error) error {
	return fs.WalkDir(root, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && isForeign(name) {
			return fs.SkipDir
		}
		if !d.Type().IsRegular() {
			return nil
		}
		text, err := fs.ReadFile(root, name)
		if err != nil {
			return err
		}
		return fn(name, text)
	})
}

func isForeign(dir string) bool {
	base := path.Base(dir)
	switch {
	case dir == "." || dir == ".ci":
		return false
	case dir == "build" || base == "testdata":
		return true
	default:
		return strings.HasPrefix(base, ".") || strings.HasPrefix(base, "_")
	}
}
