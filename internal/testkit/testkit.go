// SPDX-License-Identifier: Apache-2.0

// Package testkit has what the tests of several packages need.
package testkit

import (
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"
)

// Log is text that may be read while it is written. The zero value is empty.
type Log struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *Log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// Logger writes to the log.
func (l *Log) Logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

// Eventually waits for something that is bound to happen.
func Eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for begin := time.Now(); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Since(begin) > 30*time.Second {
			t.Fatalf("in 30 s not: %s", what)
		}
	}
}
