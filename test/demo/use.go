// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"os"

	"xdplvs/test/stage"
	"xdplvs/test/uses"
)

// play plays a use, by the name of a forwarding method or by that of its configuration.
func play(ctx context.Context, cancel context.CancelCauseFunc, director, name, method string) error {
	use, err := uses.Find(name)
	if err != nil {
		return err
	}
	by, err := use.Method(method)
	if err != nil {
		return err
	}
	if err := stage.RemoveStale(prefix); err != nil {
		return err
	}
	screen := stage.NewScreen(os.Stdout, cancel)
	err = uses.Play(ctx, use, by, uses.Options{Prefix: prefix, Binary: director, Configs: "configs", Plots: "build", Screen: screen, Fail: cancel})
	if err == nil {
		screen.Text("\nEverything is removed again: processes, namespaces, pinned maps, files.\n")
	}
	return err
}
