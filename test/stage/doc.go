// SPDX-License-Identifier: Apache-2.0

// Package stage has what the demo and the uses play on: a director that runs in a network namespace, and the screen
// on which a person sees what happens.
package stage
