// SPDX-License-Identifier: Apache-2.0

package importer

import "strings"

// statement is a line of a configuration in blocks, and what is in its braces.
type statement struct {
	line  int
	words []string
	block []*statement
	has   bool // braces
}

// word is the i-th word; "" if there are fewer.
func (s *statement) word(i int) string {
	if i >= len(s.words) {
		return ""
	}
	return s.words[i]
}

// maxDepth is deeper than any configuration is.
const maxDepth = 32

// blocks reads statements of one line each, with braces at the end of a line or on lines of their own.
// Comments begin with one of these characters; expand replaces words.
func (b *builder) blocks(comments string, expand func(line int, words []string) []string) []*statement {
	top := &statement{}
	open := []*statement{top}
	var last *statement
	for i, text := range b.lines {
		for _, word := range expand(i+1, wordsOf(text, comments)) {
			inner := open[len(open)-1]
			switch {
			case word == "{" && last != nil && len(open) < maxDepth:
				last.has = true
				open = append(open, last)
				last = nil
			case word == "{":
				b.note(i+1, "a brace without a word before it")
			case word == "}" && len(open) == 1:
				b.note(i+1, "a brace that closes nothing")
			case word == "}":
				open, last = open[:len(open)-1], nil
			case last == nil || last.line != i+1:
				last = &statement{line: i + 1, words: []string{word}}
				inner.block = append(inner.block, last)
			default:
				last.words = append(last.words, word)
			}
		}
	}
	if len(open) > 1 {
		b.note(open[len(open)-1].line, "its brace is not closed")
	}
	return top.block
}

// wordsOf splits a line at blanks; what is in quotes is one word, braces are words of their own.
func wordsOf(line, comments string) (words []string) {
	for line != "" {
		line = strings.TrimLeft(line, " \t")
		switch {
		case line == "" || strings.ContainsRune(comments, rune(line[0])):
			return words
		case line[0] == '"' || line[0] == '\'':
			inside, rest, _ := strings.Cut(line[1:], line[:1])
			words, line = append(words, inside), rest
		case line[0] == '{' || line[0] == '}':
			words, line = append(words, line[:1]), line[1:]
		default:
			end := strings.IndexAny(line, " \t{}\"'"+comments)
			if end < 0 {
				end = len(line)
			}
			words, line = append(words, line[:end]), line[end:]
		}
	}
	return words
}
