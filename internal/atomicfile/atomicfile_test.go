// SPDX-License-Identifier: Apache-2.0

package atomicfile

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// mustHave fails unless the file has the text and mode, and its directory nothing else.
func mustHave(t *testing.T, path, text string, mode os.FileMode) {
	t.Helper()
	have, err := os.ReadFile(path)
	must(t, err)
	info, err := os.Lstat(path)
	must(t, err)
	if string(have) != text || info.Mode() != mode {
		t.Errorf("%s has %q and mode %v, want %q and %v", path, have, info.Mode(), text, mode)
	}
	entries, err := os.ReadDir(filepath.Dir(path))
	must(t, err)
	if len(entries) != 1 {
		t.Errorf("beside %s there are %v", path, entries)
	}
}

func TestWrite(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	for _, text := range []string{"first", "", "a longer one"} {
		must(t, Write(path, []byte(text)))
		mustHave(t, path, text, 0o600)
	}
	must(t, os.Chmod(path, 0o666)) // Write is for files that nobody else is to read
	must(t, Write(path, []byte("secret")))
	mustHave(t, path, "secret", 0o600)
}

// Replace keeps who may read the file, and a link to it.
func TestReplace(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := Replace(path, nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("of a file that is not there: %v", err)
	}
	for _, mode := range []os.FileMode{0o644, 0o400, 0o640} {
		must(t, os.WriteFile(path, []byte("former"), 0o600))
		must(t, os.Chmod(path, mode))
		must(t, Replace(path, []byte("new")))
		mustHave(t, path, "new", mode)
		must(t, os.Remove(path))
	}
	must(t, os.WriteFile(path, []byte("former"), 0o644))
	link := filepath.Join(t.TempDir(), "link")
	must(t, os.Symlink(path, link))
	must(t, Replace(link, []byte("by the link")))
	mustHave(t, path, "by the link", 0o644)
	if target, err := os.Readlink(link); err != nil || target != path {
		t.Errorf("the link leads to %q, %v", target, err)
	}
}

// Who reads while it is replaced finds one of the texts, whole.
func TestReadersSeeWhole(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	texts := map[string]bool{strings.Repeat("a", 1<<16): true, strings.Repeat("b", 1<<10): true}
	write := func() {
		for text := range texts {
			must(t, Write(path, []byte(text)))
		}
	}
	write()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 200 {
			if text, err := os.ReadFile(path); err != nil || !texts[string(text)] {
				t.Errorf("read %d bytes, %v", len(text), err)
			}
		}
	}()
	for range 50 {
		write()
	}
	<-done
}

// What a writer left that was killed before the last step is nobody's file: the former text is there.
func TestKilledWriter(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	must(t, Write(path, []byte("former")))
	must(t, os.WriteFile(path+".123456", []byte("ha"), 0o600))
	if text, err := os.ReadFile(path); err != nil || string(text) != "former" {
		t.Errorf("after the crash there is %q, %v", text, err)
	}
	must(t, Write(path, []byte("next")))
	if text, err := os.ReadFile(path); err != nil || string(text) != "next" {
		t.Errorf("the next writer left %q, %v", text, err)
	}
}

// On a full disk, or in a directory that cannot be written, the former text stays, and nothing is left beside it.
func TestFullDisk(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: a small file system is mounted")
	}
	dir := t.TempDir()
	if err := unix.Mount("small", dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Skipf("cannot mount a tmpfs: %v", err)
	}
	t.Cleanup(func() { must(t, unix.Unmount(dir, unix.MNT_DETACH)) })
	path := filepath.Join(dir, "file")
	must(t, Write(path, []byte("former")))
	if err := Write(path, make([]byte, 1<<20)); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("1 MiB on 64 KiB: %v", err)
	}
	mustHave(t, path, "former", 0o600)
	if err := Write(filepath.Join(dir, "missing", "file"), nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("in a directory that is not there: %v", err)
	}
	must(t, os.Mkdir(filepath.Join(dir, "taken"), 0o700))
	if err := Write(filepath.Join(dir, "taken"), []byte("x")); err == nil {
		t.Error("a directory was replaced by a file")
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "taken.*")); len(left) > 0 {
		t.Errorf("left are %v", left)
	}
}
