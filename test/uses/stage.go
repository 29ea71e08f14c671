// SPDX-License-Identifier: Apache-2.0

package uses

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"xdplvs/director"
	"xdplvs/internal/netlab"
	"xdplvs/internal/programs"
	"xdplvs/test/stage"
)

// The network: one switch, with the clients in another network than the real servers, so that answers by nat have to
// come back through the director.
var (
	Client4, Client6     = addr("203.0.113.1"), addr("2001:db8:c::1")
	Gateway4, Gateway6   = addr("203.0.113.2"), addr("2001:db8:c::2") // the director, for clients
	Director4, Director6 = addr("10.0.0.2"), addr("fd00::2")          // the director, for real servers
)

// virtual are all virtual addresses that configurations of uses have.
var virtual = []netip.Addr{addr("192.0.2.10"), addr("2001:db8::10"), addr("198.51.100.10"), addr("2001:db8:2::10")}

// VIP4 and VIP6 are the addresses of a use that has one of each family.
var VIP4, VIP6 = virtual[0], virtual[1]

// addr is an address that is written here.
func addr(text string) netip.Addr { return netip.MustParseAddr(text) }

// Stage is what a use is played on.
type Stage struct {
	Use      Use
	Method   director.Method
	Screen   *stage.Screen
	Director *stage.Director
	Client   *netlab.Host
	Reals    []*Real
	Dir      string // of the programs' files, nobody's

	plots     string // directory
	lab       *netlab.Lab
	sw        *netlab.Switch
	processes []*programs.Process
	closers   []io.Closer // of servers in this process
}

// Real is a real server.
type Real struct {
	*netlab.Host
	V4, V6 netip.Addr
	Eth0   *netlab.Iface
}

// Options are what a use is played with.
type Options struct {
	Prefix  string // of the names of everything that is made
	Binary  string // the director's
	Configs string // the directory of the configurations
	Plots   string // the directory for plots; none: none are drawn
	Screen  *stage.Screen
	Fail    context.CancelCauseFunc // called when the director ends unasked
}

// Play plays a use by a forwarding method, and removes everything again.
func Play(ctx context.Context, u Use, m director.Method, o Options) (err error) {
	s := &Stage{Use: u, Method: m, Screen: o.Screen, plots: o.Plots}
	defer func() {
		if err != nil && s.Director != nil {
			s.Director.ShowLog(os.Stderr)
		}
		err = errors.Join(err, s.strike())
	}()
	if err := s.build(o); err != nil {
		return err
	}
	text, err := s.config(filepath.Join(o.Configs, u.Name+".yaml"))
	if err != nil {
		return err
	}
	if err := s.Director.Configure(text); err != nil {
		return err
	}
	s.Dir = filepath.Join(s.Director.Files, "programs")
	if err := errors.Join(os.Mkdir(s.Dir, 0o755), programs.Give(s.Dir, 0o755)); err != nil {
		return err
	}
	for _, r := range s.Reals {
		if err := s.prepare(ctx, r); err != nil {
			return err
		}
	}
	return u.Tell(ctx, s)
}

// build makes the network.
func (s *Stage) build(o Options) (err error) {
	if s.lab, err = netlab.New(o.Prefix); err != nil {
		return err
	}
	if s.sw, err = s.lab.Switch("switch"); err != nil {
		return err
	}
	if s.Client, _, err = s.host("client", Client4, Client6); err != nil {
		return err
	}
	host, _, err := s.host("director", Director4, Director6, Gateway4, Gateway6)
	if err != nil {
		return err
	}
	s.Director = stage.NewDirector(host, o.Binary, o.Fail)
	for i := range s.Use.Reals {
		if err := s.addReal(i); err != nil {
			return err
		}
	}
	return s.routeVirtual(s.Client)
}

// host makes one that is on the switch.
func (s *Stage) host(name string, addrs ...netip.Addr) (*netlab.Host, *netlab.Iface, error) {
	h, err := s.lab.Host(name)
	if err != nil {
		return nil, nil, err
	}
	var list []netip.Prefix
	for _, a := range addrs {
		list = append(list, netip.PrefixFrom(a, networkBits(a)))
	}
	end, err := h.Connect(s.sw, "eth0", list...)
	return h, end, err
}

func networkBits(a netip.Addr) int {
	if a.Is4() {
		return 24
	}
	return 64
}

// addReal makes the real server of number i, counted from 0.
func (s *Stage) addReal(i int) error {
	r := &Real{V4: netip.AddrFrom4([4]byte{10, 0, 0, byte(11 + i)}), V6: addr(fmt.Sprintf("fd00::%d", 11+i))}
	var err error
	if r.Host, r.Eth0, err = s.host(fmt.Sprintf("rs%d", i+1), r.V4, r.V6); err != nil {
		return err
	}
	s.Reals = append(s.Reals, r)
	if s.Method == director.NAT || s.Method == director.FullNAT {
		return nil
	}
	// Those that answer clients themselves know the way to them.
	return errors.Join(r.AddRoute(netip.MustParsePrefix("203.0.113.0/24"), netip.Addr{}, "eth0"),
		r.AddRoute(netip.MustParsePrefix("2001:db8:c::/64"), netip.Addr{}, "eth0"))
}

// AddClient makes another client, of the number i from 2 on.
func (s *Stage) AddClient(i int) (*netlab.Host, error) {
	h, _, err := s.host(fmt.Sprintf("client%d", i), netip.AddrFrom4([4]byte{203, 0, 113, byte(100 + i)}), addr(fmt.Sprintf("2001:db8:c::%d", 100+i)))
	if err != nil {
		return nil, err
	}
	return h, s.routeVirtual(h)
}

// routeVirtual sends a client's packets for the virtual addresses to the director.
func (s *Stage) routeVirtual(h *netlab.Host) error {
	var errs []error
	for _, a := range virtual {
		gateway := Gateway4
		if a.Is6() {
			gateway = Gateway6
		}
		errs = append(errs, h.AddRoute(netip.PrefixFrom(a, a.BitLen()), gateway, "eth0"))
	}
	return errors.Join(errs...)
}

// tables are small: large ones cost a test time.
const tables = "limits: {connections4: 16k, connections6: 16k, services: 64, real_servers: 256, plan_slots: 64k}\n"

// config is the configuration that is shipped, with files of its own, and by the method that is played.
func (s *Stage) config(path string) (string, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	own := fmt.Sprintf("socket: %s\nstate_dir: %s\n%s", s.Director.Socket(), s.Director.Pins, tables)
	shipped, played := "method: "+s.Use.Methods[0].String(), "method: "+s.Method.String()
	if !strings.Contains(string(text), shipped) {
		return "", fmt.Errorf("%s does not say %s", path, shipped)
	}
	return own + strings.ReplaceAll(string(text), shipped, played), nil
}

// prepare makes a host what the forwarding method wants a real server to be.
func (s *Stage) prepare(ctx context.Context, r *Real) error {
	args := []string{"realserver", s.Method.String(), "--interface", "eth0", "--apply"}
	switch s.Method {
	case director.NAT:
		args = append(args, "--director", Director4.String(), "--director", Director6.String())
	case director.DirectRouting:
		for _, a := range virtual {
			args = append(args, "--vip", a.String())
		}
	case director.Tunnel: // not every kernel has the devices
		_, err := r.Decapsulate(6080)
		return errors.Join(err, r.RealServerDR(virtual...))
	default:
		return nil
	}
	_, err := r.Run(ctx, s.Director.Binary, args...)
	return err
}

// strike removes everything, and goes on after an error.
func (s *Stage) strike() error {
	var errs []error
	for _, p := range s.processes {
		p.Stop()
	}
	for _, c := range s.closers {
		errs = append(errs, c.Close())
	}
	if s.Director != nil {
		errs = append(errs, s.Director.Remove())
	}
	if s.lab != nil {
		errs = append(errs, s.lab.Close())
	}
	return errors.Join(errs...)
}

// Run starts a program on a host, as somebody (nil: root), until the end of the story.
func (s *Stage) Run(h *netlab.Host, who *syscall.Credential, name string, args ...string) (*programs.Process, error) {
	p, err := programs.Start(h.Start, who, name, args...)
	if err != nil {
		return nil, err
	}
	s.processes = append(s.processes, p)
	return p, nil
}

// Output is what a command prints on a host; it shows the command, and what it printed, on the screen.
func (s *Stage) Output(ctx context.Context, h *netlab.Host, name string, args ...string) (string, error) {
	out, err := h.Run(ctx, name, args...)
	s.Screen.Command(strings.Join(append([]string{name}, args...), " "), string(out))
	return string(out), err
}

// Show runs a command of the director, and shows it with its output.
func (s *Stage) Show(ctx context.Context, args ...string) error {
	out, err := s.Director.Ask(ctx, args...)
	s.Screen.Command("director "+strings.Join(args, " "), out)
	return err
}

// StartDirector starts it, and shows the configuration.
func (s *Stage) StartDirector(ctx context.Context) error {
	s.Screen.Step("The director starts", fmt.Sprintf("With configs/%s.yaml, real servers by %s.", s.Use.Name, s.Method))
	text, err := os.ReadFile(s.Director.Config())
	if err != nil {
		return err
	}
	s.Screen.Block(strings.TrimSpace(string(text)))
	return s.Director.Start(ctx)
}

// List is what director list shows.
func (s *Stage) List(ctx context.Context) (*director.Snapshot, error) {
	out, err := s.Director.Ask(ctx, "list", "-o", "json")
	if err != nil {
		return nil, err
	}
	snapshot := &director.Snapshot{}
	return snapshot, json.Unmarshal([]byte(out), snapshot)
}

// patience is how long something may take that takes no time on a machine without other work.
const patience = 30 * time.Second

// Await asks until there is no error, or returns the last one.
func Await(ctx context.Context, ask func() error) error {
	for deadline := time.Now().Add(patience); ; {
		err := ask()
		if err == nil || ctx.Err() != nil {
			return errors.Join(err, ctx.Err())
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("after %v still: %w", patience, err)
		}
		if err := stage.Sleep(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
}

// AwaitUsable waits until just these real servers, by their addresses, are usable in a service: up, reachable, and not
// at weight 0.
func (s *Stage) AwaitUsable(ctx context.Context, service string, want ...netip.Addr) error {
	return Await(ctx, func() error {
		snapshot, err := s.List(ctx)
		if err != nil {
			return err
		}
		return usable(snapshot, service, want)
	})
}

// Addrs are the addresses of real servers, by their numbers counted from 0, in the family of another address.
func (s *Stage) Addrs(family netip.Addr, numbers ...int) (list []netip.Addr) {
	for _, i := range numbers {
		if family.Is4() {
			list = append(list, s.Reals[i].V4)
		} else {
			list = append(list, s.Reals[i].V6)
		}
	}
	return list
}

// usable tells whether just these real servers of a service are.
func usable(snapshot *director.Snapshot, service string, want []netip.Addr) error {
	for _, have := range snapshot.Services {
		if have.Name != service {
			continue
		}
		var got []netip.Addr
		for _, r := range have.Reals {
			up := r.Health == nil || r.Health.Condition == director.Up
			if up && r.Reachable && r.EffectiveWeight > 0 {
				got = append(got, r.Key.Addr)
			}
		}
		slices.SortFunc(got, netip.Addr.Compare)
		if !slices.Equal(got, want) {
			return fmt.Errorf("usable in service %s are %v, want %v", service, got, want)
		}
		return nil
	}
	return fmt.Errorf("no service %s", service)
}
