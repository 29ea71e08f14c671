// SPDX-License-Identifier: Apache-2.0

// Command manual writes a manual page for each command of director: manual DIRECTORY.
//
// SOURCE_DATE_EPOCH is the date that they bear, so that the same sources give the same pages.
package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra/doc"

	"xdplvs/internal/cli"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: manual DIRECTORY")
		os.Exit(2)
	}
	if err := write(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "manual:", err)
		os.Exit(1)
	}
}

func write(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	root := cli.Command()
	root.DisableAutoGenTag = true
	header := &doc.GenManHeader{Section: "1", Source: "director", Manual: "Layer-4 director"}
	if err := doc.GenManTree(root, header, dir); err != nil {
		return fmt.Errorf("write manual pages: %w", err)
	}
	return nil
}
