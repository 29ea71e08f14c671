// SPDX-License-Identifier: Apache-2.0

package uses

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os/exec"
	"slices"
	"strings"

	"xdplvs/director"
	"xdplvs/internal/programs"
)

// sctp is an echo service by SCTP. Both ends are usrsctp's, which is FreeBSD's SCTP as a library, on raw sockets: so it
// is there where the kernel has none.
var sctp = Use{
	Name:    "sctp",
	Summary: "echo by SCTP",
	Methods: []director.Method{director.DirectRouting, director.Tunnel, director.NAT, director.FullNAT},
	Reals:   3,
	Tell:    tellSCTP,
}

// usrsctp is the directory of its programs.
const usrsctp = "/usr/lib/usrsctp/"

// association is a client with an association.
type association struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	log programs.Log
}

func tellSCTP(ctx context.Context, s *Stage) error {
	for _, r := range s.Reals {
		server, err := programs.Find("libusrsctp-examples", usrsctp+"echo_server")
		if err != nil {
			return err
		}
		if err := s.besideLoopback(ctx, r); err != nil {
			return err
		}
		if _, err := s.Run(r.Host, nil, server); err != nil {
			return err
		}
	}
	if err := s.StartDirector(ctx); err != nil {
		return err
	}
	for _, service := range []string{"echo", "echo6"} {
		if err := s.tellEcho(ctx, service); err != nil {
			return fmt.Errorf("service %s: %w", service, err)
		}
	}
	return nil
}

// besideLoopback gives a real server by dr or tun the virtual addresses on another device than lo, whose addresses this SCTP
// does not take for its host's. A bridge without ports is one that every kernel has.
func (s *Stage) besideLoopback(ctx context.Context, r *Real) error {
	if s.Method == director.NAT || s.Method == director.FullNAT {
		return nil
	}
	commands := []string{"link add vips type bridge", "link set vips up"}
	for _, vip := range []netip.Addr{VIP4, VIP6} {
		commands = append(commands, fmt.Sprintf("address add %v dev vips", netip.PrefixFrom(vip, vip.BitLen())))
	}
	for _, command := range commands {
		if _, err := r.Run(ctx, "ip", strings.Fields(command)...); err != nil {
			return err
		}
	}
	return nil
}

// tellEcho has associations that stay, whatever becomes of new ones.
func (s *Stage) tellEcho(ctx context.Context, service string) error {
	if err := s.AwaitUsable(ctx, service, s.Addrs(s.vipOf(service), 0, 1, 2)...); err != nil {
		return err
	}
	s.Screen.Step("Six clients make associations: "+service, "Each says something, and hears it again. Who has least gets the next one.")
	first, err := s.associations(ctx, service, 6)
	if err != nil {
		return err
	}
	if err := errors.Join(s.wantActive(ctx, service, 2, 2, 2), s.Show(ctx, "connections")); err != nil {
		return err
	}
	s.Screen.Step("rs2 gets weight 0", "Its associations go on; new ones go elsewhere.")
	if err := s.Show(ctx, "real", "set", service, s.Addrs(s.vipOf(service), 1)[0].String(), "weight=0"); err != nil {
		return err
	}
	second, err := s.associations(ctx, service, 4)
	if err != nil {
		return err
	}
	if err := s.wantActive(ctx, service, 4, 2, 4); err != nil {
		return err
	}
	all := slices.Concat(first, second)
	for i, a := range all {
		if err := a.echo(ctx, fmt.Sprintf("still there, %d", i)); err != nil {
			return err
		}
	}
	for _, a := range all {
		if err := a.end(ctx); err != nil {
			return err
		}
	}
	s.Screen.Step("The associations end", "Both ends have said so, and the director has seen it.")
	return errors.Join(s.wantActive(ctx, service, 0, 0, 0), s.Show(ctx, "list", service))
}

// associations makes so many, one after the other.
func (s *Stage) associations(ctx context.Context, service string, n int) (list []*association, err error) {
	for i := range n {
		a, err := s.associate(ctx, s.vipOf(service))
		if err != nil {
			return nil, err
		}
		if err := a.echo(ctx, fmt.Sprintf("hello %d", i)); err != nil {
			return nil, err
		}
		list = append(list, a)
	}
	return list, nil
}

// associate starts a client; it makes an association.
func (s *Stage) associate(ctx context.Context, vip netip.Addr) (*association, error) {
	a := &association{cmd: s.Client.Command(ctx, "stdbuf", "-oL", usrsctp+"client", vip.String(), "7")}
	a.cmd.Stdout, a.cmd.Stderr = &a.log, &a.log
	var err error
	if a.in, err = a.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	return a, s.Client.Start(a.cmd)
}

// echo says a line, and waits until it comes back.
func (a *association) echo(ctx context.Context, line string) error {
	if _, err := fmt.Fprintln(a.in, line); err != nil {
		return err
	}
	return Await(ctx, func() error {
		if !strings.Contains(a.log.String(), line+"\n") {
			return fmt.Errorf("%q does not come back:\n%s", line, a.log.String())
		}
		return nil
	})
}

// end ends the association as both ends should.
func (a *association) end(ctx context.Context) error {
	if err := a.in.Close(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- a.cmd.Wait() }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// wantActive waits until the real servers have so many associations.
func (s *Stage) wantActive(ctx context.Context, service string, want ...uint32) error {
	return Await(ctx, func() error {
		snapshot, err := s.List(ctx)
		if err != nil {
			return err
		}
		for _, have := range snapshot.Services {
			if have.Name != service {
				continue
			}
			var got []uint32
			for _, r := range have.Reals {
				got = append(got, r.Active)
			}
			if slices.Equal(got, want) {
				s.Screen.Block(fmt.Sprintf("associations of rs1, rs2, rs3: %v", got))
				return nil
			}
			return fmt.Errorf("the real servers have %v associations, want %v", got, want)
		}
		return fmt.Errorf("no service %s", service)
	})
}
