// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"testing"
	"time"
)

func TestRateOf(t *testing.T) {
	for _, hz := range []uint64{100, 250, 300, 1000} {
		for _, up := range []time.Duration{time.Second * 30, time.Hour, 1000 * time.Hour} {
			got, err := rateOf(initialJiffies(hz)+uint64(up.Seconds()*float64(hz)), up)
			if err != nil || got != hz {
				t.Errorf("rate after %v at %d: got %d, %v", up, hz, got, err)
			}
		}
	}
	if _, err := rateOf(12345, time.Hour); err == nil {
		t.Error("a counter that fits no rate is no error")
	}
}
