// SPDX-License-Identifier: Apache-2.0

package director

// latest is a channel that holds one value, the last that was set. There must
// be one setter at a time.
type latest[T any] chan T

func newLatest[T any]() latest[T] { return make(latest[T], 1) }

func (l latest[T]) set(v T) {
	select {
	case <-l:
	default:
	}
	l <- v
}
