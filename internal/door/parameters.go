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

// Parameters of an interface (include/uapi/linux/ip.h, if_link.h). They are set by netlink: a daemon to which
// /proc/sys is read-only, as under ProtectKernelTunables of systemd, can do that, too.
const (
	inetConf        = 1 // IFLA_INET_CONF
	confForwarding  = 1
	confRPFilter    = 8
	confAcceptLocal = 23
	inet6GenMode    = 8 // IFLA_INET6_ADDR_GEN_MODE
	genModeNone     = 1
)

const sysctls = "/proc/sys/net"

// letReplies lets replies by nat come out of the near end: their source is a virtual address, to which
// no route leads there. Whether IPv6 is forwarded, no interface says for itself (ip-sysctl.rst).
func letReplies(near netlink.Link) error {
	if err := takeAnySource(near, Far, map[int]uint32{confForwarding: 1}); err != nil {
		return fmt.Errorf("let %s give replies: %w", Near, err)
	}
	return nil
}

// noAddress is of no host (RFC 7600). An interface without any address takes nothing that rp_filter is to
// look at, even loosely.
var noAddress = &net.IPNet{IP: net.IPv4(192, 0, 0, 8), Mask: net.CIDRMask(32, 32)}

// takeAnySource lets packets in whose source no route has by the near end, sets further parameters of IPv4, and keeps link-local
// addresses from both ends.
func takeAnySource(near netlink.Link, far string, parameters map[int]uint32) error {
	filter, err := reverseFilter()
	if err != nil {
		return err
	}
	parameters[confRPFilter] = filter
	if err := setParameters(near, parameters); err != nil {
		return err
	}
	if err := withoutLinkLocal(near.Attrs().Name, far); err != nil {
		return err
	}
	return netlink.AddrReplace(near, &netlink.Addr{IPNet: noAddress, Scope: unix.RT_SCOPE_HOST})
}

// reverseFilter is what rp_filter of an interface must be for sources to which no route leads there: none, or loose
// where that of all interfaces is set, since the larger of both counts.
func reverseFilter() (uint32, error) {
	text, err := os.ReadFile(sysctls + "/ipv4/conf/all/rp_filter")
	if err != nil {
		return 0, fmt.Errorf("read net.ipv4.conf.all.rp_filter: %w", err)
	}
	if strings.TrimSpace(string(text)) != "0" {
		return 2, nil
	}
	return 0, nil
}

// withoutLinkLocal is for interfaces on which nobody is met. A host without IPv6 has no such setting.
func withoutLinkLocal(names ...string) error {
	for _, name := range names {
		link, err := netlink.LinkByName(name)
		if err == nil {
			err = setLink(link, unix.AF_INET6, func(of *nl.RtAttr) { of.AddRtAttr(inet6GenMode, []byte{genModeNone}) })
		}
		if err != nil && !errors.Is(err, unix.EAFNOSUPPORT) {
			return err
		}
	}
	return nil
}

// setParameters sets those of IPv4 by their numbers.
func setParameters(link netlink.Link, values map[int]uint32) error {
	return setLink(link, unix.AF_INET, func(of *nl.RtAttr) {
		conf := of.AddRtAttr(inetConf|unix.NLA_F_NESTED, nil)
		for number, value := range values {
			conf.AddRtAttr(number, nl.Uint32Attr(value))
		}
	})
}

func setLink(link netlink.Link, family int, add func(of *nl.RtAttr)) error {
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

// enableIPv6 is for hosts whose new interfaces have none. There is no other way than by /proc/sys.
func enableIPv6(name string) error {
	path := sysctls + "/ipv6/conf/" + name + "/disable_ipv6"
	text, err := os.ReadFile(path)
	if err != nil || strings.TrimSpace(string(text)) == "0" {
		return nil // without IPv6 the route says so
	}
	if err := os.WriteFile(path, []byte("0"), 0); err != nil {
		return fmt.Errorf("%s has no IPv6, as net.ipv6.conf.default.disable_ipv6 is 1 (sysctl -w net.ipv6.conf.%s.disable_ipv6=0): %w", name, name, err)
	}
	return nil
}
