// SPDX-License-Identifier: Apache-2.0

package configs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"gopkg.in/yaml.v3"
)

// document is one file while it is read, and what is wrong with it.
type document struct {
	file string
	errs Errors
}

func (d *document) fail(line, column int, path, message string) {
	d.errs = append(d.errs, Error{d.file, line, column, path, message})
}

// report is nil if nothing is wrong.
func (d *document) report() error {
	if len(d.errs) == 0 {
		return nil
	}
	errs := d.errs.sorted()
	return &errs
}

// parse finds the top of a file's one document, or fails.
func (d *document) parse(data []byte) (top cursor, ok bool) {
	switch {
	case len(data) > MaxFileSize:
		d.fail(0, 0, "", fmt.Sprintf("file is larger than %d MiB", MaxFileSize>>20))
		return cursor{}, false
	case bytes.HasPrefix(data, []byte("\xff\xfe")), bytes.HasPrefix(data, []byte("\xfe\xff")):
		d.fail(1, 1, "", "file is in UTF-16, only UTF-8 is read")
		return cursor{}, false
	}
	node := d.onlyDocument(data)
	return cursor{&path{doc: d}, node}, node != nil
}

func (d *document) onlyDocument(data []byte) *yaml.Node {
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	first, err := nextDocument(decoder)
	if err == nil && isNull(first.Content[0]) || errors.Is(err, io.EOF) {
		d.fail(1, 1, "", "file is empty (at least interfaces is needed)")
		return nil
	}
	second := (*yaml.Node)(nil)
	if err == nil {
		second, err = nextDocument(decoder)
	}
	if err != nil && !errors.Is(err, io.EOF) {
		d.syntaxError(decoder, data, err)
		return nil
	}
	if second != nil {
		d.fail(second.Line, second.Column, "", "a second YAML document begins here, a file has only one")
		return nil
	}
	return first.Content[0]
}

// nextDocument turns a panic into an error: yaml.v3 still has some that mean
// "please report", and nobody does, for it is archived.
func nextDocument(decoder *yaml.Decoder) (node *yaml.Node, err error) {
	defer func() {
		if p := recover(); p != nil {
			node, err = nil, fmt.Errorf("yaml: %v", p)
		}
	}()
	node = new(yaml.Node)
	if err := decoder.Decode(node); err != nil {
		return nil, err
	}
	return node, nil
}

var yamlPrefix = regexp.MustCompile(`^yaml: (?:line (\d+): )?`)

func (d *document) syntaxError(decoder *yaml.Decoder, data []byte, err error) {
	problem := yamlPrefix.ReplaceAllString(err.Error(), "")
	s := stopped(decoder, problem)
	if s.offset >= 0 {
		s.at = position(data, s.offset)
		if !utf8.Valid(data) {
			problem = "text is not UTF-8, " + problem
		}
	}
	switch {
	case s.at.line == 0: // not told, then yaml.v3's own line must do
		s.at = mark{1, 1}
		if m := yamlPrefix.FindStringSubmatch(err.Error()); m != nil && m[1] != "" {
			s.at.line, _ = strconv.Atoi(m[1])
		}
	case tabIndented(data, s.at.line):
		problem = "a tab in the indentation, YAML indents with spaces only"
	case problem == "could not find expected ':'", problem == "found unexpected end of stream":
		s.at = s.begin // the end of what was begun is missing
		problem += " (" + s.context + ")"
	case s.context != "":
		problem += fmt.Sprintf(" (%s from line %d)", s.context, s.begin.line)
	}
	d.fail(s.at.line, s.at.column, "", "invalid YAML: "+problem)
}

// mark is a place in a file, counted from 1; line 0 means that it is not known.
type mark struct{ line, column int }

// stop is where the YAML parser gave up.
type stop struct {
	at      mark
	offset  int    // in bytes, of something that is no character; else -1
	context string // as in "while parsing a block mapping"
	begin   mark   // of the context
}

// stopped looks for the position inside yaml.v3's parser. The text of its errors
// has no column, and for parser errors the line before the one of the enclosing
// mapping's begin: for a slip on line 500 it says line 3. TestSyntaxPositions
// holds this; it can go when another library tells the position.
func stopped(decoder *yaml.Decoder, problem string) stop {
	parser := inside(reflect.ValueOf(decoder), "parser", "parser")
	if strings.HasPrefix(problem, "unknown anchor") {
		return stop{at: markOf(inside(reflect.ValueOf(decoder), "parser", "event", "start_mark")), offset: -1}
	}
	if integer(inside(parser, "error")) == readerError {
		return stop{offset: integer(inside(parser, "problem_offset"))}
	}
	s := stop{at: markOf(inside(parser, "problem_mark")), offset: -1, begin: markOf(inside(parser, "context_mark"))}
	if c := inside(parser, "context"); c.Kind() == reflect.String {
		s.context = c.String()
	}
	return s
}

// readerError is yaml.v3's yaml_READER_ERROR: bytes that are no text.
const readerError = 2

// inside follows names of fields, through pointers. It is invalid where there is none.
func inside(v reflect.Value, names ...string) reflect.Value {
	for _, name := range names {
		if v.Kind() == reflect.Pointer {
			v = v.Elem()
		}
		if v.Kind() != reflect.Struct {
			return reflect.Value{}
		}
		v = v.FieldByName(name)
	}
	return v
}

// integer is 0 if v is none.
func integer(v reflect.Value) int {
	if !v.IsValid() || !v.CanInt() {
		return 0
	}
	return int(v.Int())
}

// markOf reads a yaml_mark_t, which counts from 0.
func markOf(v reflect.Value) mark {
	if !v.IsValid() {
		return mark{}
	}
	return mark{integer(inside(v, "line")) + 1, integer(inside(v, "column")) + 1}
}

// position is where a byte is.
func position(data []byte, offset int) mark {
	before := data[:min(offset, len(data))]
	start := bytes.LastIndexByte(before, '\n') + 1
	return mark{bytes.Count(before, []byte("\n")) + 1, utf8.RuneCount(before[start:]) + 1}
}

// tabIndented tells whether a line, counted from 1, has a tab before its text.
func tabIndented(data []byte, line int) bool {
	for range line - 1 {
		_, data, _ = bytes.Cut(data, []byte("\n"))
	}
	text := bytes.TrimLeft(data, " ")
	return len(text) > 0 && text[0] == '\t'
}
