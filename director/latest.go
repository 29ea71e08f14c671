// SPDX-License-Identifier: Apache-2.0

package director

// latest is a channel that holds one value, the last that was set.
type latest[T any] chan T

func newLatest[T any]() latest[T] { return make(latest[T], 1) }

// set never waits, whoever else sets or receives at the same time.
func (l latest[T]) set(v T) {
	for {
		select {
		case l <- v:
			return
		default:
		}
		select {
		case <-l: // an older one that nobody took
		default:
		}
	}
}
