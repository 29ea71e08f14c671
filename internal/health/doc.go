// SPDX-License-Identifier: Apache-2.0

// Package health makes of the results of checks what a director does about it: the condition of each
// real server, out of all its checks, what was ordered by hand and how many must stay in use; and
// whether a service has its quorum.
//
// What it knows is a state, not a stream of events: who acts upon it gets whole values, the latest of
// which counts. Only who is notified gets events, one for each transition. The state is kept in a
// file, so that a restarted process goes on with the verdicts of the former one.
package health
