// SPDX-License-Identifier: Apache-2.0

// Package daemon puts the parts together: configuration, data plane, director,
// next hops and the socket. It is the only package that knows all of them.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/signal"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"

	systemd "github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sync/errgroup"

	"xdplvs/bpf"
	"xdplvs/configs"
	"xdplvs/director"
	"xdplvs/internal/api"
	"xdplvs/internal/explain"
	"xdplvs/internal/nexthop"
	"xdplvs/internal/vip"
)

// Options are the settings of a run.
type Options struct {
	ConfigFile string
	Socket     string // empty: as the configuration says
	Version    string
	Revision   string // of the sources
	Log        *slog.Logger
	// Detach takes the data plane off at the end, instead of leaving it at work.
	Detach bool
}

// daemon is one run.
type daemon struct {
	opts      Options
	log       *slog.Logger
	config    *configs.Config
	plane     *bpf.DataPlane
	director  *director.Director
	resolver  *nexthop.Resolver
	addresses *vip.Manager
	explainer *explain.Explainer
	names     atomic.Pointer[map[netip.Addr]string] // of real servers, with a blank behind them
	lost      bool                                  // there were tables of a former process that could not be taken over
	reached   chan struct{}                         // closed when the director was told the first complete next hops

	started   bool       // the configuration was put in force
	reloading sync.Mutex // one reload at a time: who reads the file last applies it last
	readings  readings
}

// Run runs the director until ctx ends. A SIGHUP reads the configuration again.
// The data plane forwards on when it returns, unless opts say otherwise.
func Run(ctx context.Context, opts Options) error {
	config, err := configs.Load(opts.ConfigFile)
	if err != nil {
		return err
	}
	if opts.Socket != "" {
		config.Socket = opts.Socket
	}
	hold, err := lock(config.Socket)
	if err != nil {
		return err
	}
	defer hold.release()
	if err := bpf.MakePinDir(config.StateDir); err != nil {
		return err
	}
	state, err := lockState(config.StateDir)
	if err != nil {
		return err
	}
	defer state.release()
	d := &daemon{opts: opts, log: opts.Log, config: config}
	if err := d.open(); err != nil {
		return err
	}
	defer d.close()
	return d.run(ctx)
}

// open loads the data plane and makes the parts; nothing runs yet.
func (d *daemon) open() error {
	plane, lost, err := bpf.Open(d.config.StateDir, sizes(d.config.Limits))
	if err != nil {
		return err
	}
	d.plane, d.lost = plane, lost != nil
	if lost != nil {
		d.log.Warn("connections of the former run are lost", "event", "tables_replaced", "reason", lost)
	}
	clock, err := plane.Clock()
	if err != nil {
		return errors.Join(err, plane.Close())
	}
	d.director = director.New(director.Options{
		Log:    d.log,
		Tables: plane.Tables,
		Plane:  planeOf{plane},
		Clock:  clock,
		Links:  findEntrance,
		Tags:   d.keepTags,
		Own:    ownAddresses,
	})
	d.explainer = explain.New(plane, d.director)
	d.resolver = nexthop.New(d.log, nexthop.Options{})
	d.names.Store(&map[netip.Addr]string{})
	d.addresses = d.newAddresses()
	d.reached = make(chan struct{})
	return nil
}

func (d *daemon) close() {
	if err := d.plane.Close(); err != nil {
		d.log.Error("close data plane", "event", "close_failed", "error", err)
	}
}

// run starts the parts, lets them work until ctx ends, and waits for all of them.
func (d *daemon) run(ctx context.Context) error {
	socket, err := api.Listen(d.config.Socket, api.ListenOptions{})
	if err != nil {
		return err
	}
	open, err := d.listenOpen()
	if err != nil {
		return errors.Join(err, socket.Close())
	}
	pages, err := d.pages()
	if err != nil {
		return errors.Join(err, socket.Close(), closeListener(open))
	}
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	defer signal.Stop(hangups)

	d.reloading.Lock() // until the first configuration is in force
	asked := ctx       // to end; the group's context also ends when a part fails
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return d.director.Run(ctx) })
	group.Go(func() error { return d.resolver.Run(ctx) })
	group.Go(func() error { return d.feedHops(ctx) })
	group.Go(func() error { return d.addresses.Run(ctx) })
	group.Go(func() error { return d.feedWatchdog(ctx) })
	served := api.ServerOptions{Pages: pages}
	group.Go(func() error { return api.NewServer(d.log, d.backend(), served).Serve(ctx, socket) })
	if open != nil {
		group.Go(func() error { return api.NewPageServer(d.log, served).Serve(ctx, open) })
	}
	group.Go(func() error {
		if err := d.start(ctx); err != nil {
			return err
		}
		return d.serveSignals(ctx, hangups)
	})
	err = group.Wait()
	if asked.Err() != nil && errors.Is(err, context.Canceled) {
		err = nil
	}
	notify(d.log, systemd.SdNotifyStopping)
	return errors.Join(err, d.end())
}

// start puts the configuration in force and says so when traffic can flow. New
// tables are filled before a packet meets them, next hops included; those of a
// former process are at work already.
func (d *daemon) start(ctx context.Context) error {
	apply, then := d.director.Set, noMore
	if d.plane.Fresh {
		apply, then = d.director.Prepare, d.director.Set
	}
	err := apply(ctx, d.config.Desired)
	if err == nil {
		err = d.awaitHops(ctx)
	}
	if err == nil {
		err = then(ctx, d.config.Desired)
	}
	d.reloading.Unlock()
	if ctx.Err() != nil {
		return nil
	}
	if err != nil {
		return fmt.Errorf("apply %s: %w", d.opts.ConfigFile, err)
	}
	d.started = true
	d.readings.applied()
	d.warnPorts(&d.config.Desired)
	if err := d.holdAddresses(ctx, d.config); err != nil && ctx.Err() == nil {
		return err
	}
	d.log.Info("ready", "event", "ready", "version", d.opts.Version,
		"services", len(d.config.Desired.Services), "memory_bytes", d.plane.Tables.Bytes())
	notify(d.log, systemd.SdNotifyReady)
	return nil
}

func noMore(context.Context, director.Desired) error { return nil }

// awaitHops waits until the first complete next hops are in the tables.
func (d *daemon) awaitHops(ctx context.Context) error {
	select {
	case <-d.reached:
	case <-ctx.Done():
		return ctx.Err()
	}
	// A call is answered after the next hops that were set before it are in force.
	_, err := d.director.Snapshot(ctx)
	return err
}

// feedHops carries targets to the resolver and next hops back.
func (d *daemon) feedHops(ctx context.Context) error {
	synced := d.resolver.Synced()
	for {
		select {
		case <-ctx.Done():
			return nil
		case targets := <-d.director.Targets():
			d.resolver.SetTargets(targets)
		case <-d.resolver.Changed():
			d.director.SetNextHops(convertHops(d.resolver.Hops()))
		case <-synced:
			synced = nil
			d.director.SetNextHops(convertHops(d.resolver.Hops()))
			close(d.reached)
		}
	}
}

func (d *daemon) serveSignals(ctx context.Context, hangups <-chan os.Signal) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-hangups:
			if err := d.reload(ctx); err != nil {
				d.log.Error("reload refused, the configuration in force stays", "event", "reload_refused", "error", err)
			}
		}
	}
}

// reload reads the file again. An error leaves everything as it was.
func (d *daemon) reload(ctx context.Context) error {
	d.reloading.Lock()
	defer d.reloading.Unlock()
	notify(d.log, systemd.SdNotifyReloading+"\n"+systemd.SdNotifyMonotonicUsec())
	err := d.readAgain(ctx)
	d.readings.reloaded(err)
	status := "STATUS=reloaded"
	if err != nil {
		first, _, _ := strings.Cut(err.Error(), "\n")
		status = "STATUS=reload refused: " + first
	} else {
		d.log.Info("reloaded", "event", "reloaded", "file", d.opts.ConfigFile)
	}
	notify(d.log, systemd.SdNotifyReady+"\n"+status)
	return err
}

func (d *daemon) readAgain(ctx context.Context) error {
	config, err := configs.Load(d.opts.ConfigFile)
	if err != nil {
		return err
	}
	if config.Limits != d.config.Limits || config.StateDir != d.config.StateDir {
		return fmt.Errorf("%s: limits and state_dir are fixed while the director runs: restart it to change them", d.opts.ConfigFile)
	}
	if d.opts.Socket == "" && config.Socket != d.config.Socket {
		return fmt.Errorf("%s: socket is fixed while the director runs: restart it to change it", d.opts.ConfigFile)
	}
	if config.Metrics != d.config.Metrics {
		return fmt.Errorf("%s: metrics is fixed while the director runs: restart it to change it", d.opts.ConfigFile)
	}
	d.warnPorts(&config.Desired)
	if err := d.director.Set(ctx, config.Desired); err != nil {
		return err
	}
	return d.holdAddresses(ctx, config)
}

// end says what becomes of the data plane, and sees to it.
func (d *daemon) end() error {
	// Of a start that failed nothing stays, but what a former process has left at work does.
	failed := !d.started && d.plane.Fresh && !d.lost
	if !d.opts.Detach && !failed {
		d.log.Info("stopped: the data plane is kept and forwards with its last plans and addresses",
			"event", "stopped", "data_plane", "kept", "state_dir", d.config.StateDir)
		return nil
	}
	var released error
	if d.opts.Detach { // the addresses first: they bring packets here
		released = d.addresses.Release()
	}
	if err := bpf.Remove(d.config.StateDir); err != nil {
		return errors.Join(released, fmt.Errorf("remove data plane: %w", err))
	}
	if released != nil {
		return released
	}
	d.log.Info("stopped: the data plane is removed", "event", "stopped", "data_plane", "removed")
	return nil
}

// notify tells the service manager, where there is one.
func notify(log *slog.Logger, state string) {
	if _, err := systemd.SdNotify(false, state); err != nil {
		log.Warn("notify service manager", "event", "notify_failed", "error", err)
	}
}

// Check reads a configuration and says what is in it.
func Check(file string) (string, error) {
	config, err := configs.Load(file)
	if err != nil {
		return "", err
	}
	reals := 0
	for i := range config.Desired.Services {
		reals += len(config.Desired.Services[i].Reals)
	}
	return fmt.Sprintf("%s, %s", count(len(config.Desired.Services), "service"), count(reals, "real server")), nil
}

// Services are those of a configuration.
func Services(file string) ([]director.Service, error) {
	config, err := configs.Load(file)
	if err != nil {
		return nil, err
	}
	return config.Desired.Services, nil
}

func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
