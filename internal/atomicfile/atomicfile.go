// SPDX-License-Identifier: Apache-2.0

// Package atomicfile replaces files in one step: who reads one finds the former content or the new
// one, whatever ends the writer or the machine in between.
package atomicfile

import (
	"errors"
	"os"
	"path/filepath"
)

// Write makes text the content of a file that only its owner may read and write.
func Write(path string, text []byte) error { return write(path, text, 0o600) }

func write(path string, text []byte, mode os.FileMode) error {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return syncDir(dir)
}

// syncDir makes the new name last over a loss of power.
func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// Replace is Write for a file that may be there, and keeps who may read and write it. A link to it stays one.
func Replace(path string, text []byte) error {
	target, err := filepath.EvalSymlinks(path)
	if err != nil {
		return err
	}
	info, err := os.Stat(target)
	if err != nil {
		return err
	}
	return write(target, text, info.Mode().Perm())
}
