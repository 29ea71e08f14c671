// SPDX-License-Identifier: Apache-2.0

package nexthop

import (
	"bytes"
	"sync/atomic"
)

// lossCounter is a log that counts the losses of the subscription.
type lossCounter struct{ losses atomic.Int64 }

func (l *lossCounter) Write(line []byte) (int, error) {
	if bytes.Contains(line, []byte("were lost")) {
		l.losses.Add(1)
	}
	return len(line), nil
}
