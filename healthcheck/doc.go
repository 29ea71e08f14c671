// SPDX-License-Identifier: Apache-2.0

// Package healthcheck finds out whether servers work. It knows nothing of directors: what follows
// from a verdict is decided elsewhere.
//
// # Checkers
//
// A [Checker] asks a [Target] once and tells what came of it, a [Result]. There is one file for each:
// [TCPOptions], [TLSOptions], [HTTPOptions] and so on say what can be asked, and their New functions
// refuse what makes no sense. A failing probe is no error of the checker: it is a Result with
// evidence. Whatever the server does, a check ends when its context does, reads no more than
// [MaxRead] bytes, and leaves no goroutine and no connection behind.
//
// # Three verdicts
//
// A probe that could not be sent ([Unknown]) says nothing about the server: it makes nobody up and
// nobody down, and neither counts for a change nor interrupts the results that do. The verdict stays
// what it was, and [State] says how long nothing has been heard. Only a target of which nothing was
// ever known is unknown itself.
//
// # The manager
//
// A [Manager] has a set of checks, as a whole value that can be replaced at any time. Who asks the
// same of the same target shares one probe. What it publishes are states, the latest of each check;
// nothing is queued, so nothing can be lost.
package healthcheck
