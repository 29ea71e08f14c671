// SPDX-License-Identifier: Apache-2.0

// Package configs reads the director's YAML file: strictly, with every error at
// its line and column, all at once, and into the types of package director.
//
// The way of a file: syntax.go makes one tree of nodes from the text, the tables
// of objects.go say which keys each object has and of what kind, kinds.go reads
// the values, build.go checks what holds between values and makes a Config. A new
// key is one line in a table, and a line in build.go that uses it. available.go
// lists what this version of the director can do.
//
// A file is one YAML document. Anchors, aliases and merge keys (<<) work; keys of
// the file's top level that begin with x- are ignored, and are the place for
// anchors. Numbers are plain decimals, truth values are true and false only; a
// list or a group of settings that is left empty counts as absent.
package configs
