// SPDX-License-Identifier: Apache-2.0

// Package doctor looks at a machine before, or while, it is a director, and says what is wrong with
// it: kernel, interfaces, routes, neighbours, and who else answers for a virtual address.
//
// Gather reads everything from the kernel and asks the network; it changes nothing. The result is
// Facts, a value. The checks, one file for each group of them, judge Facts without looking at
// anything else, and write Findings into a Report.
package doctor
