// SPDX-License-Identifier: Apache-2.0

package law

import (
	"fmt"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
)

// importing is one import declaration.
type importing struct {
	file string
	line int
	dir  string // of the importing package
	path string // of the imported one
}

// Imports checks every Go file of the module, whatever it is built for, test files excepted.
func (l *Law) Imports(root fs.FS) ([]Violation, error) {
	imports, err := allImports(root)
	if err != nil {
		return nil, err
	}
	var violations []Violation
	for _, i := range imports {
		if text := l.judge(i); text != "" {
			violations = append(violations, Violation{i.file, i.line, text})
		}
	}
	return violations, nil
}

func allImports(root fs.FS) (imports []importing, err error) {
	err = eachFile(root, func(name string, text []byte) error {
		if path.Ext(name) != ".go" || strings.HasSuffix(name, "_test.go") {
			return nil
		}
		files := token.NewFileSet()
		parsed, err := parser.ParseFile(files, name, text, parser.ImportsOnly)
		if err != nil {
			return err
		}
		for _, spec := range parsed.Imports {
			imported, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return fmt.Errorf("%s: import %s: %w", name, spec.Path.Value, err)
			}
			imports = append(imports, importing{name, files.Position(spec.Pos()).Line, path.Dir(name), imported})
		}
		return nil
	})
	return imports, err
}

// judge says what is wrong with an import, or nothing.
func (l *Law) judge(i importing) string {
	if own, ok := strings.CutPrefix(i.path, Module+"/"); ok {
		return l.judgeOwn(i.dir, own)
	}
	if isStandard(i.path) {
		return l.judgeStandard(i)
	}
	library, ok := longest(l.Libraries, i.path)
	if !ok {
		return fmt.Sprintf("%s imports %s, which no line of the import law names (test/law/rules.go)", i.dir, i.path)
	}
	allowed := l.Libraries[library]
	if slices.Contains(allowed, ".") || within(i.dir, allowed) {
		return ""
	}
	return fmt.Sprintf("%s imports %s, which only %s may", i.dir, i.path, strings.Join(allowed, ", "))
}

func (l *Law) judgeOwn(dir, imported string) string {
	line, ok := longest(l.Own, dir)
	if !ok {
		return fmt.Sprintf("%s has no line in the import law (test/law/rules.go)", dir)
	}
	if within(imported, []string{line}) || within(imported, l.Own[line]) {
		return ""
	}
	allowed := strings.Join(l.Own[line], ", ")
	if allowed == "" {
		allowed = "nothing of ours"
	}
	return fmt.Sprintf("%s imports %s; it may import %s", dir, imported, allowed)
}

func (l *Law) judgeStandard(i importing) string {
	if within(i.dir, l.Pure) && slices.Contains(l.World, i.path) {
		return fmt.Sprintf("%s imports %s; it is pure", i.dir, i.path)
	}
	return ""
}

// isStandard: paths of other modules begin with a host name.
func isStandard(imported string) bool {
	first, _, _ := strings.Cut(imported, "/")
	return !strings.Contains(first, ".")
}

// within tells whether a path is one of those, or lies below.
func within(name string, tops []string) bool {
	return slices.ContainsFunc(tops, func(top string) bool {
		return name == top || strings.HasPrefix(name, top+"/")
	})
}

// longest returns the key that name equals or lies below, the longest if there are several.
func longest(lines map[string][]string, name string) (key string, ok bool) {
	for k := range lines {
		if within(name, []string{k}) && (!ok || len(k) > len(key)) {
			key, ok = k, true
		}
	}
	return key, ok
}
