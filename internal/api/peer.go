// SPDX-License-Identifier: Apache-2.0

package api

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/user"
	"slices"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// peer is the process at the other end of a connection, as it was when it connected.
type peer struct {
	pid    int32
	uid    uint32
	groups []uint32 // primary and supplementary
}

// role is what a peer may do.
type role int

// A higher role includes the lower ones.
const (
	nobody role = iota
	reader
	admin
)

// String is the word of the configuration.
func (r role) String() string {
	return [...]string{"none", "read", "admin"}[r]
}

func (r role) verb() string {
	if r == admin {
		return "change"
	}
	return "read"
}

// roleOf decides by uid and groups. The zero group means that there is none.
func (o *ServerOptions) roleOf(p *peer) role {
	member := func(gid uint32) bool { return gid != 0 && slices.Contains(p.groups, gid) }
	switch {
	case p.uid == 0, p.uid == uint32(os.Geteuid()), member(o.AdminGroup):
		return admin
	case member(o.ReadGroup):
		return reader
	default:
		return nobody
	}
}

// refusal is the text for a peer that needs a higher role.
func (o *ServerOptions) refusal(p *peer, need role) string {
	text := fmt.Sprintf("uid %d may not %s: that is for root", p.uid, need.verb())
	if own := os.Geteuid(); own != 0 {
		text += fmt.Sprintf(", uid %d", own)
	}
	if need == reader && o.ReadGroup != 0 {
		text += ", members of group " + groupName(o.ReadGroup)
	}
	if o.AdminGroup != 0 {
		text += ", members of group " + groupName(o.AdminGroup)
	}
	return text
}

func groupName(gid uint32) string {
	id := strconv.FormatUint(uint64(gid), 10)
	if g, err := user.LookupGroupId(id); err == nil {
		return g.Name
	}
	return id
}

// LookupGroup is the gid of a group given by name or number.
func LookupGroup(text string) (uint32, error) {
	id := text
	if g, err := user.LookupGroup(text); err == nil {
		id = g.Gid
	}
	gid, err := strconv.ParseUint(id, 10, 32)
	if err != nil {
		return 0, fmt.Errorf("look up group %q: no such group", text)
	}
	return uint32(gid), nil
}

// peerOf asks the kernel who is at the other end of a unix socket.
func peerOf(c net.Conn) (*peer, error) {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return nil, fmt.Errorf("read peer credentials: no socket: %T", c)
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("read peer credentials: %w", err)
	}
	var p *peer
	var inner error
	err = raw.Control(func(fd uintptr) { p, inner = peerOfSocket(int(fd)) })
	if err = errors.Join(err, inner); err != nil {
		return nil, fmt.Errorf("read peer credentials: %w", err)
	}
	return p, nil
}

func peerOfSocket(fd int) (*peer, error) {
	cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return nil, err
	}
	groups, err := peerGroups(fd)
	if err != nil {
		return nil, err
	}
	return &peer{pid: cred.Pid, uid: cred.Uid, groups: append(groups, cred.Gid)}, nil
}

// peerGroups reads SO_PEERGROUPS (Linux 4.13), for which x/sys has no function.
// ERANGE means that the room was too small and says how much is needed.
func peerGroups(fd int) ([]uint32, error) {
	groups := make([]uint32, 32)
	for {
		size := uint32(len(groups) * 4)
		_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_PEERGROUPS,
			uintptr(unsafe.Pointer(&groups[0])), uintptr(unsafe.Pointer(&size)), 0)
		switch {
		case errno == 0:
			return groups[:size/4], nil
		case errno == unix.ERANGE && int(size/4) > len(groups):
			groups = make([]uint32, size/4)
		default:
			return nil, errno
		}
	}
}
