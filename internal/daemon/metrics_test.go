// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"xdplvs/director"
)

func TestHealthPage(t *testing.T) {
	for text, fault := range map[string]error{"ok\n": nil, "not yet\n": errors.New("not yet")} {
		w := httptest.NewRecorder()
		healthPage(func(context.Context) error { return fault }).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
		status := http.StatusOK
		if fault != nil {
			status = http.StatusServiceUnavailable
		}
		if w.Code != status || w.Body.String() != text {
			t.Errorf("%v: %d %q, want %d %q", fault, w.Code, w.Body, status, text)
		}
	}
}

func TestReadiness(t *testing.T) {
	h := newHalf(t, weighing(1))
	if err := h.unready(t.Context()); err == nil || err.Error() != "the configuration is not in force yet" {
		t.Errorf("before the start: %v", err)
	}
	h.readings.applied()
	if err := h.unready(t.Context()); err != nil {
		t.Errorf("when the configuration is in force: %v", err)
	}
	h.write("interfaces: [eth0]\nservices: 7\n")
	if err := h.reload(t.Context()); err == nil {
		t.Fatal("a mistake was taken")
	}
	if err := h.unready(t.Context()); err != nil {
		t.Errorf("a reload that was refused changes nothing: %v", err)
	}
}

// TestStuck: a director that does not answer is neither ready nor alive.
func TestStuck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &daemon{director: director.New(director.Options{Tables: memory(t, director.DefaultLimits), Plane: noPlane{}, Clock: standClock{}})} // nothing runs it
		d.readings.applied()
		begin := time.Now()
		want := "the director does not answer: context deadline exceeded"
		for name, fault := range map[string]func(context.Context) error{"alive": d.stuck, "ready": d.unready} {
			if err := fault(t.Context()); err == nil || err.Error() != want {
				t.Errorf("%s: %v, want %s", name, err, want)
			}
		}
		if took := time.Since(begin); took != 2*answerTime {
			t.Errorf("two answers took %v, want %v each", took, answerTime)
		}
	})
}

func TestReadings(t *testing.T) {
	h := newHalf(t, weighing(1))
	if s := h.readings.status(); s.UpToDate || !s.Loaded.IsZero() {
		t.Errorf("before the start: %+v", s)
	}
	h.readings.applied()
	first := h.readings.status()
	h.write("nonsense")
	if err := h.reload(t.Context()); err == nil {
		t.Fatal("a mistake was taken")
	}
	if s := h.readings.status(); s.UpToDate || s.Refused != 1 || s.Reloads != 0 || !s.Loaded.Equal(first.Loaded) {
		t.Errorf("after a mistake: %+v", s)
	}
	h.write(weighing(2))
	if err := h.reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	if s := h.readings.status(); !s.UpToDate || s.Refused != 1 || s.Reloads != 1 || !s.Loaded.After(first.Loaded) {
		t.Errorf("after it was mended: %+v", s)
	}
}

func TestMetricsAreFixed(t *testing.T) {
	h := newHalf(t, weighing(1))
	h.write(weighing(2) + "metrics: {listen: 127.0.0.1:9500}\n")
	err := h.reload(t.Context())
	if want := h.file + ": metrics is fixed while the director runs: restart it to change it"; err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
	if h.weight() != 1 {
		t.Error("a reload that was refused changed a weight")
	}
}
