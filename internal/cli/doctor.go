// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"cmp"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"xdplvs/internal/doctor"
)

func (a *app) doctorCommand() *cobra.Command {
	var file string
	var timeout time.Duration
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "doctor [-c FILE]",
		Short: "Look for what keeps this machine from being a director",
		Long: "Look for what keeps this machine from being a director, before it is one or while it\n" +
			"is: kernel, interfaces, ways to the real servers, the system's settings, and who else\n" +
			"answers for a virtual address. Without a configuration only the machine is looked at.\n\n" +
			"Nothing is changed. The network is asked by ARP and neighbour solicitations. With a\n" +
			"failure the exit status is 1; warnings are no failures.",
		Args: noArgs,
	}
	cmd.Flags().StringVarP(&file, "config", "c", "", "the configuration `FILE` ($"+envConfig+")")
	cmd.Flags().DurationVar(&timeout, "timeout", doctor.DefaultTimeout, "how long it may take")
	cmd.Flags().BoolVar(&asJSON, "json", false, "the same as -o json")
	format := addFormat(cmd, "text", "json")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if timeout <= 0 {
			return usagef("--timeout %v: want some time", timeout)
		}
		report, err := a.Doctor(cmd.Context(), cmp.Or(file, a.getenv(envConfig)), timeout)
		if err != nil { // as director check prints it
			fmt.Fprintln(a.Stderr, err)
			return errPrinted
		}
		return a.printReport(report, asJSON || format.json())
	}
	return cmd
}

// printReport ends with a failure if there is one.
func (a *app) printReport(report *doctor.Report, asJSON bool) error {
	if asJSON {
		if err := writeJSON(a.out, report); err != nil {
			return err
		}
	} else {
		a.printFindings(report)
	}
	if report.Failures > 0 {
		return errPrinted
	}
	return nil
}

// printFindings prints a line for each, and what they sum up to.
func (a *app) printFindings(report *doctor.Report) {
	for _, f := range report.Findings {
		level := fmt.Sprintf("%-8s", f.Level)
		switch f.Level {
		case doctor.Failure:
			level = a.style.red(level)
		case doctor.Warning:
			level = a.style.yellow(level)
		}
		advice := ""
		if f.Advice != "" {
			advice = "; " + f.Advice
		}
		fmt.Fprintf(a.out, "%s %-12s %s%s\n", level, f.Check, f.Text, advice)
	}
	fmt.Fprintln(a.out, report.Summary())
}
