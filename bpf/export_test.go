// SPDX-License-Identifier: Apache-2.0

package bpf

import "github.com/cilium/ebpf"

// What the tests of the package as its users see it cannot do without.

// NoLeaks, PinDir and SmallSizes are those of the tests inside.
var (
	NoLeaks    = noLeaks
	PinDir     = pinDir
	SmallSizes = smallSizes
)

// CloseLink gives up what the process holds of an attachment, as its end would.
func (a *Attachment) CloseLink() error { return a.link.Close() }

// IDs are those of an attachment's link and of its program.
func (a *Attachment) IDs() (link uint32, program ebpf.ProgramID, err error) {
	info, err := a.link.Info()
	if err != nil {
		return 0, 0, err
	}
	return uint32(info.ID), info.Program, nil
}
