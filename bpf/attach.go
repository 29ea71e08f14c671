// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// Mode is how a program is attached to an interface.
type Mode uint8

// Auto tries native first.
const (
	Auto Mode = iota
	Native
	Generic
)

// Attachment is an interface that the data plane is attached to.
type Attachment struct {
	Index int
	Mode  Mode // Native or Generic
	link  link.Link
}

// Attach puts the program on an interface, or the new program in the place of
// the one that a former process left there: no packet passes unseen in between.
func (d *DataPlane) Attach(index int, mode Mode) (*Attachment, error) {
	if a, err := d.reattach(index, mode); a != nil || err != nil {
		return a, err
	}
	a, err := attachXDP(d.objects.Programs[directorProgDirector], index, mode)
	if err != nil {
		return nil, fmt.Errorf("attach to interface %d: %w", index, err)
	}
	if d.pins == "" {
		return a, nil
	}
	if err := a.link.Pin(d.linkPath(a)); err != nil {
		return nil, errors.Join(fmt.Errorf("pin link of interface %d: %w", index, err), a.link.Close())
	}
	return a, nil
}

func attachXDP(p *ebpf.Program, index int, mode Mode) (*Attachment, error) {
	var errs []error
	for _, try := range []struct {
		mode  Mode
		flags link.XDPAttachFlags
	}{{Native, link.XDPDriverMode}, {Generic, link.XDPGenericMode}} {
		if mode != Auto && mode != try.mode {
			continue
		}
		l, err := link.AttachXDP(link.XDPOptions{Program: p, Interface: index, Flags: try.flags})
		if err == nil {
			return &Attachment{index, try.mode, l}, nil
		}
		errs = append(errs, fmt.Errorf("%s mode: %w", try.mode, attachError(err)))
	}
	return nil, errors.Join(errs...)
}

// attachError says what the kernel means (net/core/dev.c, dev_xdp_attach).
func attachError(err error) error {
	if errors.Is(err, unix.EBUSY) || errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("another XDP program is attached, to it or to a device above (bpftool net shows it): %w", err)
	}
	if errors.Is(err, unix.EOPNOTSUPP) {
		return fmt.Errorf("the driver has no XDP (of a bond: its mode, or a slave's driver): %w", err)
	}
	return err
}

// String is native, generic or auto.
func (m Mode) String() string {
	switch m {
	case Native:
		return "native"
	case Generic:
		return "generic"
	default:
		return "auto"
	}
}

// reattach takes over a pinned link of the interface. One in another mode than
// the one asked for, or whose interface is gone, is dropped.
func (d *DataPlane) reattach(index int, mode Mode) (*Attachment, error) {
	pinned, err := d.pinnedLinks()
	if err != nil {
		return nil, err
	}
	for _, a := range pinned {
		if a.Index != index {
			continue
		}
		path := d.linkPath(a)
		a.link, err = link.LoadPinnedLink(path, nil)
		if err != nil {
			return nil, fmt.Errorf("open pinned link %s: %w", path, err)
		}
		info, err := a.link.Info()
		if err != nil || info.XDP() == nil || int(info.XDP().Ifindex) != index || (mode != Auto && mode != a.Mode) {
			return nil, errors.Join(os.Remove(path), a.link.Close())
		}
		if err := a.link.Update(d.objects.Programs[directorProgDirector]); err != nil {
			return nil, errors.Join(fmt.Errorf("replace program on interface %d: %w", index, err), a.link.Close())
		}
		return a, nil
	}
	return nil, nil
}

func (d *DataPlane) linkPath(a *Attachment) string {
	return filepath.Join(d.pins, fmt.Sprintf("xdp_%d_%s", a.Index, a.Mode))
}

// pinnedLinks are the links that lie in the pin directory, not opened.
func (d *DataPlane) pinnedLinks() ([]*Attachment, error) {
	if d.pins == "" {
		return nil, nil
	}
	paths, err := filepath.Glob(filepath.Join(d.pins, "xdp_*"))
	if err != nil {
		return nil, fmt.Errorf("list pinned links: %w", err)
	}
	var links []*Attachment
	for _, path := range paths {
		a := new(Attachment)
		var mode string
		if _, err := fmt.Sscanf(filepath.Base(path), "xdp_%d_%s", &a.Index, &mode); err != nil {
			continue
		}
		if a.Mode = Native; mode == Generic.String() {
			a.Mode = Generic
		}
		links = append(links, a)
	}
	return links, nil
}

// Detach takes the program off the interface.
func (d *DataPlane) Detach(a *Attachment) error {
	var err error
	if d.pins != "" {
		err = os.Remove(d.linkPath(a))
	}
	return errors.Join(err, a.link.Close())
}

// DetachOthers takes the program off every interface that a former process
// left it on and keep does not name.
func (d *DataPlane) DetachOthers(keep map[int]bool) error {
	links, err := d.pinnedLinks()
	for _, a := range links {
		if !keep[a.Index] {
			err = errors.Join(err, os.Remove(d.linkPath(a)))
		}
	}
	return err
}

// SetTxPort lets packets leave by an interface: port is what Real.TxPort says.
func (d *DataPlane) SetTxPort(port uint16, index int) error {
	if err := d.objects.Maps[directorMapTxPorts].Put(uint32(port), directorBpfDevmapVal{Ifindex: uint32(index)}); err != nil {
		return fmt.Errorf("set transmit port %d to interface %d: %w", port, index, err)
	}
	return nil
}

// AttachPass attaches a program that lets everything pass. A veth device
// receives redirected frames only while something is attached to it.
func AttachPass(index int) (io.Closer, error) {
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "pass",
		Type: ebpf.XDP,
		// Without it a veth device limits its MTU to some 3,500 bytes.
		Flags: unix.BPF_F_XDP_HAS_FRAGS,
		Instructions: asm.Instructions{
			asm.Mov.Imm(asm.R0, 2), // XDP_PASS
			asm.Return(),
		},
		License: "Dual BSD/GPL",
	})
	if err != nil {
		return nil, fmt.Errorf("load pass program: %w", err)
	}
	defer p.Close()
	a, err := attachXDP(p, index, Native)
	if err != nil {
		return nil, fmt.Errorf("attach pass program to interface %d: %w", index, err)
	}
	return a.link, nil
}
