// SPDX-License-Identifier: Apache-2.0

//go:build race

package api

// raceDetector makes everything some ten times as slow.
const raceDetector = true
