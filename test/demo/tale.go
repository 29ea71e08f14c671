// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"time"

	"xdplvs/test/stage"
)

// tale is what is told, step by step.
type tale struct {
	*theatre
	screen *stage.Screen
	keep   bool

	weights  map[string]int // in force
	download *download

	readBefore int64 // bytes of the download, when its real server was quiesced
}

// requests is how many go to each service: whole cycles of the weights, before and after.
const requests = 60

// tell plays all steps, until one fails.
func (t *tale) tell(ctx context.Context) error {
	steps := []func(context.Context) error{
		t.network, t.run, t.spreadFirst, t.quiesce, t.spreadAgain, t.finishDownload, t.counters,
	}
	if t.keep {
		steps = append(steps, t.hints)
	} else {
		steps = append(steps, t.stopDaemon)
	}
	for _, step := range steps {
		if err := step(ctx); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return nil
}

func (t *tale) network(ctx context.Context) error {
	t.screen.Step("The network", "Network namespaces on one switch; the real servers have the virtual addresses on lo (LVS-DR).")
	var b strings.Builder
	host := func(name string, v4, v6 any, what string) {
		fmt.Fprintf(&b, "%-9s %-10v %-10v %s\n", name, v4, v6, what)
	}
	host("client", client4, client6, fmt.Sprintf("sends to %v and %v", vip4, vip6))
	host("director", director4, director6, "is its router to these")
	for _, r := range reals {
		host(r.name, r.v4, r.v6, "HTTP on port 80, UDP on port 53")
	}
	t.screen.Block(b.String())
	return t.build(ctx)
}

func (t *tale) run(ctx context.Context) error {
	t.weights = firstWeights()
	if err := t.configure(); err != nil {
		return err
	}
	t.screen.Step("The director starts", "Its whole configuration: weighted round robin for HTTP over IPv4 and IPv6, round robin for DNS.")
	t.screen.Block(configText(t.director.Socket(), t.director.Pins, t.weights))
	if err := t.show(ctx, "check", t.director.Config()); err != nil {
		return err
	}
	t.screen.Command("director run -c "+t.director.Config()+" &", "")
	return t.director.Start(ctx)
}

// configure writes the configuration.
func (t *tale) configure() error {
	return t.director.Configure(configText(t.director.Socket(), t.director.Pins, t.weights))
}

// show runs a command of the director, and prints it with its output.
func (t *tale) show(ctx context.Context, args ...string) error {
	out, err := t.director.Ask(ctx, args...)
	if err != nil {
		return err
	}
	t.screen.Command("director "+strings.Join(args, " "), out)
	return nil
}

func (t *tale) spreadFirst(ctx context.Context) error {
	t.screen.Step("Traffic", fmt.Sprintf("%d requests to each service, each from a new port: who answered how often.", requests))
	if err := t.spreadAll(ctx); err != nil {
		return err
	}
	return t.show(ctx, "list")
}

func (t *tale) spreadAll(ctx context.Context) error {
	var tallies []tally
	for _, service := range services {
		got, err := t.spread(ctx, service, requests)
		if err != nil {
			return err
		}
		if err := got.check(t.weights); err != nil {
			return err
		}
		tallies = append(tallies, got)
	}
	showSpread(t.screen, realNames(), t.weights, tallies)
	return nil
}

func (t *tale) quiesce(ctx context.Context) (err error) {
	if t.download, err = t.startDownload(ctx, services[0]); err != nil {
		return err
	}
	quiesced := t.download.real
	t.screen.Step("Quiesce "+quiesced, "Its weight becomes 0 while a long download comes from it: known connections go on.")
	before := configText(t.director.Socket(), t.director.Pins, t.weights)
	t.weights = maps.Clone(t.weights)
	t.weights[quiesced] = 0
	if err := t.configure(); err != nil {
		return err
	}
	t.screen.Command("edit "+t.director.Config(), changedLines(before, configText(t.director.Socket(), t.director.Pins, t.weights)))
	if err := t.show(ctx, "reload"); err != nil {
		return err
	}
	t.readBefore = t.download.read.Load()
	return nil
}

func (t *tale) spreadAgain(ctx context.Context) error {
	t.screen.Step("Traffic again", fmt.Sprintf("%s answers nothing new; list shows its weight 0, and the one connection that is still active.", t.download.real))
	if err := t.spreadAll(ctx); err != nil {
		return err
	}
	return t.show(ctx, "list", "web")
}

func (t *tale) finishDownload(ctx context.Context) error {
	t.screen.Step("The download ends", "It came through the director from the quiesced real server the whole time.")
	sum, err := t.download.finish(ctx)
	if err != nil {
		return err
	}
	t.screen.Block(fmt.Sprintf("%d MiB from %s, %.1f of them after its weight became 0\nSHA-256 %s, as it should be\n",
		downloadBytes>>20, t.download.real, float64(downloadBytes-t.readBefore)/(1<<20), sum))
	return nil
}

// connectionsShown is how many lines of connections are.
const connectionsShown = 8

func (t *tale) counters(ctx context.Context) error {
	t.screen.Step("Counters", "Totals, rates after some seconds of traffic, connections, and verdicts: why packets left.")
	if err := t.keepAsking(ctx, rateTime); err != nil {
		return err
	}
	for _, command := range []string{"stats", "rate"} {
		if err := t.show(ctx, command); err != nil {
			return err
		}
	}
	conns, err := t.director.Ask(ctx, "connections")
	if err != nil {
		return err
	}
	t.screen.Command(fmt.Sprintf("director connections | head -%d", connectionsShown), firstLines(conns, connectionsShown))
	if err := t.show(ctx, "connections", "count"); err != nil {
		return err
	}
	verdicts, err := t.director.Ask(ctx, "stats", "--verdicts")
	if err != nil {
		return err
	}
	t.screen.Command("director stats --verdicts | grep -v ' 0$'", withoutZeros(verdicts))
	return nil
}

// rateTime is two periods of the rates' estimator, which is IPVS's.
const rateTime = 4 * time.Second

// keepAsking sends a request to each service again and again.
func (t *tale) keepAsking(ctx context.Context, d time.Duration) error {
	for end := time.Now().Add(d); time.Now().Before(end); {
		for _, service := range services {
			if _, err := t.spread(ctx, service, 1); err != nil {
				return err
			}
		}
		if err := stage.Sleep(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}

func firstLines(text string, n int) string {
	lines := strings.SplitAfter(text, "\n")
	return strings.Join(lines[:min(n, len(lines))], "")
}

// withoutZeros leaves out the lines that end in a column 0.
func withoutZeros(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		if !strings.HasSuffix(strings.TrimRight(line, "\n"), " 0") {
			b.WriteString(line)
		}
	}
	return b.String()
}

func (t *tale) stopDaemon(ctx context.Context) error {
	t.screen.Step("The daemon ends", "SIGTERM ends the process only: the data plane stays pinned, and forwards on.")
	t.screen.Command(fmt.Sprintf("kill %d", t.director.PID()), "")
	if err := t.director.Stop(); err != nil {
		return err
	}
	return t.spreadAll(ctx)
}

// hints are commands to copy.
func (t *tale) hints(context.Context) error {
	inClient := "ip netns exec " + t.client.NSName()
	director := t.binary + " -s " + t.director.Socket()
	t.screen.Step("Your turn", "Everything runs until Enter or Ctrl-C. Commands for another terminal, in this directory:")
	text := ""
	for _, hint := range []struct{ what, command string }{
		{"requests", inClient + " curl -gs http://" + vip4.String() + "/ 'http://[" + vip6.String() + "]/'"},
		{"60 requests", "for i in $(seq 60); do " + inClient + " curl -s http://" + vip4.String() + "/; done | sort | uniq -c"},
		{"a datagram", inClient + " bash -c 'exec 3<>/dev/udp/" + vip4.String() + "/53; echo query >&3; head -1 <&3'"},
		{"watch", director + " list -w"},
		{"connections", director + " connections"},
		{"let " + t.download.real + " serve again", "sed -i 's/weight: 0/weight: 3/' " + t.director.Config() + " && " + director + " reload"},
		{"edit", "${EDITOR:-vi} " + t.director.Config() + " && " + director + " reload"},
		{"log", "tail -f " + t.director.Log()},
	} {
		text += hint.what + ":\n  " + t.screen.Mark(stage.Bold, hint.command) + "\n"
	}
	t.screen.Block(text)
	return nil
}
