// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// availablePages is the memory that IPVS takes for available: free, or in buffers; the page cache is not.
func availablePages() (int64, error) {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return 0, fmt.Errorf("read free memory: %w", err)
	}
	return int64((info.Freeram + info.Bufferram) * uint64(info.Unit) / uint64(os.Getpagesize())), nil
}
