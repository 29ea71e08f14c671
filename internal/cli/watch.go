// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"xdplvs/director"
	"xdplvs/internal/api"
)

// watching is one director watch.
type watching struct {
	*app
	client *api.Client
	json   bool
	since  string // position of the last event
	heard  bool   // the daemon has answered once
}

func (a *app) watchCommand() *cobra.Command {
	w := &watching{app: a}
	cmd := &cobra.Command{
		Use:   "watch",
		Short: "Show what changes, as it happens",
		Long: "Show what changes, as it happens: services and real servers, their health, quorums,\n" +
			"defenses, configurations. It goes on where it was when the daemon comes back. Who is\n" +
			"too slow is told that events are lost.",
		Example: "  director watch\n  director watch -o json --since \"$POSITION\"",
		Args:    noArgs,
	}
	format := addFormat(cmd, "text", "json")
	cmd.Flags().StringVar(&w.since, "since", "", "go on behind the event with this `POSITION` (-o json shows them)")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		w.json = format.json()
		w.client = a.client()
		defer w.client.Close()
		return w.run(cmd.Context())
	}
	return cmd
}

// watchAgain is how long a watcher waits before he tries again.
const watchAgain = time.Second

// run watches until ctx ends, which is no error. Once it has worked, a daemon that is gone is waited for.
func (w *watching) run(ctx context.Context) error {
	for gone := false; ; {
		err := w.client.Watch(ctx, w.since, func(e *director.Event) error {
			w.heard, gone = true, false
			w.since = e.Position
			w.show(e)
			return w.out.err
		})
		switch {
		case ctx.Err() != nil:
			return nil
		case !w.heard || w.out.err != nil:
			return err
		case !gone:
			w.printError(fmt.Errorf("%w; waiting for the daemon", err))
			gone = true
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(watchAgain):
		}
	}
}

// show prints an event, unless it is that nothing has happened.
func (w *watching) show(e *director.Event) {
	if e.Kind == director.EventAlive {
		return
	}
	if w.json {
		_ = json.NewEncoder(w.out).Encode(e) // its error ends the command
		return
	}
	mark, text := w.sentence(e)
	fmt.Fprintf(w.out, "%s  %s %s\n", e.Time.Local().Format("15:04:05"), mark, text)
}

// whom names a service, or a real server of it.
func whom(e *director.Event) string {
	service := cmp.Or(e.Name, e.Service)
	switch {
	case e.Real == "":
		return service
	case e.RealName != "":
		return fmt.Sprintf("%s %s (%s)", service, e.RealName, e.Real)
	default:
		return service + " " + e.Real
	}
}

// sentence says what has happened, with a mark that says how bad that is.
func (w *watching) sentence(e *director.Event) (mark, text string) {
	s, who := w.style, w.style.bold(whom(e))
	because := prefixed(": ", e.Evidence)
	switch e.Kind {
	case director.EventServiceAdded, director.EventRealAdded:
		return "+", who + " is added" + prefixed(": ", keysOf(e))
	case director.EventServiceRemoved, director.EventRealRemoved:
		return "-", who + " is removed"
	case director.EventServiceChanged, director.EventRealChanged:
		return "~", who + prefixed(": ", keysOf(e))
	case "real_up":
		return s.green("^"), who + " is " + s.green("up") + because
	case "real_down":
		return s.red("v"), who + " is " + s.red("down") + because
	case "real_drain":
		return s.yellow("v"), who + " is " + s.yellow("draining") + because
	case "real_unknown":
		return s.yellow("?"), who + " is " + s.yellow("unknown") + because
	case "quorum_lost":
		return s.red("!"), who + " has lost its quorum"
	case "quorum_gained":
		return s.green("^"), who + " has its quorum again"
	default:
		return w.aside(e)
	}
}

// aside is sentence for what is of no service.
func (w *watching) aside(e *director.Event) (mark, text string) {
	s := w.style
	switch e.Kind {
	case director.EventDefenseBegins:
		return s.yellow("!"), "defense " + s.bold(e.Strategy) + " begins" + prefixed(", for ", e.Cause)
	case director.EventDefenseEnds:
		return s.green("^"), "defense " + s.bold(e.Strategy) + " ends"
	case director.EventTimeoutsSet:
		return "~", s.bold("timeouts") + prefixed(": ", keysOf(e))
	case director.EventDefenseSet:
		return "~", s.bold("defense") + prefixed(": ", keysOf(e))
	case director.EventConfiguration:
		return "=", fmt.Sprintf("configuration %d is in force", e.Generation)
	case director.EventLost:
		count := ""
		if e.Lost > 0 {
			count = fmt.Sprintf(" (%d)", e.Lost)
		}
		return s.yellow("!"), "events are lost" + count + ": director list shows what is"
	default: // of a newer daemon
		return " ", strings.TrimSpace(string(e.Kind) + " " + whom(e))
	}
}

func prefixed(prefix, text string) string {
	if text == "" {
		return ""
	}
	return prefix + text
}

// keysOf are the keys that have other values.
func keysOf(e *director.Event) string {
	var parts []string
	for _, k := range e.Keys {
		if k.Old == "" {
			parts = append(parts, k.Key+" "+k.New)
		} else {
			parts = append(parts, fmt.Sprintf("%s %s -> %s", k.Key, k.Old, cmp.Or(k.New, "(none)")))
		}
	}
	return strings.Join(parts, ", ")
}
