// SPDX-License-Identifier: Apache-2.0

//go:build race

package e2e

// raceBuilt: the tests have the race detector.
const raceBuilt = true
