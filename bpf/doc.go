// SPDX-License-Identifier: Apache-2.0

// Package bpf is the data plane.
package bpf
