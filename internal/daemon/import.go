// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"fmt"

	"xdplvs/configs"
	"xdplvs/internal/importer"
)

// ImportFormats are the configurations of other directors that Import knows.
func ImportFormats() []string { return importer.Formats() }

// Import reads a configuration of another director: the services as our file has them, and a line for
// each line that is not carried over.
func Import(format, file string) (text []byte, notes []string, err error) {
	source, err := configs.Read(file)
	if err != nil {
		return nil, nil, err
	}
	r, err := importer.Import(format, source)
	if err != nil {
		return nil, nil, err
	}
	for _, n := range r.Notes {
		notes = append(notes, fmt.Sprintf("%s:%d: not carried over: %s: %s", file, n.Line, n.Text, n.Why))
	}
	return r.File(), notes, nil
}
