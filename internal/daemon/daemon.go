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
	"path/filepath"
	"runtime/debug"
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
	"xdplvs/internal/door"
	"xdplvs/internal/explain"
	"xdplvs/internal/health"
	"xdplvs/internal/nexthop"
	notification "xdplvs/internal/notify"
	"xdplvs/internal/offload"
	"xdplvs/internal/trace"
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
	config    *configs.Config // of the start
	plane     *bpf.DataPlane
	director  *director.Director
	resolver  *nexthop.Resolver
	addresses *vip.Manager
	health    *health.Monitor
	notifier  *notification.Notifier
	door      doorkeeper
	probes    doorkeeper             // the one for probes
	noProbes  atomic.Pointer[string] // why there is none; nil: there is one, or none is wanted
	explainer *explain.Explainer
	watched   *watched
	gate      *api.Gate // of who comes over TCP; nil: nobody does
	tracer    *trace.Tracer
	names     atomic.Pointer[map[netip.Addr]string] // of real servers, with a blank behind them
	lost      bool                                  // there were tables of a former process that could not be taken over
	reached   chan struct{}                         // closed when the director was told the first complete next hops

	started   bool       // the configuration was put in force
	reloading sync.Mutex // one reload or change at a time: who reads the file last applies it last
	doc       document   // in force
	// changesFile is where run-time changes are: beside the socket, for a directory in a bpffs, as the
	// state's, holds no files.
	changesFile string
	zeroes      zeroes
	readings    readings
	unconfirmed *trial // of apply --confirm
	finish      context.CancelFunc
	detach      atomic.Bool // see Options
}

// Run runs the director until ctx ends. A SIGHUP reads the configuration again.
// The data plane forwards on when it returns, unless opts say otherwise.
func Run(ctx context.Context, opts Options) error {
	text, config, err := load(opts.ConfigFile, opts.Log)
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
	if err := recordDataPlane(config.Socket, config.StateDir); err != nil {
		return err
	}
	d := &daemon{opts: opts, log: opts.Log, config: config, watched: newWatched(),
		changesFile: filepath.Join(filepath.Dir(config.Socket), "changes.json")}
	d.detach.Store(opts.Detach)
	ctx, d.finish = context.WithCancel(ctx)
	defer d.finish()
	if err := d.recall(text); err != nil {
		return err
	}
	if err := d.open(); err != nil {
		return err
	}
	defer d.close()
	return d.run(ctx)
}

// thrift gives back what the start has taken, which is several times what is kept of it, and makes the garbage collector keep less than Go
// would by itself from now on: a daemon that waits most of the time has processor time to spare, and
// shares the memory with the tables. GOGC of the environment is somebody's will.
func thrift() {
	const percent = 25
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(percent)
	}
	debug.FreeOSMemory()
}

// recall finds out what is to be in force: the file's text, with the changes of a former run.
func (d *daemon) recall(text []byte) error {
	changes, err := readChanges(d.changesFile)
	if err != nil {
		return err
	}
	if d.doc, err = newDocument(text, d.config, changes); err != nil {
		return fmt.Errorf("%s and the run-time changes in %s contradict each other: %w", d.opts.ConfigFile, d.changesFile, err)
	}
	if !changes.Empty() {
		d.log.Warn("run-time changes of the former run are in force", "event", "changes_kept", "services", len(d.doc.changes.Services), "file", d.changesFile)
	}
	return nil
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
	if plane.Moved != nil {
		d.tellMoved(plane.Moved)
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
		Merges: offload.Merging,
		Own:    ownAddresses,
		Memory: availablePages,

		Defending: d.tellDefense,
	})
	d.explainer = explain.New(plane, d.director)
	if d.tracer, err = trace.New(d.log, plane, clock, d.director); err != nil {
		return errors.Join(err, plane.Close())
	}
	d.resolver = nexthop.New(d.log, nexthop.Options{})
	d.names.Store(&map[netip.Addr]string{})
	d.addresses = d.newAddresses()
	d.notifier = notification.New(d.log)
	d.health = d.newHealth()
	d.door = door.New(door.Options{Log: d.log, Program: plane.DoorProgram})
	d.probes = door.NewForProbes(door.Options{Log: d.log, Program: plane.DoorProgram})
	d.reached = make(chan struct{})
	return nil
}

func (d *daemon) close() {
	if err := d.plane.Close(); err != nil {
		d.log.Error("close data plane", "event", "close_failed", "error", err)
	}
}

// tellMoved says what was carried over from tables of other sizes, or of another version.
func (d *daemon) tellMoved(m *bpf.Moved) {
	log, what := d.log.Info, "limits were changed: what the tables held is in others now"
	if m.Lost > 0 {
		log = d.log.Warn
	}
	facts := []any{"event", "tables_moved", "connections", m.Connections, "templates", m.Templates, "without_room", m.Lost}
	if m.Rows {
		what = "another version has written the tables: what they held is in this version's now"
		facts = append(facts, "left_behind", strings.Join(m.Left, " "))
	}
	log(what, facts...)
}

// run starts the parts, lets them work until ctx ends, and waits for all of them.
func (d *daemon) run(ctx context.Context) error {
	doors, err := d.listen()
	if err != nil {
		return err
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
	group.Go(func() error { return d.feedSuspects(ctx) })
	group.Go(func() error { return d.addresses.Run(ctx) })
	group.Go(func() error { return d.door.Run(ctx) })
	group.Go(func() error { return d.probes.Run(ctx) })
	group.Go(func() error { return d.health.Run(ctx) })
	group.Go(func() error { return d.notifier.Run(ctx) })
	group.Go(func() error { return d.tracer.Run(ctx) })
	group.Go(func() error { return d.feedWatchdog(ctx) })
	group.Go(func() error { return d.feedWatchers(ctx) })
	d.serve(ctx, group, doors)
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
	d.health.Prepare(d.doc.health)
	want := d.doc.desired()
	err := d.enforce(want, d.doc.probes(), func(want director.Desired) error {
		err := apply(ctx, want)
		if err == nil {
			err = d.setHealth(&d.doc)
		}
		if err == nil {
			err = d.awaitHops(ctx)
		}
		if err == nil {
			err = then(ctx, want)
		}
		return err
	})
	d.reloading.Unlock()
	if ctx.Err() != nil {
		return nil
	}
	if err != nil {
		return fmt.Errorf("apply %s: %w", d.opts.ConfigFile, err)
	}
	d.started = true
	d.watched.changed(&document{config: d.doc.config}, &d.doc)
	d.health.Retry() // the way via services begins here
	d.readings.applied()
	d.warnPorts(&want)
	if err := d.holdAddresses(ctx, &d.doc); err != nil && ctx.Err() == nil {
		return err
	}
	d.log.Info("ready", "event", "ready", "version", d.opts.Version,
		"services", len(want.Services), "memory_bytes", d.plane.Tables.Bytes())
	notify(d.log, systemd.SdNotifyReady)
	thrift()
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
			d.health.Retry()
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
	if d.unconfirmed != nil {
		return errUnconfirmed
	}
	text, err := configs.Read(d.opts.ConfigFile)
	if err != nil {
		return err
	}
	former := d.doc.text
	if err := d.take(ctx, d.opts.ConfigFile, text); err != nil {
		return err
	}
	d.remember(former)
	return nil
}

// take puts a file's text in force, with the run-time changes.
func (d *daemon) take(ctx context.Context, file string, text []byte) error {
	doc, err := d.read(file, text)
	if err != nil {
		return err
	}
	return d.use(ctx, doc)
}

// use puts a document in force, with its own timeouts.
func (d *daemon) use(ctx context.Context, doc document) error {
	d.warnPorts(&doc.config.Desired)
	return d.put(ctx, doc, doc.config.Desired.Timeouts)
}

// read makes a document of a file's text, if it can be in force while the director runs.
func (d *daemon) read(file string, text []byte) (document, error) {
	config, err := parse(file, text, d.log)
	if err != nil {
		return document{}, err
	}
	if config.Limits != d.config.Limits || config.StateDir != d.config.StateDir {
		return document{}, fmt.Errorf("%s: limits and state_dir are fixed while the director runs: restart it to change them", file)
	}
	if d.opts.Socket == "" && config.Socket != d.config.Socket {
		return document{}, fmt.Errorf("%s: socket is fixed while the director runs: restart it to change it", file)
	}
	if config.Metrics != d.config.Metrics {
		return document{}, fmt.Errorf("%s: metrics is fixed while the director runs: restart it to change it", file)
	}
	if err := d.checkAPI(file, config); err != nil {
		return document{}, err
	}
	doc, err := newDocument(text, config, d.doc.changes)
	if err != nil {
		return document{}, fmt.Errorf("%s: %w (discard the run-time changes: director changes discard)", file, err)
	}
	return doc, nil
}

// end says what becomes of the data plane, and sees to it.
func (d *daemon) end() error {
	// Of a start that failed nothing stays, but what a former process has left at work does.
	failed := !d.started && d.plane.Fresh && !d.lost
	detach := d.detach.Load()
	if !detach && !failed {
		d.log.Info("stopped: the data plane is kept and forwards with its last plans and addresses",
			"event", "stopped", "data_plane", "kept", "state_dir", d.config.StateDir)
		return nil
	}
	var released error
	if detach { // the addresses first: they bring packets here
		released = d.addresses.Release()
	}
	if err := errors.Join(d.door.Remove(), d.probes.Remove(), bpf.Remove(d.config.StateDir)); err != nil {
		return errors.Join(released, fmt.Errorf("remove data plane: %w", err))
	}
	if detach && released == nil {
		released = places{d.config.Socket, d.config.StateDir}.forget()
	}
	if released != nil {
		return released
	}
	d.log.Info("stopped: the data plane is removed", "event", "stopped", "data_plane", "removed")
	return nil
}

// load reads the configuration, and tells of what may not be meant.
func load(file string, log *slog.Logger) ([]byte, *configs.Config, error) {
	text, err := configs.Read(file)
	if err != nil {
		return nil, nil, err
	}
	config, err := parse(file, text, log)
	return text, config, err
}

// parse is load for a text that was read.
func parse(file string, text []byte, log *slog.Logger) (*configs.Config, error) {
	config, err := configs.Parse(file, text)
	if err == nil {
		err = config.ReadLists()
	}
	if err != nil {
		return nil, err
	}
	for _, note := range config.Notes {
		log.Warn(note.Message, "event", "config_note", "file", note.File, "line", note.Line, "path", note.Path)
	}
	return config, nil
}

// notify tells the service manager, where there is one.
func notify(log *slog.Logger, state string) {
	if _, err := systemd.SdNotify(false, state); err != nil {
		log.Warn("notify service manager", "event", "notify_failed", "error", err)
	}
}

// Check reads a configuration and says what is in it, and, in further lines, what may not be meant.
func Check(file string) (string, error) {
	config, err := configs.Load(file)
	if err == nil {
		err = checkRemote(file, &config.API)
	}
	if err != nil {
		return "", err
	}
	reals, sorry := 0, 0
	for i := range config.Desired.Services {
		reals += len(config.Desired.Services[i].Reals)
		sorry += len(config.Desired.Services[i].Sorry)
	}
	text := fmt.Sprintf("%s, %s", count(len(config.Desired.Services), "service"), count(reals, "real server"))
	if sorry > 0 {
		text += ", " + count(sorry, "sorry server")
	}
	for _, note := range config.Notes {
		text += "\n" + note.Error()
	}
	return text, nil
}

// Services are those of a configuration; those of marks have what is known of their addresses as VIPs.
func Services(file string) ([]director.Service, error) {
	config, err := configs.Load(file)
	if err != nil {
		return nil, err
	}
	services := config.Desired.Services
	for i := range services {
		if s := &services[i]; s.Key.Mark != 0 {
			s.VIPs = s.Addresses(config.Desired.Marks)
		}
	}
	return services, nil
}

func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
