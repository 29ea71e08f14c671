// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"

	"github.com/spf13/cobra"
)

func (a *app) stopCommand() *cobra.Command {
	var opts StopOptions
	cmd := &cobra.Command{
		Use:   "stop",
		Short: "End the daemon; with --detach, remove all that the director added",
		Long: "End the daemon. The data plane does not need it: programs, tables, addresses and rules stay,\n" +
			"and packets are forwarded with the last plans and next hops until a daemon takes over. Meanwhile\n" +
			"nobody checks real servers, follows their link-layer addresses or ends idle connections.\n\n" +
			"With --detach all of that is removed, so that this host is no director any more: programs and\n" +
			"their links, tables, virtual addresses that the director added, the way for packets with the\n" +
			"firewall's marks, and what the daemon wrote beside its socket, run-time changes (director save\n" +
			"prints them) and former configurations included. It also removes what a daemon left that died;\n" +
			"then it needs root. That nothing is left to do is no error.",
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			opts.Socket, opts.Log = a.socket, a.logger("text", "warn")
			done, err := a.Stop(cmd.Context(), opts)
			if err != nil {
				return fmt.Errorf("stop: %w", err)
			}
			fmt.Fprintln(a.out, done)
			return nil
		},
	}
	cmd.Flags().BoolVar(&opts.Detach, "detach", false, "remove all that the director added to this host")
	cmd.Flags().StringVarP(&opts.ConfigFile, "config", "c", "",
		"the daemon's configuration `FILE`; needed where nothing beside the socket says where the tables are")
	return cmd
}
