// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"xdplvs/director"
	"xdplvs/internal/api"
	"xdplvs/internal/ipvsadm"
)

// IsIPVSADM tells whether a program that is called by this name is ipvsadm.
func IsIPVSADM(program string) bool { return filepath.Base(program) == "ipvsadm" }

// RunIPVSADM runs the program as ipvsadm, for the daemon that the environment names or the usual one.
func RunIPVSADM(ctx context.Context, env Env, program string, args []string) int {
	a := newApp(env)
	a.addDaemonFlags(pflag.NewFlagSet(program, pflag.ContinueOnError)) // for their variables
	return a.ipvsadm(ctx, program, args)
}

func (a *app) ipvsadm(ctx context.Context, program string, args []string) int {
	client := a.client()
	defer client.Close()
	return ipvsadm.Run(ctx, ipvsadm.Env{
		Stdin: a.Stdin, Stdout: a.out, Stderr: a.Stderr,
		Director: ipvsadmDirector{client}, Names: &ipvsadm.SystemNames{}, Program: program,
	}, args)
}

// errCode ends the program with a code; what went wrong was said.
type errCode int

// Error is for nobody.
func (errCode) Error() string { return "already printed" }

func (a *app) ipvsadmCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "ipvsadm [ARGUMENT…]",
		Short: "Do what ipvsadm does, for this director",
		Long: "Do what ipvsadm 1.31 does with these arguments, for this director. A link to director\n" +
			"that is called ipvsadm does the same. The daemon is that of $" + envSocket + ", of\n$" + envAPI + ", or the one of this machine.",
		Example:            "  director ipvsadm -Ln\n  director ipvsadm -A -t 192.0.2.1:80 -s wlc",
		DisableFlagParsing: true, // all of them are ipvsadm's
		RunE: func(cmd *cobra.Command, args []string) error {
			if code := a.ipvsadm(cmd.Context(), "ipvsadm", args); code != exitOK {
				return errCode(code)
			}
			return nil
		},
	}
}

// ipvsadmDirector is a daemon as ipvsadm wants it.
type ipvsadmDirector struct{ *api.Client }

// Entries implements ipvsadm.Director.
func (d ipvsadmDirector) Entries(ctx context.Context, yield func(*director.Conn) error) error {
	if err := d.Connections().List(ctx, "", yield); err != nil {
		return err
	}
	return d.Templates().List(ctx, "", yield)
}

// Fault implements ipvsadm.Director.
func (d ipvsadmDirector) Fault(err error) director.EditFault {
	var answer *api.Error
	if errors.As(err, &answer) {
		return answer.Fault
	}
	return ""
}

// Unreachable implements ipvsadm.Director.
func (d ipvsadmDirector) Unreachable(err error) bool {
	var connect *api.ConnectError
	return errors.As(err, &connect)
}

func (a *app) procCommand() *cobra.Command {
	names := ipvsadm.ProcNames()
	return &cobra.Command{
		Use:   "proc " + strings.Join(names, "|"),
		Short: "Print what IPVS shows in /proc/net",
		Long: "Print what a kernel with IPVS shows in the file of /proc/net of that name, for programs\n" +
			"that read it. All is counted as of one CPU.",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 || !slices.Contains(names, args[0]) {
				return fmt.Errorf("want one of %s", strings.Join(names, ", "))
			}
			return nil
		},
		ValidArgs: names,
		RunE: func(cmd *cobra.Command, args []string) error {
			client := a.client()
			defer client.Close()
			out := bufio.NewWriter(a.out)
			err := ipvsadm.Proc(cmd.Context(), out, ipvsadmDirector{client}, args[0])
			return errors.Join(err, out.Flush())
		},
	}
}
