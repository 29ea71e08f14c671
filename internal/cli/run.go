// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"cmp"
	"fmt"
	"log/slog"

	"github.com/spf13/cobra"
)

func (a *app) runCommand() *cobra.Command {
	var file string
	var detach bool
	form := newChoice("auto", "text", "json")
	level := newChoice("info", "debug", "warn", "error")
	cmd := &cobra.Command{
		Use:   "run -c FILE",
		Short: "Run the director in the foreground",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			file = cmp.Or(file, a.getenv(envConfig))
			if file == "" {
				return usagef("no configuration: give it with -c FILE or $%s", envConfig)
			}
			built := a.build()
			return a.Daemon(cmd.Context(), DaemonOptions{ConfigFile: file, Socket: a.socket,
				Version: built.Version, Revision: built.Revision, Log: a.logger(form.value, level.value), Detach: detach})
		},
	}
	cmd.Flags().StringVarP(&file, "config", "c", "", "the configuration `FILE` ($"+envConfig+")")
	cmd.Flags().BoolVar(&detach, "detach", false, "take the data plane off at the end, instead of leaving it at work")
	addChoice(cmd, &form, "log-format", "", "form of the log on standard error; auto is text on a terminal, else json")
	addChoice(cmd, &level, "log-level", "", "least level that is logged")
	return cmd
}

// logger logs to standard error.
func (a *app) logger(form, level string) *slog.Logger {
	var least slog.Level
	_ = least.UnmarshalText([]byte(level)) // the flag's words are slog's
	opts := &slog.HandlerOptions{Level: least}
	if form == "text" || form == "auto" && a.StderrIsTerminal {
		return slog.New(slog.NewTextHandler(a.Stderr, opts))
	}
	return slog.New(slog.NewJSONHandler(a.Stderr, opts))
}

func (a *app) checkCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "check FILE",
		Short: "Check a configuration without running it",
		Args:  oneFile,
		RunE: func(_ *cobra.Command, args []string) error {
			summary, err := a.Check(args[0])
			if err != nil { // as they are: FILE:LINE:COLUMN is what editors jump to
				fmt.Fprintln(a.Stderr, err)
				return errPrinted
			}
			fmt.Fprintf(a.out, "%s: ok: %s\n", args[0], summary)
			return nil
		},
	}
}

func oneFile(_ *cobra.Command, args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("want one file, not %d", len(args))
	}
	return nil
}

func (a *app) reloadCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "reload",
		Short: "Make the daemon read its configuration again",
		Long: "Make the daemon read its configuration again. If it has mistakes they are\n" +
			"printed, one a line, and nothing changes.",
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client := a.client()
			defer client.Close()
			if err := client.Reload(cmd.Context()); err != nil {
				return a.configurationError("reload", err)
			}
			fmt.Fprintln(a.out, "reloaded")
			return nil
		},
	}
}
