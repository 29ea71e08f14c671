// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"path/filepath"
	"testing"

	"github.com/cilium/ebpf"
)

// TestObjectsLoad: the running kernel accepts every program of every object.
func TestObjectsLoad(t *testing.T) {
	needRoot(t)
	files, err := filepath.Glob("*_bpfel.o")
	if err != nil || len(files) < 2 {
		t.Fatalf("objects are %v (%v), want those of the director and of the benchmarks at least", files, err)
	}
	for _, file := range files {
		t.Run(file, func(t *testing.T) {
			spec := need(ebpf.LoadCollectionSpec(file))(t)
			clear(spec.Variables) // or they are mapped, until the collector comes
			objects, err := ebpf.NewCollection(spec)
			if err != nil {
				t.Fatalf("%+v", err) // with the verifier's whole log
			}
			defer objects.Close()
			if len(objects.Programs) == 0 {
				t.Error("it has no program")
			}
		})
	}
}
