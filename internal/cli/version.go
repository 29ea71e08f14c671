// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"cmp"
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// build is what this program was made from.
type build struct {
	Version  string `json:"version"`            // the module's; (devel) outside of a release
	Revision string `json:"revision,omitempty"` // of the version control system
	Time     string `json:"time,omitempty"`     // of the revision, RFC 3339
	Modified bool   `json:"modified,omitempty"` // it had changes that are in no revision
	Go       string `json:"go"`
	Platform string `json:"platform"`
	Daemon   string `json:"daemon,omitempty"` // the running daemon's version, if it was asked for
}

func (a *app) build() build {
	b := build{Version: "(devel)", Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	info, ok := a.BuildInfo()
	if !ok {
		return b
	}
	b.Version = cmp.Or(info.Main.Version, b.Version)
	b.Go = cmp.Or(info.GoVersion, b.Go)
	for _, s := range info.Settings {
		b.set(s)
	}
	return b
}

func (b *build) set(s debug.BuildSetting) {
	switch s.Key {
	case "vcs.revision":
		b.Revision = s.Value
	case "vcs.time":
		b.Time = s.Value
	case "vcs.modified":
		b.Modified = s.Value == "true"
	}
}

// String is the text of director version.
func (b build) String() string {
	text := fmt.Sprintf("director %s\nrevision %s", b.Version, cmp.Or(b.Revision, "unknown"))
	if b.Time != "" {
		text += " of " + b.Time
	}
	if b.Modified {
		text += ", with changes"
	}
	text += fmt.Sprintf("\n%s %s\n", b.Go, b.Platform)
	if b.Daemon != "" {
		text += "daemon " + b.Daemon + "\n"
	}
	return text
}

func (a *app) versionCommand() *cobra.Command {
	var daemon bool
	cmd := &cobra.Command{Use: "version", Short: "Print the version", Args: noArgs}
	cmd.Flags().BoolVar(&daemon, "daemon", false, "ask the running daemon for its version too")
	format := addFormat(cmd, "text", "json")
	cmd.RunE = func(cmd *cobra.Command, _ []string) (err error) {
		b := a.build()
		if daemon {
			client := a.client()
			defer client.Close()
			if b.Daemon, err = client.Version(cmd.Context()); err != nil {
				return err
			}
		}
		if format.json() {
			return writeJSON(a.out, b)
		}
		_, err = fmt.Fprint(a.out, b)
		return err
	}
	return cmd
}
