// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Command is the tree of commands, for its description only.
func Command() *cobra.Command {
	return newApp(Env{Stdout: io.Discard, Stderr: io.Discard}).rootCommand()
}

func (a *app) rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:           "director",
		Short:         "A layer-4 director (LVS) on XDP",
		Version:       a.build().String(),
		Args:          unknownCommand,
		SilenceErrors: true,
		SilenceUsage:  true,

		SuggestionsMinimumDistance: 2,

		PersistentPreRun: func(*cobra.Command, []string) { a.started = true },
		RunE:             func(*cobra.Command, []string) error { return usagef("no command") },
	}
	root.SetIn(a.Stdin)
	root.SetOut(a.out) // before makeStrict: cobra's completion command takes it when it is made
	root.SetErr(a.Stderr)
	root.SetVersionTemplate("{{.Version}}")
	a.addDaemonFlags(root.PersistentFlags())
	root.AddCommand(a.runCommand(), a.stopCommand(), a.statusCommand(), a.checkCommand(), a.listCommand(), a.statsCommand(), a.rateCommand(), a.watchCommand(),
		a.connectionsCommand(), a.persistenceCommand(), a.interfacesCommand(), a.timeoutsCommand(), a.addressesCommand(), a.healthCommand(), a.defenseCommand(), a.marksCommand(), a.reloadCommand(),
		a.serviceCommands(), a.realCommands(), a.drainCommand(), a.changesCommand(), a.saveCommand(), a.planCommand(), a.applyCommand(), a.confirmCommand(), a.rollbackCommand(),
		a.ipvsadmCommand(), a.procCommand(), a.importCommand(),
		a.explainCommand(), a.traceCommand(), a.captureCommand(), a.replayCommand(), a.doctorCommand(), a.realServerCommand(), a.versionCommand())
	makeStrict(root)
	return root
}

// makeStrict makes cobra's own commands refuse what they do not know; they
// would print their help and end well.
func makeStrict(root *cobra.Command) {
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	for _, cmd := range root.Commands() {
		switch cmd.Name() {
		case "help":
			cmd.Args = knownTopic
		case "completion":
			cmd.Args = noArgs
			cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
		}
	}
}

// knownTopic is the check of help's arguments.
func knownTopic(cmd *cobra.Command, args []string) error {
	found, rest, err := cmd.Root().Find(args)
	if err == nil && found != cmd.Root() && len(rest) == 0 || len(args) == 0 {
		return nil
	}
	return fmt.Errorf("unknown help topic %q", strings.Join(args, " "))
}

// unknownCommand is the root's check of its arguments: it has none but commands.
func unknownCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	text := fmt.Sprintf("unknown command %q", args[0])
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		text += " (did you mean " + strings.Join(near, " or ") + "?)"
	}
	return errors.New(text)
}

// noArgs is the check of commands without arguments.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return fmt.Errorf("unexpected argument %q", args[0])
	}
	return nil
}

// choice is a flag that is one of some words, the first unless it is given.
type choice struct {
	value string
	known []string
}

func newChoice(known ...string) choice { return choice{known[0], known} }

// String implements pflag.Value.
func (c *choice) String() string { return c.value }

// Type implements pflag.Value.
func (c *choice) Type() string { return strings.Join(c.known, "|") }

// Set implements pflag.Value; the error lists what is known.
func (c *choice) Set(text string) error {
	if !slices.Contains(c.known, text) {
		return fmt.Errorf("known: %s", strings.Join(c.known, ", "))
	}
	c.value = text
	return nil
}

// addChoice adds a choice with completion of its words.
func addChoice(cmd *cobra.Command, c *choice, name, short, usage string) {
	cmd.Flags().VarP(c, name, short, usage)
	// The error is for a flag that does not exist, which this one does.
	_ = cmd.RegisterFlagCompletionFunc(name, cobra.FixedCompletions(c.known, cobra.ShellCompDirectiveNoFileComp))
}

// format is the flag -o of the commands that print data.
type format struct{ choice }

func addFormat(cmd *cobra.Command, known ...string) *format {
	f := &format{newChoice(known...)}
	addChoice(cmd, &f.choice, "output", "o", "output format")
	return f
}

func (f *format) json() bool { return f.value == "json" }
func (f *format) wide() bool { return f.value == "wide" }

// addNumeric accepts -n, which fingers add to ipvsadm's -L. Output is always numeric.
func addNumeric(flags *pflag.FlagSet) {
	flags.BoolP("numeric", "n", false, "ignored: output is always numeric")
	_ = flags.MarkHidden("numeric") // the error is for a flag that does not exist
}
