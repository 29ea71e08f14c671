// SPDX-License-Identifier: Apache-2.0

package door

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// The route into the pair is for sockets that are bound to it. IPv4 would do without: it takes everybody for a
// neighbour there.
var probesDoor = kind{near: ProbeNear, far: ProbeFar, table: ProbeTable, mtu: 1500, settings: acceptAnswers,
	match: func(r *netlink.Rule, _ uint32) { r.OifName = ProbeNear }}

// Parameters of an interface (include/uapi/linux/ip.h, if_link.h). They are set by netlink: a daemon to which
// /proc/sys is read-only can do that, too.
const (
	inetConf        = 1 // IFLA_INET_CONF
	confRPFilter    = 8
	confAcceptLocal = 23
	inet6GenMode    = 8 // IFLA_INET6_ADDR_GEN_MODE
	genModeNone     = 1
)

// noAddress is of no host (RFC 7600). An interface without any address takes nothing that rp_filter is to
// look at, even loosely.
var noAddress = &net.IPNet{IP: net.IPv4(192, 0, 0, 8), Mask: net.CIDRMask(32, 32)}

// acceptAnswers lets the answers of virtual addresses come out of the near end, though this host may have
// these addresses itself and routes to them do not lead there.
func acceptAnswers(near netlink.Link) error {
	filter := uint32(0)
	if strict, err := os.ReadFile(sysctls + "/ipv4/conf/all/rp_filter"); err == nil && strings.TrimSpace(string(strict)) != "0" {
		filter = 2 // the larger of both counts: loose
	}
	far, err := netlink.LinkByName(ProbeFar)
	if err == nil {
		err = setParameters(near, unix.AF_INET, func(of *nl.RtAttr) {
			conf := of.AddRtAttr(inetConf|unix.NLA_F_NESTED, nil)
			conf.AddRtAttr(confRPFilter, nl.Uint32Attr(filter))
			conf.AddRtAttr(confAcceptLocal, nl.Uint32Attr(1))
		})
	}
	for _, link := range []netlink.Link{near, far} {
		if err == nil {
			err = withoutLinkLocal(link)
		}
	}
	if err == nil {
		err = netlink.AddrReplace(near, &netlink.Addr{IPNet: noAddress, Scope: unix.RT_SCOPE_HOST})
	}
	if err != nil {
		return fmt.Errorf("let %s take answers: %w", ProbeNear, err)
	}
	return nil
}

// withoutLinkLocal is for interfaces on which nobody is met. A host without IPv6 has no such setting.
func withoutLinkLocal(link netlink.Link) error {
	err := setParameters(link, unix.AF_INET6, func(of *nl.RtAttr) { of.AddRtAttr(inet6GenMode, []byte{genModeNone}) })
	if errors.Is(err, unix.EAFNOSUPPORT) {
		return nil
	}
	return err
}

func setParameters(link netlink.Link, family int, add func(of *nl.RtAttr)) error {
	request := nl.NewNetlinkRequest(unix.RTM_SETLINK, unix.NLM_F_ACK)
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(link.Attrs().Index)
	request.AddData(msg)
	all := nl.NewRtAttr(unix.IFLA_AF_SPEC|unix.NLA_F_NESTED, nil)
	add(all.AddRtAttr(family|unix.NLA_F_NESTED, nil))
	request.AddData(all)
	if _, err := request.Execute(unix.NETLINK_ROUTE, 0); err != nil {
		return fmt.Errorf("set parameters of %s: %w", link.Attrs().Name, err)
	}
	return nil
}
