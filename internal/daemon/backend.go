// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"errors"
	"io"
	"net/http"

	"xdplvs/director"
	"xdplvs/internal/api"
	"xdplvs/internal/api/connfilter"
	"xdplvs/internal/door"
	"xdplvs/internal/explain"
	"xdplvs/internal/trace"
)

// backend is what the socket offers.
type backend struct{ d *daemon }

func (d *daemon) backend() api.Backend { return backend{d} }

// Snapshot implements api.Backend.
func (b backend) Snapshot() *director.Snapshot {
	s, err := b.d.director.Snapshot(context.Background())
	if err != nil {
		b.d.log.Error("make snapshot", "event", "snapshot_failed", "error", err)
		return nil
	}
	b.d.zeroes.adjust(s)
	return s
}

// Connections implements api.Backend.
func (b backend) Connections(ctx context.Context, yield func(*director.Conn) error) error {
	return b.d.director.Connections(ctx, yield)
}

// DeleteConnections implements api.Backend.
func (b backend) DeleteConnections(ctx context.Context, match func(*director.Conn) bool) (uint64, error) {
	return b.d.director.DeleteConnections(ctx, match)
}

// Templates implements api.Backend.
func (b backend) Templates(ctx context.Context, yield func(*director.Conn) error) error {
	return b.d.director.Templates(ctx, yield)
}

// DeleteTemplates implements api.Backend.
func (b backend) DeleteTemplates(ctx context.Context, match func(*director.Conn) bool) (uint64, error) {
	return b.d.director.DeleteTemplates(ctx, match)
}

// Marks implements api.Backend.
func (b backend) Marks(ctx context.Context) (director.MarkList, error) {
	list, err := b.d.director.Marks(ctx)
	if s := b.d.door.State(); s.Open {
		list.Door = &director.DoorState{Interface: door.Near, Marks4: s.Marks.V4, Marks6: s.Marks.V6, Problem: s.Problem,
			Repaired: s.Repaired, RepairedAt: s.RepairedAt}
	}
	return list, err
}

// ExplainMark implements api.Backend.
func (b backend) ExplainMark(ctx context.Context, q director.MarkQuestion) (director.MarkAnswer, error) {
	return b.d.director.ExplainMark(ctx, q)
}

// Timeouts implements api.Backend.
func (b backend) Timeouts(ctx context.Context) (director.Timeouts, error) {
	return b.d.director.Timeouts(ctx)
}

// SetTimeouts implements api.Backend. A reload that is under way comes before or
// after it, not in between.
func (b backend) SetTimeouts(ctx context.Context, change director.Timeouts) (director.Timeouts, error) {
	b.d.reloading.Lock()
	defer b.d.reloading.Unlock()
	before, err := b.d.director.Timeouts(ctx)
	if err != nil {
		return before, err
	}
	now, err := b.d.director.SetTimeouts(ctx, change)
	b.d.tellSet(director.EventTimeoutsSet, now.Changes(before), err)
	return now, err
}

// Defense implements api.Backend.
func (b backend) Defense(ctx context.Context) (director.DefenseState, error) {
	return b.d.director.Defense(ctx)
}

// DefenseReport implements api.Backend.
func (b backend) DefenseReport(ctx context.Context) (director.DefenseReport, error) {
	return b.d.director.DefenseReport(ctx, director.MostReported)
}

// SetDefense implements api.Backend. A reload comes before or after it, as with timeouts.
func (b backend) SetDefense(ctx context.Context, change director.DefenseChange) (director.DefenseState, error) {
	b.d.reloading.Lock()
	defer b.d.reloading.Unlock()
	state, err := b.d.director.SetDefense(ctx, change)
	b.d.tellSet(director.EventDefenseSet, change.Keys(), err)
	return state, err
}

// Explain implements api.Backend.
func (b backend) Explain(ctx context.Context, q director.Question) (*director.Explanation, error) {
	e, err := b.d.explainer.Explain(ctx, q)
	var fault *explain.QuestionError
	if errors.As(err, &fault) {
		return nil, &api.Error{Status: http.StatusUnprocessableEntity, Message: fault.Error()}
	}
	return e, err
}

// Trace implements api.Backend.
func (b backend) Trace(ctx context.Context, filter *connfilter.Packets, bytes int, yield func([]director.Traced, uint64) error) error {
	err := b.d.tracer.Trace(ctx, trace.Query{Filter: filter, Bytes: bytes}, yield)
	var unknown *trace.UnknownServiceError
	switch {
	case errors.As(err, &unknown):
		return &api.Error{Status: http.StatusUnprocessableEntity, Message: unknown.Error()}
	case errors.Is(err, trace.ErrTooMany):
		return &api.Error{Status: http.StatusServiceUnavailable, Message: err.Error()}
	}
	return err
}

// Replay implements api.Backend.
func (b backend) Replay(ctx context.Context, capture io.Reader, in string, yield func(*director.TraceLine) error) error {
	err := b.d.explainer.Replay(ctx, capture, in, yield)
	var fault *explain.QuestionError
	if errors.As(err, &fault) {
		return &api.Error{Status: http.StatusUnprocessableEntity, Message: fault.Error()}
	}
	return err
}

// Reload implements api.Backend.
func (b backend) Reload(ctx context.Context) error { return b.d.reload(ctx) }

// Version implements api.Backend.
func (b backend) Version() string { return b.d.opts.Version }
