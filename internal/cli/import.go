// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

func (a *app) importCommand() *cobra.Command {
	var interfaces []string
	cmd := &cobra.Command{
		Use:   "import FORMAT FILE",
		Short: "Make a configuration of another director's",
		Long: "Print a configuration of this director with the services of another one's, which had IPVS:\n" +
			"keepalived.conf (keepalived), ldirectord.cf (ldirectord), what ipvsadm-save prints\n" +
			"(ipvsadm-save), or Piranha's lvs.cf (lvs.cf). On standard error is each line that is not\n" +
			"carried over, with the reason.",
		Example: "  director import keepalived /etc/keepalived/keepalived.conf --interface eth0 > director.yaml",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 2 || !slices.Contains(a.ImportFormats, args[0]) {
				return fmt.Errorf("want one of %s, and a file", strings.Join(a.ImportFormats, ", "))
			}
			return nil
		},
		ValidArgs: a.ImportFormats,
		RunE: func(_ *cobra.Command, args []string) error {
			text, notes, err := a.Import(args[0], args[1])
			if err != nil {
				return err
			}
			fmt.Fprintf(a.out, "# Of %s.\ninterfaces: [%s]\n%s", args[1], strings.Join(interfaces, ", "), text)
			for _, note := range notes {
				fmt.Fprintln(a.Stderr, note)
			}
			return nil
		},
	}
	cmd.Flags().StringSliceVar(&interfaces, "interface", []string{"eth0"}, "where clients' packets come in")
	return cmd
}
