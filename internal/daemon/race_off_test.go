// SPDX-License-Identifier: Apache-2.0

//go:build !race

package daemon

// raceEnabled: figures are several times larger then.
const raceEnabled = false
