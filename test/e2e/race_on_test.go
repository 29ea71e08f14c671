// SPDX-License-Identifier: Apache-2.0

//go:build race

package e2e

// raceEnabled: the binary under test is built as the test is.
const raceEnabled = true
