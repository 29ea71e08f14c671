// SPDX-License-Identifier: Apache-2.0

package genl

import (
	"errors"
	"testing"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

func TestFind(t *testing.T) {
	f, err := Find(nl.GENL_CTRL_NAME)
	if err != nil || f.id != nl.GENL_ID_CTRL {
		t.Errorf("Find(%q) = %v, %v; want its fixed number %d", nl.GENL_CTRL_NAME, f, err, nl.GENL_ID_CTRL)
	}
	if _, err := Find("no such family"); !errors.Is(err, unix.ENOENT) {
		t.Errorf("Find of an unknown name: %v, want ENOENT", err)
	}
}

func TestWithin(t *testing.T) {
	attrs := append(nl.NewRtAttr(1, []byte("one")).Serialize(), nl.NewRtAttr(2|unix.NLA_F_NESTED, []byte("two")).Serialize()...)
	if got, err := Within(attrs, 2); err != nil || string(got) != "two" {
		t.Errorf("Within = %q, %v; want two, whatever its flags", got, err)
	}
	if got, err := Within(attrs, 3); err != nil || got != nil {
		t.Errorf("Within of none = %q, %v; want nothing", got, err)
	}
	if _, err := Within([]byte{200, 0, 1, 0}, 1); err == nil {
		t.Error("an attribute that is longer than its message is no error")
	}
}
