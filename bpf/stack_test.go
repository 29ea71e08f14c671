// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"fmt"
	"strings"
	"testing"

	"github.com/cilium/ebpf/asm"
)

// stackFrame is what a function of a program keeps on the stack, and whom it calls.
type stackFrame struct {
	bytes int
	calls map[string]bool
}

// Linux 6.1 lets the functions of a call chain have 512 bytes together, each
// rounded up to 32; newer ones round to 16.
const (
	stackLimit = 512
	stackRound = 32
)

// TestStackOfOldKernels: the programs' call chains fit the stack of the oldest kernel that they are for.
func TestStackOfOldKernels(t *testing.T) {
	spec, err := loadDirector()
	must(t, err)
	for name, program := range spec.Programs {
		frames := stackFrames(program.Instructions)
		if depth, chain := deepest(frames, program.Instructions[0].Symbol(), nil); depth > stackLimit {
			t.Errorf("program %s: %d bytes of stack, by\n%s", name, depth, strings.Join(chain, "\n"))
		}
	}
}

func stackFrames(code asm.Instructions) map[string]*stackFrame {
	frames := map[string]*stackFrame{}
	var f *stackFrame
	fromTop := map[asm.Register]bool{} // registers that hold the frame pointer
	for _, i := range code {
		if s := i.Symbol(); s != "" && (f == nil || !strings.HasPrefix(s, "LBB")) {
			f = &stackFrame{calls: map[string]bool{}}
			frames[s] = f
		}
		if i.IsFunctionReference() {
			f.calls[i.Reference()] = true
		}
		op := i.OpCode
		switch {
		case op.Class().IsLoad() && i.Src == asm.RFP, op.Class().IsStore() && i.Dst == asm.RFP:
			f.bytes = max(f.bytes, -int(i.Offset))
		case op.Class().IsALU() && op.ALUOp() == asm.Mov && op.Source() == asm.RegSource:
			fromTop[i.Dst] = i.Src == asm.RFP
		case op.Class().IsALU() && op.ALUOp() == asm.Add && op.Source() == asm.ImmSource && fromTop[i.Dst]:
			f.bytes = max(f.bytes, -int(i.Constant))
			fromTop[i.Dst] = false
		}
	}
	return frames
}

// deepest is the chain of calls from a function that takes most.
func deepest(frames map[string]*stackFrame, name string, callers []string) (depth int, chain []string) {
	f := frames[name]
	if f == nil || len(callers) > 8 {
		return 0, nil
	}
	for callee := range f.calls {
		if d, c := deepest(frames, callee, append(callers, name)); d > depth {
			depth, chain = d, c
		}
	}
	own := max(stackRound, (f.bytes+stackRound-1)/stackRound*stackRound)
	return depth + own, append([]string{fmt.Sprintf("%s: %d", name, f.bytes)}, chain...)
}
