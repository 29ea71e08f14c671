// SPDX-License-Identifier: Apache-2.0

package healthcheck

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// FileOptions are those of a check of a file on the director, by which people and programs take servers
// out of service.
type FileOptions struct {
	// Path is absolute; {address} and {port} stand for the real server's, so that one check does for a
	// directory of flags.
	Path string
	// Mode is what the file means:
	//
	//   - maintenance: where it is, the server is flagged; its first line is told as the reason.
	//   - required: where it is not, the server is flagged.
	//   - weight: its first line is a factor, 0 to 100; without the file it is 100.
	//
	// "": maintenance.
	Mode string
	// Down says that a flagged server is down. Otherwise it drains.
	Down bool
}

type fileChecker struct {
	identity
	FileOptions
}

const (
	fileMaintenance = "maintenance"
	fileRequired    = "required"
	fileWeight      = "weight"
)

// NewFile is a checker of a file.
func NewFile(o FileOptions) (Checker, error) {
	m := mistakes{kind: "file"}
	c := &fileChecker{identify("file", o), o}
	c.Mode = orElse(o.Mode, fileMaintenance)
	m.known("mode", c.Mode, fileMaintenance, fileRequired, fileWeight)
	if !filepath.IsAbs(o.Path) {
		m.add("path", "%q is no absolute path", o.Path)
	}
	if c.Mode == fileWeight && o.Down {
		m.add("down", "a weight flags nothing")
	}
	return c, m.err()
}

// Check is Checker's.
func (c *fileChecker) Check(ctx context.Context, t Target) Result {
	return run(ctx, t, func(p *probe) (Result, error) {
		path := t.expand(c.Path)
		line, err := firstLine(path)
		missing := errors.Is(err, fs.ErrNotExist)
		if err != nil && !missing {
			return Result{}, unsent("%s: %s", path, startError(err))
		}
		switch {
		case c.Mode == fileWeight && !missing:
			return weightOf(path, line)
		case c.Mode == fileMaintenance && !missing:
			return Result{}, c.flagged("%s is there%s", path, line)
		case c.Mode == fileRequired && missing:
			return Result{}, c.flagged("%s is not there", path)
		case missing:
			return good(L7OK, "%s is not there", path), nil
		default:
			return good(L7OK, "%s is there", path), nil
		}
	})
}

func (c *fileChecker) flagged(format string, args ...any) error {
	if c.Down {
		return fail(L7STS, 0, format, args...)
	}
	return draining(L7STS, 0, format, args...)
}

// weightOf reads a factor. A file that is being written says nothing.
func weightOf(path, line string) (Result, error) {
	text := strings.TrimSuffix(strings.TrimPrefix(line, ": "), "%")
	factor, err := strconv.Atoi(strings.TrimSpace(text))
	if err != nil || factor < 0 || factor > 100 {
		return Result{}, unsent("%s: %s is no factor between 0 and 100", path, excerpt(text))
	}
	r := good(L7OK, "%s: %d %%", path, factor)
	r.Factor = factor
	return r, nil
}

// firstLine gives the first line of a file as a continuation of a text. Only regular files are read:
// others might block.
func firstLine(path string) (string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	if !info.Mode().IsRegular() {
		return "", nil
	}
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := &head{room: maxExcerpt}
	if _, err := io.CopyN(h, f, maxExcerpt); err != nil && err != io.EOF {
		return "", fmt.Errorf("read: %w", err)
	}
	return h.firstLine(), nil
}
