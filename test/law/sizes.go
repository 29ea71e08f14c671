// SPDX-License-Identifier: Apache-2.0

package law

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"strings"
)

// Sizes finds the functions of more than limit lines, from the first of the declaration to the
// closing brace, in Go and in C.
func Sizes(root fs.FS, limit int) (violations []Violation, err error) {
	err = eachFile(root, func(name string, text []byte) error {
		functions, err := functionsOf(name, text)
		for _, f := range functions {
			if lines := f.last - f.first + 1; lines > limit {
				violations = append(violations, Violation{name, f.first,
					fmt.Sprintf("%s has %d lines, more than %d", f.name, lines, limit)})
			}
		}
		return err
	})
	return violations, err
}

// function is where one lies in its file; lines count from 1.
type function struct {
	name        string
	first, last int
}

func functionsOf(name string, text []byte) ([]function, error) {
	switch path.Ext(name) {
	case ".go":
		return goFunctions(name, text)
	case ".c", ".h":
		return cFunctions(text), nil
	default:
		return nil, nil
	}
}

func goFunctions(name string, text []byte) (functions []function, err error) {
	files := token.NewFileSet()
	parsed, err := parser.ParseFile(files, name, text, parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	for _, d := range parsed.Decls {
		if f, ok := d.(*ast.FuncDecl); ok {
			functions = append(functions, function{f.Name.Name, files.Position(f.Pos()).Line, files.Position(f.End()).Line})
		}
	}
	return functions, nil
}

// cFunctions finds blocks that follow a parenthesis and are in no other block. It knows no
// preprocessor: in both branches of an #if braces must balance.
func cFunctions(text []byte) (functions []function) {
	var f function
	line, depth, begun := 1, 0, 0 // begun: where the declaration begins
	head := ""                    // the declaration so far
	for _, c := range blankC(text) {
		switch {
		case c == '\n':
			line++
		case c == '{':
			if depth == 0 {
				f = function{name: cName(head), first: begun}
			}
			depth++
		case c == '}':
			if depth--; depth == 0 {
				if f.last = line; f.name != "" {
					functions = append(functions, f)
				}
				head = ""
			}
			continue
		case c == ';' && depth == 0:
			head = ""
			continue
		}
		if depth == 0 {
			if strings.TrimSpace(head) == "" {
				begun = line
			}
			head += string(c)
		}
	}
	return functions
}

// cName is the name in front of the first parenthesis, or nothing for what is no function.
func cName(head string) string {
	head = strings.TrimSpace(head)
	name, _, ok := strings.Cut(head, "(")
	if !ok || strings.Contains(head, "=") {
		return ""
	}
	fields := strings.Fields(strings.ReplaceAll(name, "*", " "))
	if len(fields) == 0 {
		return ""
	}
	if name := fields[len(fields)-1]; name != "SEC" {
		return name
	}
	_, rest, _ := strings.Cut(head, ")") // SEC("xdp") int name(...
	return cName(rest)
}

// blankC replaces comments, texts and preprocessor lines by blanks; lines stay lines.
func blankC(text []byte) []byte {
	out := bytes.Clone(text)
	blank := func(from, to int) {
		for i := from; i < to; i++ {
			if out[i] != '\n' {
				out[i] = ' '
			}
		}
	}
	for i := 0; i < len(text); {
		end := i + foreignC(text, i)
		if end == i {
			i++
			continue
		}
		blank(i, end)
		i = end
	}
	return out
}

// foreignC is the length of the comment, text or preprocessor line that begins at i, or 0.
func foreignC(text []byte, i int) int {
	rest := text[i:]
	switch {
	case bytes.HasPrefix(rest, []byte("/*")):
		return upTo(rest, 2, "*/")
	case bytes.HasPrefix(rest, []byte("//")):
		return upTo(rest, 2, "\n") - 1
	case rest[0] == '"' || rest[0] == '\'':
		return quotedLength(rest)
	case rest[0] == '#' && len(bytes.TrimSpace(text[bytes.LastIndexByte(text[:i], '\n')+1:i])) == 0:
		return directiveLength(rest)
	default:
		return 0
	}
}

// upTo is the length up to and with the end mark, or of all.
func upTo(text []byte, from int, end string) int {
	at := bytes.Index(text[from:], []byte(end))
	if at < 0 {
		return len(text)
	}
	return from + at + len(end)
}

func quotedLength(text []byte) int {
	for i := 1; i < len(text); i++ {
		switch text[i] {
		case '\\':
			i++
		case text[0], '\n':
			return i + 1
		}
	}
	return len(text)
}

// directiveLength covers the lines that a backslash continues.
func directiveLength(text []byte) int {
	for i := 1; i < len(text); i++ {
		if text[i] == '\n' && text[i-1] != '\\' {
			return i
		}
	}
	return len(text)
}
