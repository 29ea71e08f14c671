// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"

	"github.com/spf13/cobra"

	"xdplvs/internal/markimport"
)

func (a *app) marksCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "marks",
		Short: "Show, explain or import rules that mark packets",
		Args:  noArgs,
		RunE:  func(*cobra.Command, []string) error { return usagef("no command: list, explain or import") },
	}
	cmd.AddCommand(a.listMarksCommand(), a.explainMarkCommand(), a.importMarksCommand())
	return cmd
}

// firewallCommands are those that show a firewall's rules.
var firewallCommands = [][]string{{"iptables-save"}, {"ip6tables-save"}, {"nft", "-j", "list", "ruleset"}}

func (a *app) importMarksCommand() *cobra.Command {
	form := newChoice("auto", "nft", "iptables", "ip6tables")
	cmd := &cobra.Command{
		Use:   "import [FILE]",
		Short: "Turn the firewall's marking rules into the director's",
		Long: "Turn the rules of nftables and iptables that mark packets in prerouting into\n" +
			"marks for the configuration, and list in comments those that cannot be, with the\n" +
			"reason. FILE is the output of nft -j list ruleset, iptables-save or\n" +
			"ip6tables-save, or - for standard input; without it the commands are asked.\n\n" +
			"Of the director's rules the first that matches counts, of the firewall's the last,\n" +
			"so the order is another one.",
		Args: cobra.MaximumNArgs(1),
	}
	addChoice(cmd, &form, "form", "", "what FILE is; auto tells JSON from the rest, and ip6tables by what it says")
	cmd.RunE = func(cmd *cobra.Command, args []string) (err error) {
		var res markimport.Result
		if len(args) == 0 {
			res, err = a.askFirewall(cmd.Context())
		} else {
			res, err = a.readFirewall(args[0], form.value)
		}
		if err != nil {
			return err
		}
		if err := res.YAML(a.out); err != nil {
			return err
		}
		fmt.Fprintf(a.Stderr, "%s, %d not translated\n", plural(len(res.Rules), "rule"), len(res.Skipped))
		if names := res.Interfaces(); len(names) > 0 {
			fmt.Fprintf(a.Stderr, "the rules name interfaces that the configuration must list: %s\n", strings.Join(names, ", "))
		}
		return nil
	}
	return cmd
}

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// readFirewall reads a file of rules.
func (a *app) readFirewall(file, form string) (res markimport.Result, err error) {
	var text []byte
	if file == "-" {
		text, err = io.ReadAll(a.Stdin)
	} else {
		text, err = os.ReadFile(file)
	}
	if err != nil {
		return res, fmt.Errorf("read rules: %w", err)
	}
	if form == "auto" {
		form = guessForm(text)
	}
	switch form {
	case "nft":
		return markimport.NFT(text)
	default:
		return markimport.IPTables(text, form == "ip6tables")
	}
}

func guessForm(text []byte) string {
	switch {
	case bytes.HasPrefix(bytes.TrimSpace(text), []byte("{")):
		return "nft"
	case bytes.Contains(text, []byte("by ip6tables-save")):
		return "ip6tables"
	default:
		return "iptables"
	}
}

// askFirewall asks each command that there is. Rules of iptables that nft shows, too, are iptables-save's.
func (a *app) askFirewall(ctx context.Context) (all markimport.Result, err error) {
	var results []markimport.Result
	asked := map[string]bool{}
	for _, c := range firewallCommands {
		text, err := a.ask(ctx, c)
		if errors.Is(err, exec.ErrNotFound) {
			continue
		}
		if err != nil {
			return all, err
		}
		asked[c[0]] = true
		var res markimport.Result
		if c[0] == "nft" {
			res, err = markimport.NFT(text)
		} else {
			res, err = markimport.IPTables(text, c[0] == "ip6tables-save")
		}
		if err != nil {
			return all, err
		}
		results = append(results, res)
	}
	if len(results) == 0 {
		return all, errors.New("neither nft nor iptables-save is installed: give their output as a file, or - for standard input")
	}
	all = markimport.Join(results...)
	if asked["iptables-save"] {
		all.DropIPTables()
	}
	return all, nil
}

// ask runs a command; its name alone is looked for.
func (a *app) ask(ctx context.Context, command []string) ([]byte, error) {
	if a.Output != nil {
		return a.Output(ctx, command[0], command[1:]...)
	}
	out, err := exec.CommandContext(ctx, command[0], command[1:]...).Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return nil, fmt.Errorf("%s: %w: %s", strings.Join(command, " "), err, strings.TrimSpace(string(exit.Stderr)))
	}
	return out, err
}
