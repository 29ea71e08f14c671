// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"cmp"
	"context"
	"log/slog"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"xdplvs/director"
)

// maxScrapes bounds how many requests are worked on at once: each reads the whole state.
const maxScrapes = 4

// Exporter reads a Source for each scrape. Its methods may be called from several goroutines at once.
type Exporter struct {
	source   Source
	build    Build
	limits   Limits
	registry *prometheus.Registry
}

// New makes an exporter; limits of 0 are the default ones.
func New(source Source, build Build, limits Limits) *Exporter {
	e := &Exporter{source: source, build: build, registry: prometheus.NewPedanticRegistry()}
	e.limits = Limits{
		Services:    cmp.Or(limits.Services, DefaultLimits.Services),
		RealServers: cmp.Or(limits.RealServers, DefaultLimits.RealServers),
	}
	e.registry.MustRegister(e, collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return e
}

// Handler answers scrapes. What goes wrong in one is logged, and what is known is sent nevertheless.
func (e *Exporter) Handler(log *slog.Logger) http.Handler {
	return promhttp.HandlerFor(e.registry, promhttp.HandlerOpts{
		ErrorLog:            errorLog{log},
		ErrorHandling:       promhttp.ContinueOnError,
		MaxRequestsInFlight: maxScrapes,
	})
}

// errorLog is what promhttp logs to.
type errorLog struct{ log *slog.Logger }

// Println implements promhttp.Logger.
func (l errorLog) Println(v ...any) {
	l.log.Warn("metrics are incomplete", "event", "metrics_failed", "error", v)
}

// Describe implements prometheus.Collector.
func (e *Exporter) Describe(descs chan<- *prometheus.Desc) {
	for _, f := range families {
		descs <- f.desc
	}
}

// Collect implements prometheus.Collector.
func (e *Exporter) Collect(metrics chan<- prometheus.Metric) {
	s := sink(metrics)
	s.put(buildInfo, 1, e.build.Version, e.build.Revision, e.build.GoVersion)
	putStatus(s, e.source.Status())
	putAddresses(s, e.source.Addresses().Addresses)
	e.defense(s)
	snapshot := e.source.Snapshot()
	s.truth(snapshotOK, snapshot != nil)
	if snapshot != nil {
		e.snapshot(s, snapshot)
	}
}

// answerTime is how long a scrape waits for what the defenses do.
const answerTime = 5 * time.Second

// defense leaves out what cannot be read; snapshot_available tells that the director does not answer.
func (e *Exporter) defense(s sink) {
	ctx, cancel := context.WithTimeout(context.Background(), answerTime)
	defer cancel()
	if state, err := e.source.Defense(ctx); err == nil {
		putDefense(s, &state)
	}
}

func (e *Exporter) snapshot(s sink, state *director.Snapshot) {
	s.count(generation, state.Generation)
	totalTraffic.put(s, state.Total)
	e.services(s, state.Services)
	for name, n := range state.Verdicts {
		s.count(verdictCount, n, name)
	}
	putInterfaces(s, state.Interfaces)
	putSources(s, state.Sources)
	putTables(s, state.Tables)
	putSweep(s, state.Sweep)
	putDrift(s, state.Drift)
}
