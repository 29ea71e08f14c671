// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"xdplvs/director"
	"xdplvs/internal/realserver"
)

// realServerCommand is one run of director realserver.
type realServerCommand struct {
	*app
	cmd *cobra.Command

	methods []director.Method // that the command line names: one or none
	spec    realserver.Spec
	vips    addresses
	own     addresses
	peers   addresses
	routers addresses
	config  string
	tunnel  choice
	for_    choice
	apply   bool
	remove  bool
}

// addresses is a flag that may be given several times, or with commas.
type addresses []netip.Addr

// String implements pflag.Value.
func (a *addresses) String() string { return "" }

// Type implements pflag.Value.
func (a *addresses) Type() string { return "ADDRESS" }

// Set implements pflag.Value.
func (a *addresses) Set(text string) error {
	for one := range strings.SplitSeq(text, ",") {
		addr, err := netip.ParseAddr(one)
		if err != nil {
			return fmt.Errorf("%q is no IP address", one)
		}
		*a = append(*a, addr)
	}
	return nil
}

func (a *app) realServerCommand() *cobra.Command {
	c := &realServerCommand{app: a, tunnel: newChoice(texts(realserver.Encaps)...), for_: newChoice(texts(realserver.Systems)...)}
	c.cmd = &cobra.Command{
		Use:   "realserver [dr|tun|nat]",
		Short: "Print, or do, what a real server needs",
		Long: "Print, or do, what a real server needs: a script for sh that is run there, or --apply on\n" +
			"the machine itself. Both can be repeated without harm, and --remove takes them back.\n\n" +
			"  dr   the virtual addresses on lo, and no ARP for them\n" +
			"  tun  the same on the tunnel's device, and segments that leave room for its headers\n" +
			"  nat  the director as default route\n\n" +
			"The shell script and --apply last until the next boot; --for another system writes its\n" +
			"files. With --config the methods and virtual addresses are those of the real servers\n" +
			"that --as names.",
		Example: "  director realserver dr --vip 192.0.2.10 --vip 2001:db8::10 | ssh rs1 sh\n" +
			"  director realserver dr --vip 192.0.2.10 --for systemd-networkd\n" +
			"  director realserver tun --vip 192.0.2.10 --as 10.0.0.11 --tunnel gue --apply\n" +
			"  director realserver nat --director 10.0.0.2 --interface eth0 --for ifupdown\n" +
			"  director realserver --config /etc/director/director.yaml --as 10.0.0.11",
		ValidArgs: []string{"dr", "tun", "nat"},
		Args:      c.parseMethod,
		RunE:      func(*cobra.Command, []string) error { return c.run() },
	}
	c.addFlags()
	return c.cmd
}

// texts are the words of a choice.
func texts[T ~string](list []T) (words []string) {
	for _, v := range list {
		words = append(words, string(v))
	}
	return words
}

func (c *realServerCommand) addFlags() {
	f := c.cmd.Flags()
	f.Var(&c.vips, "vip", "a virtual address; may be repeated")
	f.Var(&c.own, "as", "the real server's own address, which the director sends to; may be repeated")
	f.Var(&c.peers, "director", "nat: the director's address in the real server's network, one of a family")
	f.Var(&c.routers, "gateway", "tun: the router that answers go by, one of a family (default those that are there)")
	f.StringVar(&c.spec.Interface, "interface", "", "the real server's `INTERFACE`")
	addChoice(c.cmd, &c.tunnel, "tunnel", "", "tun: the encapsulation")
	f.Uint16Var(&c.spec.Port, "port", realserver.DefaultGUEPort, "tun: the UDP `PORT` of gue")
	f.BoolVar(&c.spec.Checksum, "checksum", false, "tun: gre comes with checksums (checksum: true in the director's configuration)")
	f.IntVar(&c.spec.MTU, "mtu", realserver.DefaultMTU, "tun: the MTU, in `BYTES`, between director and real server")
	f.StringVarP(&c.config, "config", "c", "", "the director's configuration `FILE`, for methods and virtual addresses")
	addChoice(c.cmd, &c.for_, "for", "", "what configures the real server's network")
	f.BoolVar(&c.apply, "apply", false, "do it on this machine, until the next boot; what was done is undone if a step fails")
	f.BoolVar(&c.remove, "remove", false, "take it back")
}

func (c *realServerCommand) parseMethod(_ *cobra.Command, args []string) error {
	if len(args) > 1 {
		return fmt.Errorf("unexpected argument %q", args[1])
	}
	for _, text := range args {
		var m director.Method
		if m.UnmarshalText([]byte(text)) != nil || !slices.Contains(realserver.Methods, m) {
			return fmt.Errorf("unknown method %q (known: %s)", text, realserver.MethodNames())
		}
		c.methods = append(c.methods, m)
	}
	return nil
}

func (c *realServerCommand) run() error {
	if err := c.checkFlags(); err != nil {
		return err
	}
	plan, err := c.plan()
	if err != nil {
		return err
	}
	if c.apply {
		return c.doApply(plan)
	}
	text, err := realserver.Render(plan, realserver.System(c.for_.value), c.remove)
	if err != nil {
		return &usageError{err}
	}
	fmt.Fprint(c.out, text)
	return nil
}

// plan is what the flags, or the configuration, ask for.
func (c *realServerCommand) plan() (plan realserver.Plan, err error) {
	specs, err := c.specs()
	if err != nil {
		return plan, err
	}
	for i, s := range specs {
		if err := s.Check(); err != nil {
			return plan, &usageError{err}
		}
		if i == 0 {
			plan = realserver.Build(s)
		} else {
			plan = plan.Merge(realserver.Build(s))
		}
	}
	return plan, plan.Clash()
}

func (c *realServerCommand) specs() ([]realserver.Spec, error) {
	base := c.spec
	base.VIPs, base.Own, base.Directors, base.Gateways = c.vips, c.own, c.peers, c.routers
	base.Encap = realserver.Encap(c.tunnel.value)
	if c.config == "" {
		base.Method = c.methods[0]
		return []realserver.Spec{base}, nil
	}
	services, err := c.Services(c.config)
	if err != nil {
		return nil, err
	}
	specs, err := realserver.Derive(services, c.own, base, c.methods...)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.config, err)
	}
	return specs, nil
}

// checkFlags refuses flags that would have no effect.
func (c *realServerCommand) checkFlags() error {
	given := c.cmd.Flags().Changed
	switch {
	case c.apply && given("for"):
		return usagef("--apply changes the running system only: --for is for scripts")
	case given("port") && c.tunnel.value != string(realserver.GUE):
		return usagef("--port is for --tunnel gue")
	case c.config != "" && given("vip"):
		return usagef("--config and --vip both name the virtual addresses")
	case given("checksum") && c.tunnel.value != string(realserver.GRE):
		return usagef("--checksum is for --tunnel gre: the port of gue takes packets with and without, and ipip has none")
	case c.config != "" && (given("tunnel") || given("port") || given("checksum")):
		return usagef("--config says what the tunnel is: no --tunnel, --port or --checksum")
	case c.config != "" && len(c.own) == 0:
		return usagef("--config needs --as: the address of the real server there")
	case c.config == "" && len(c.methods) == 0:
		return usagef("want a method (%s), or --config", realserver.MethodNames())
	}
	return c.checkMethodFlags()
}

// methodFlags are those that one method has.
var methodFlags = map[string][]director.Method{
	"vip":      {director.DirectRouting, director.Tunnel},
	"director": {director.NAT},
	"gateway":  {director.Tunnel},
	"tunnel":   {director.Tunnel},
	"port":     {director.Tunnel},
	"checksum": {director.Tunnel},
	"mtu":      {director.Tunnel},
}

func (c *realServerCommand) checkMethodFlags() error {
	for _, m := range c.methods {
		for _, name := range []string{"vip", "director", "gateway", "tunnel", "port", "checksum", "mtu"} {
			if c.cmd.Flags().Changed(name) && !slices.Contains(methodFlags[name], m) {
				return usagef("a real server by %s has no use for --%s", m, name)
			}
		}
	}
	return nil
}

func (c *realServerCommand) doApply(plan realserver.Plan) error {
	apply := realserver.Apply
	if c.ApplyReal != nil {
		apply = c.ApplyReal
	}
	err := apply(plan, c.remove, func(s realserver.Step) {
		state := "is so"
		if s.Changed {
			state = "done"
		}
		fmt.Fprintf(c.out, "%-7s %s\n", state, s.What)
	})
	if err != nil {
		return err
	}
	if !c.remove {
		fmt.Fprintln(c.out, "in force until the next boot; director realserver --for makes it last")
	}
	return nil
}
