// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"cmp"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"xdplvs/director"
)

func (a *app) interfacesCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "interfaces",
		Short: "Show what the program is attached to",
		Long: "Show the interfaces of the configuration, the device that the XDP program is attached to for\n" +
			"each, and why that is another one: VLAN devices are served where they are, slaves by their bond.",
		Args: noArgs,
	}
	format := addFormat(cmd, "text", "json")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		client := a.client()
		defer client.Close()
		s, err := client.Snapshot(cmd.Context())
		if err != nil {
			return err
		}
		if format.json() {
			return writeJSON(a.out, withoutNulls(s).Interfaces)
		}
		a.printInterfaces(a.out, s.Interfaces)
		return nil
	}
	return cmd
}

func (a *app) printInterfaces(w io.Writer, list []director.InterfaceState) {
	name, device := len("Interface"), len("Attached to")
	for _, i := range list {
		name, device = max(name, len(i.Name)), max(device, len(i.Device))
	}
	row := func(cells ...any) string {
		return strings.TrimRight(fmt.Sprintf("%-*s  %-*s  %-7s  %s", append([]any{name, cells[0], device}, cells[1:]...)...), " ")
	}
	fmt.Fprintln(w, a.style.bold(row("Interface", "Attached to", "Mode", "Notes")))
	for _, i := range list {
		mode := i.Mode.String()
		if i.Device == "" {
			mode = "-"
		}
		fmt.Fprintln(w, row(i.Name, cmp.Or(i.Device, "-"), mode, a.interfaceNotes(&i)))
	}
}

func (a *app) interfaceNotes(i *director.InterfaceState) string {
	var notes []string
	if i.Why != "" {
		notes = append(notes, i.Why)
	}
	if i.Warning != "" {
		notes = append(notes, a.style.red("warning: "+i.Warning))
	}
	if i.Error != "" {
		notes = append(notes, a.style.red("error: "+i.Error))
	}
	return strings.Join(notes, "; ")
}
