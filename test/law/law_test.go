// SPDX-License-Identifier: Apache-2.0

package law

import (
	"io/fs"
	"os"
	"testing"
)

// module is the root of this module.
func module(t *testing.T) fs.FS {
	t.Helper()
	const root = "../.."
	if _, err := os.Stat(root + "/go.mod"); err != nil {
		t.Fatal(err)
	}
	return os.DirFS(root)
}

func report(t *testing.T, violations []Violation, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range violations {
		t.Error(v)
	}
}

func TestImportLaw(t *testing.T) {
	violations, err := DirectorLaw.Imports(module(t))
	report(t, violations, err)
}

func TestFunctionSizes(t *testing.T) {
	violations, err := Sizes(module(t), MaxFunctionLines)
	report(t, violations, err)
}

func TestLicenceHeaders(t *testing.T) {
	violations, err := Headers(module(t))
	report(t, violations, err)
}

// TestEverythingIsSeen keeps the tests above from passing because they look at nothing.
func TestEverythingIsSeen(t *testing.T) {
	files, functions := 0, 0
	err := eachFile(module(t), func(name string, text []byte) error {
		files++
		found, err := functionsOf(name, text)
		functions += len(found)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	imports, err := allImports(module(t))
	if err != nil {
		t.Fatal(err)
	}
	if files < 200 || functions < 1000 || len(imports) < 300 {
		t.Errorf("saw %d files, %d functions, %d imports: too few to be this module", files, functions, len(imports))
	}
}
