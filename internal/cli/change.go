// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"xdplvs/director"
	"xdplvs/internal/ipvsadm"
)

const untilDiscarded = "A change is in force at once and stays so over reloads and restarts of the daemon, until\n" +
	"director changes discard, or the next boot; director save prints a file that has it."

// groupCommand has subcommands only.
func groupCommand(name, short string, subs ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{
		Use: name, Short: short, Long: short + ".\n\n" + untilDiscarded, Args: unknownCommand,
		RunE: func(*cobra.Command, []string) error { return usagef("no command") },
	}
	cmd.AddCommand(subs...)
	return cmd
}

const settingsHelp = "A setting is KEY=VALUE, key and value as in the file; KEY= takes the key back to what its absence means."

func (a *app) serviceCommands() *cobra.Command {
	add := a.editCommand("add KEY=VALUE…", "Add a service", 0, func(args []string) ([]director.Edit, error) {
		set, err := parseSettings(args)
		return []director.Edit{{Op: director.AddService, Set: set}}, err
	})
	add.Example = "  director service add virtual=192.0.2.1:80 name=web scheduler=wlc reals='[10.0.0.1, 10.0.0.2]'\n" +
		"  director service add fwmark=7 persistence=5m"
	set := a.editCommand("set SERVICE KEY=VALUE…", "Change a service", 1, func(args []string) ([]director.Edit, error) {
		set, err := parseSettings(args[1:])
		return []director.Edit{{Op: director.EditService, Service: args[0], Set: set}}, err
	})
	set.Example = "  director service set web scheduler=sh scheduler_flags='[sh-port]' persistence="
	remove := a.editCommand("remove SERVICE…", "Remove services", 1, func(args []string) (edits []director.Edit, _ error) {
		for _, name := range args {
			edits = append(edits, director.Edit{Op: director.RemoveService, Service: name})
		}
		return edits, nil
	})
	return groupCommand("service", "Add, change and remove services at run time", add, set, remove)
}

func (a *app) realCommands() *cobra.Command {
	add := a.editCommand("add SERVICE ADDRESS[:PORT] [KEY=VALUE…]", "Add a real server", 2, func(args []string) ([]director.Edit, error) {
		set, err := realSettings(args[1], args[2:])
		return []director.Edit{{Op: director.AddReal, Service: args[0], Set: set}}, err
	})
	add.Example = "  director real add web 10.0.0.3 weight=2"
	set := a.editCommand("set SERVICE REAL KEY=VALUE…", "Change a real server", 2, func(args []string) ([]director.Edit, error) {
		set, err := parseSettings(args[2:])
		return []director.Edit{{Op: director.EditReal, Service: args[0], Real: args[1], Set: set}}, err
	})
	set.Example = "  director real set web 10.0.0.3 weight=0"
	remove := a.editCommand("remove SERVICE REAL…", "Remove real servers", 2, func(args []string) (edits []director.Edit, _ error) {
		for _, name := range args[1:] {
			edits = append(edits, director.Edit{Op: director.RemoveReal, Service: args[0], Real: name})
		}
		return edits, nil
	})
	return groupCommand("real", "Add, change and remove real servers at run time", add, set, remove)
}

// editCommand makes the edits that its arguments say, all or none of them.
func (a *app) editCommand(use, short string, least int, edits func(args []string) ([]director.Edit, error)) *cobra.Command {
	long := short + ". A SERVICE is a service's name, ADDRESS:PORT or \"fwmark N\"; a REAL is a\nreal server's name or ADDRESS[:PORT]."
	if strings.Contains(use, "KEY") {
		long += "\n\n" + settingsHelp
	}
	return &cobra.Command{
		Use: use, Short: short, Long: long + "\n\n" + untilDiscarded,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) < max(least, 1) {
				return fmt.Errorf("want %s", use)
			}
			return nil
		},
		ValidArgsFunction: a.completeServices,
		RunE: func(cmd *cobra.Command, args []string) error {
			made, err := edits(args)
			if err != nil {
				return &usageError{err}
			}
			client := a.client()
			defer client.Close()
			return client.Edit(cmd.Context(), made...)
		},
	}
}

// parseSettings reads KEY=VALUE words. Values are texts of the file's language, which the daemon reads.
func parseSettings(words []string) (map[string]json.RawMessage, error) {
	set := map[string]json.RawMessage{}
	for _, word := range words {
		key, value, ok := strings.Cut(word, "=")
		if !ok || key == "" {
			return nil, fmt.Errorf("want KEY=VALUE, not %q", word)
		}
		if _, twice := set[key]; twice {
			return nil, fmt.Errorf("key %s twice", key)
		}
		set[key] = json.RawMessage("null")
		if value != "" {
			text, err := json.Marshal(value)
			if err != nil {
				return nil, err
			}
			set[key] = text
		}
	}
	return set, nil
}

// realSettings are those of a real server that is given by its address.
func realSettings(where string, words []string) (map[string]json.RawMessage, error) {
	set, err := parseSettings(words)
	if err != nil {
		return nil, err
	}
	text := where
	if p, err := netip.ParseAddrPort(where); err == nil {
		text = p.Addr().String()
		set["port"] = json.RawMessage(fmt.Sprint(p.Port()))
	}
	set["address"], err = json.Marshal(text)
	return set, err
}

func (a *app) changesCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "changes",
		Short: "Show what was changed at run time",
		Long: "Show which services and real servers are not as in the file: + added, - removed,\n" +
			"~ changed. They stay so over reloads, whatever the file says of them, unless it has\n" +
			"no such service or real server any more.",
		Args: noArgs,
	}
	format := addFormat(cmd, "text", "json")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		client := a.client()
		defer client.Close()
		changes, err := client.Changes(cmd.Context())
		if err != nil {
			return err
		}
		if format.json() {
			return writeJSON(a.out, changes)
		}
		printChanges(a.out, changes)
		return nil
	}
	cmd.AddCommand(&cobra.Command{
		Use:   "discard",
		Short: "Make everything as in the file again",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client := a.client()
			defer client.Close()
			return client.DiscardChanges(cmd.Context())
		},
	})
	return cmd
}

func printChanges(w io.Writer, changes director.Changes) {
	if changes.Empty() {
		fmt.Fprintln(w, "Nothing: all is as in the file.")
		return
	}
	for i := range changes.Services {
		s := &changes.Services[i]
		fmt.Fprintf(w, "%s service %s\n", changeMark(s.Added, s.Removed, s.Options != nil), s.Key)
		for _, r := range s.Reals {
			fmt.Fprintf(w, "  %s real server %s\n", changeMark(r.Added, r.Removed, true), r.Key)
		}
	}
}

// changeMark is as in diff; a blank: only what is inside differs.
func changeMark(added, removed, changed bool) string {
	switch {
	case added:
		return "+"
	case removed:
		return "-"
	case changed:
		return "~"
	default:
		return " "
	}
}

func (a *app) saveCommand() *cobra.Command {
	format := newChoice("yaml", "ipvsadm")
	cmd := &cobra.Command{
		Use:   "save",
		Short: "Print the configuration that is in force",
		Long: "Print a configuration file that is what is in force: the one that the daemon has read,\n" +
			"with what was changed at run time. With -o ipvsadm: the lines of ipvsadm -Sn, which\n" +
			"ipvsadm -R reads; they have what ipvsadm knows.",
		Args: noArgs,
	}
	addChoice(cmd, &format, "output", "o", "language of the output")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		client := a.client()
		defer client.Close()
		if format.value == "ipvsadm" {
			s, err := client.Snapshot(cmd.Context())
			if err != nil {
				return err
			}
			ipvsadm.Save(a.out, s.Services)
			return nil
		}
		text, err := client.Config(cmd.Context())
		if err != nil {
			return err
		}
		_, _ = a.out.Write(text) // its error ends the command
		return nil
	}
	return cmd
}

// completeReals offers a service's real servers to the shell.
func (a *app) completeReals(ctx context.Context, service string) (names []string) {
	client := a.client()
	defer client.Close()
	s, err := client.Snapshot(ctx)
	if err != nil {
		return nil
	}
	found, err := selectServices(s.Services, []string{service})
	if err != nil {
		return nil
	}
	known := map[string]bool{}
	for i := range found {
		for j := range found[i].Reals {
			known[realName(&found[i].Reals[j])] = true
		}
	}
	return slices.Sorted(maps.Keys(known))
}
