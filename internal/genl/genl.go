// SPDX-License-Identifier: Apache-2.0

// Package genl asks the kernel by generic netlink, in the calling thread's network namespace.
// (netlink.GenlFamilyGet and nl.Genlmsg read two bytes behind their message, which may be another's memory.)
package genl

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Family is a family of messages, as "ethtool".
type Family struct{ id uint16 }

// Find looks a family up. The error is unix.ENOENT where the kernel has none of that name.
func Find(name string) (Family, error) {
	controller := Family{nl.GENL_ID_CTRL}
	answers, err := controller.Ask(nl.GENL_CTRL_CMD_GETFAMILY, nl.GENL_CTRL_VERSION, 0,
		nl.NewRtAttr(nl.GENL_CTRL_ATTR_FAMILY_NAME, nl.ZeroTerminated(name)))
	if err != nil {
		return Family{}, fmt.Errorf("find netlink family %s: %w", name, err)
	}
	for _, answer := range answers {
		id, err := Within(answer, nl.GENL_CTRL_ATTR_FAMILY_ID)
		if err == nil && len(id) >= 2 {
			return Family{binary.NativeEndian.Uint16(id)}, nil
		}
	}
	return Family{}, fmt.Errorf("find netlink family %s: %w", name, errNoID)
}

var errNoID = errors.New("the kernel's answer has no number of it")

// headerSize is that of struct genlmsghdr, in bytes.
const headerSize = 4

// header is struct genlmsghdr.
type header [headerSize]byte

func (h header) Len() int          { return headerSize }
func (h header) Serialize() []byte { return h[:] }

// Ask sends a request on a socket of its own, and returns the attributes of the answers. The flags are
// those of netlink, as unix.NLM_F_ACK.
func (f Family) Ask(command, version uint8, flags int, attrs ...*nl.RtAttr) ([][]byte, error) {
	req := nl.NewNetlinkRequest(int(f.id), flags)
	req.AddData(header{command, version})
	for _, attr := range attrs {
		req.AddData(attr)
	}
	answers, err := req.Execute(unix.NETLINK_GENERIC, 0)
	for i, answer := range answers {
		answers[i] = answer[min(headerSize, len(answer)):]
	}
	return answers, err
}

// Within is what the first attribute of a kind holds; nil if there is none.
func Within(attrs []byte, kind uint16) ([]byte, error) {
	list, err := nl.ParseRouteAttr(attrs)
	for _, a := range list {
		if a.Attr.Type&nl.NLA_TYPE_MASK == kind {
			return a.Value, err
		}
	}
	return nil, err
}
