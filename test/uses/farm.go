// SPDX-License-Identifier: Apache-2.0

package uses

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"xdplvs/internal/programs"
)

// directory makes one of a real server's, nobody's; there may be an earlier one, of a program that has ended.
func (s *Stage) directory(r *Real) (string, error) {
	dir := filepath.Join(s.Dir, r.Name())
	return dir, errors.Join(os.RemoveAll(dir), os.Mkdir(dir, 0o755), programs.Give(dir, 0o755))
}

// serve starts a server on a real server. It may listen on any port, whoever runs it.
func (s *Stage) serve(r *Real, server programs.Server) (*programs.Process, error) {
	if err := r.Sysctl("net.ipv4.ip_unprivileged_port_start", "0"); err != nil {
		return nil, err
	}
	return s.Run(r.Host, server.Who, server.Path, server.Args...)
}

// vipOf is the virtual address of a service, whose name ends with 6 if it is an IPv6 one.
func (s *Stage) vipOf(service string) netip.Addr {
	if strings.HasSuffix(service, "6") {
		return VIP6
	}
	return VIP4
}

// clientOf is the client's address in the family of another one.
func (s *Stage) clientOf(family netip.Addr) netip.Addr {
	if family.Is6() {
		return Client6
	}
	return Client4
}

// eachVIP does something with both virtual addresses, one after the other.
func (s *Stage) eachVIP(do func(netip.Addr) error) error {
	for _, vip := range []netip.Addr{VIP4, VIP6} {
		if err := do(vip); err != nil {
			return err
		}
	}
	return nil
}
