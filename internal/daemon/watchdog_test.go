// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"os"
	"strconv"
	"testing"
)

func TestWatchdog(t *testing.T) {
	m := newManager(t)
	t.Setenv("WATCHDOG_USEC", "30000")
	t.Setenv("WATCHDOG_PID", strconv.Itoa(os.Getpid()))
	h := newHalf(t, weighing(1))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- h.feedWatchdog(ctx) }()
	for range 2 {
		if got := m.next(); got != "WATCHDOG=1" {
			t.Errorf("the service manager is told %q", got)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestWatchdogIsNotAskedFor(t *testing.T) {
	t.Setenv("WATCHDOG_USEC", "")
	if err := (&daemon{}).feedWatchdog(t.Context()); err != nil {
		t.Error(err)
	}
	t.Setenv("WATCHDOG_USEC", "soon")
	if err := (&daemon{}).feedWatchdog(t.Context()); err == nil {
		t.Error("nonsense was taken")
	}
}
