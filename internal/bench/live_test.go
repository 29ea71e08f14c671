// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"os"
	"testing"
)

// Every way of the director brings frames back, and new connections are stored.
func TestRunLive(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	live, err := RunLive(Options{Rounds: 1, Packets: 2000, Log: t.Logf})
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range live.Ways {
		if w.Mpps <= 0 || w.Ratio <= 0 {
			t.Errorf("%+v", w)
		}
	}
	if len(live.Ways) != len(liveWays) || live.Raw <= 0 || live.New.Value <= 0 {
		t.Errorf("%+v", live)
	}
}
