// SPDX-License-Identifier: Apache-2.0

// Package defense decides when the strategies of IPVS against denial of service act, and how hard:
// drop_entry, drop_packet and secure_tcp, each off, automatic or always on. It is pure policy: what
// presses comes in, what is to be done goes out; somebody else measures and obeys.
package defense
