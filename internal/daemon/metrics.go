// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"runtime"
	"sync"
	"time"

	"xdplvs/director"
	"xdplvs/internal/api"
	"xdplvs/internal/metrics"
)

// readings is how often the configuration was read, and how it went.
type readings struct {
	mu      sync.Mutex
	loaded  time.Time // in force since
	reloads uint64
	refused uint64
	failed  bool // the newest one
}

// applied is told that the first configuration is in force.
func (r *readings) applied() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.loaded = time.Now()
}

// reloaded is told how a reload went.
func (r *readings) reloaded(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failed = err != nil
	if err != nil {
		r.refused++
		return
	}
	r.reloads++
	r.loaded = time.Now()
}

// status is what the exporter shows.
func (r *readings) status() metrics.Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	return metrics.Status{Reloads: r.reloads, Refused: r.refused, Loaded: r.loaded, UpToDate: !r.loaded.IsZero() && !r.failed}
}

// exported is what the exporter reads.
type exported struct {
	backend
	program metrics.Program
}

// Status implements metrics.Source.
func (e exported) Status() metrics.Status {
	s := e.d.readings.status()
	s.Ready = e.d.unready(context.Background()) == nil
	s.Program = e.program
	s.Tables = e.d.plane.Tables.Bytes()
	return s
}

// answerTime is how long the director may take to answer before it counts as stuck.
const answerTime = 5 * time.Second

// snapshotSoon is the state, if the director answers in time.
func (d *daemon) snapshotSoon(ctx context.Context) (*director.Snapshot, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	return d.director.Snapshot(ctx)
}

// unready says why traffic of the configuration cannot be taken yet.
func (d *daemon) unready(ctx context.Context) error {
	if d.readings.status().Loaded.IsZero() {
		return errors.New("the configuration is not in force yet")
	}
	s, err := d.snapshotSoon(ctx)
	if err != nil {
		return fmt.Errorf("the director does not answer: %w", err)
	}
	for i := range s.Interfaces {
		if n := &s.Interfaces[i]; n.Error != "" {
			return fmt.Errorf("interface %s: %s", n.Name, n.Error)
		}
	}
	return nil
}

// stuck says why the daemon should be started again.
func (d *daemon) stuck(ctx context.Context) error {
	if _, err := d.snapshotSoon(ctx); err != nil {
		return fmt.Errorf("the director does not answer: %w", err)
	}
	return nil
}

// healthPage answers 200 ok, or 503 and the reason.
func healthPage(fault func(context.Context) error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		text := "ok"
		if err := fault(r.Context()); err != nil {
			text = err.Error()
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		fmt.Fprintln(w, text)
	})
}

// pages are what is served beside the API.
func (d *daemon) pages() ([]api.Page, error) {
	program, err := d.plane.Program()
	if err != nil {
		return nil, err
	}
	exporter := metrics.New(exported{backend{d}, metrics.Program(program)},
		metrics.Build{Version: d.opts.Version, Revision: d.opts.Revision, GoVersion: runtime.Version()},
		metrics.Limits{Services: int(d.config.Metrics.Services), RealServers: int(d.config.Metrics.RealServers)})
	return []api.Page{
		{Path: "/metrics", Handler: exporter.Handler(d.log)},
		{Path: "/healthz", Handler: healthPage(d.stuck)},
		{Path: "/readyz", Handler: healthPage(d.unready)},
		{Path: "/debug/pprof/", Admin: true, Handler: profiles()},
	}, nil
}

// profiles are those of net/http/pprof.
func profiles() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	return mux
}

// listenOpen listens where the configuration wants metrics for anybody; nil if it does not.
func (d *daemon) listenOpen() (net.Listener, error) {
	at := d.config.Metrics.Listen
	if !at.IsValid() {
		return nil, nil
	}
	l, err := net.Listen("tcp", at.String())
	if err != nil {
		return nil, fmt.Errorf("listen for metrics: %w", err)
	}
	return l, nil
}

// closeListener closes a listener that may be none.
func closeListener(l net.Listener) error {
	if l == nil {
		return nil
	}
	return l.Close()
}
