// SPDX-License-Identifier: Apache-2.0

package netlab

import (
	"net"
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
)

// Actions of uapi/linux/bpf.h.
const (
	xdpPass = 2 // XDP_PASS
	xdpTx   = 3 // XDP_TX
)

// bounceType is an EtherType that nothing else uses: local experimental (IEEE 802).
const bounceType = 0x88b5

// Registers of the programs below, after loadFrame.
const (
	data    = asm.R2
	dataEnd = asm.R3
)

// loadFrame begins a program: it jumps to "pass" unless the frame has at least n bytes.
func loadFrame(n int32) asm.Instructions {
	return asm.Instructions{
		asm.LoadMem(data, asm.R1, 0, asm.Word),
		asm.LoadMem(dataEnd, asm.R1, 4, asm.Word),
		asm.Mov.Reg(asm.R4, data),
		asm.Add.Imm(asm.R4, n),
		asm.JGT.Reg(asm.R4, dataEnd, "pass"),
	}
}

// finish ends a program: XDP_TX, or XDP_PASS from the label "pass".
func finish() asm.Instructions {
	return asm.Instructions{
		asm.Mov.Imm(asm.R0, xdpTx),
		asm.Return(),
		asm.Mov.Imm(asm.R0, xdpPass).WithSymbol("pass"),
		asm.Return(),
	}
}

// copyMAC copies 6 bytes inside the frame.
func copyMAC(to, from int16) asm.Instructions {
	return asm.Instructions{
		asm.LoadMem(asm.R5, data, from, asm.Word),
		asm.StoreMem(data, to, asm.R5, asm.Word),
		asm.LoadMem(asm.R5, data, from+4, asm.Half),
		asm.StoreMem(data, to+4, asm.R5, asm.Half),
	}
}

// storeMAC writes a constant address into the frame.
func storeMAC(to int16, mac net.HardwareAddr) asm.Instructions {
	var insns asm.Instructions
	for i, b := range mac {
		insns = append(insns, asm.StoreImm(data, to+int16(i), int64(b), asm.Byte))
	}
	return insns
}

// passUnlessBytes jumps to "pass" unless the frame holds want at the offset.
func passUnlessBytes(offset int16, want ...byte) asm.Instructions {
	var insns asm.Instructions
	for i, b := range want {
		insns = append(insns,
			asm.LoadMem(asm.R5, data, offset+int16(i), asm.Byte),
			asm.JNE.Imm(asm.R5, int32(b), "pass"))
	}
	return insns
}

// bounceProgram returns frames of an EtherType to their sender with XDP_TX.
func bounceProgram(ethertype uint16) asm.Instructions {
	var p asm.Instructions
	p = append(p, loadFrame(14)...)
	p = append(p, passUnlessBytes(12, byte(ethertype>>8), byte(ethertype))...)
	p = append(p, asm.LoadMem(asm.R6, data, 0, asm.Word), asm.LoadMem(asm.R7, data, 4, asm.Half))
	p = append(p, copyMAC(0, 6)...)
	p = append(p, asm.StoreMem(data, 6, asm.R6, asm.Word), asm.StoreMem(data, 10, asm.R7, asm.Half))
	return append(p, finish()...)
}

// directProgram sends IPv4 packets to vip on to the station real with XDP_TX, as LVS-DR does.
func directProgram(vip netip.Addr, real net.HardwareAddr) asm.Instructions {
	var p asm.Instructions
	p = append(p, loadFrame(34)...)
	p = append(p, passUnlessBytes(12, 0x08, 0x00)...)
	p = append(p, passUnlessBytes(30, vip.AsSlice()...)...)
	p = append(p, copyMAC(6, 0)...)
	p = append(p, storeMAC(0, real)...)
	return append(p, finish()...)
}

// attachXDP loads a program and attaches it in driver mode, until the test ends.
func attachXDP(t testing.TB, i *Iface, insns asm.Instructions) {
	t.Helper()
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.XDP, License: "Apache-2.0", Instructions: insns})
	must(t, err)
	defer prog.Close()
	err = i.Host.Do(func() error {
		l, err := link.AttachXDP(link.XDPOptions{Program: prog, Interface: i.Index, Flags: link.XDPDriverMode})
		if err == nil {
			t.Cleanup(func() { l.Close() })
		}
		return err
	})
	must(t, err)
}
