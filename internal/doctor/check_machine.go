// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"fmt"
	"slices"
)

// leastFiles is how many files a daemon may have to open: tables, sockets, and clients of the API.
const leastFiles = 1024

func checkMemory(f *Facts, r *Report) {
	if f.Config == nil {
		return
	}
	t, need, free := r.topic("memory", ""), f.Machine.MemoryNeeded, f.Machine.MemoryAvailable
	const advice = "lower limits in the configuration, or add memory"
	switch {
	case f.Machine.TablesExist:
		t.ok("the tables exist already, of %s", size(need))
	case need > free:
		t.fail(advice, "the tables take %s, there are %s", size(need), size(free))
	case need > free/2:
		t.warn(advice, "the tables take %s, more than half of the %s that there are", size(need), size(free))
	default:
		t.ok("the tables take %s, there are %s", size(need), size(free))
	}
}

// size is a number of bytes for people.
func size(n uint64) string {
	const mib = 1 << 20
	if n < 10<<30 {
		return fmt.Sprintf("%d MiB", (n+mib/2)/mib)
	}
	return fmt.Sprintf("%d GiB", n>>30)
}

func checkLimits(f *Facts, r *Report) {
	t := r.topic("limits", "")
	if n := f.Machine.OpenFiles; n < leastFiles {
		t.warn(fmt.Sprintf("ulimit -n %d, or LimitNOFILE= of the service", leastFiles), "%d open files are few", n)
		return
	}
	t.ok("open files: %d (locked memory is not limited for BPF since Linux 5.11)", f.Machine.OpenFiles)
}

func checkCPUs(f *Facts, r *Report) {
	r.topic("cpus", "").ok("%s: packets are spread over them by the interfaces' receive queues", plural(f.Machine.CPUs, "CPU"))
}

// plural counts things; the plural is said when it is not an s more.
func plural(n int, one string, many ...string) string {
	switch {
	case n == 1:
		return "1 " + one
	case len(many) > 0:
		return fmt.Sprintf("%d %s", n, many[0])
	default:
		return fmt.Sprintf("%d %ss", n, one)
	}
}

// fastClocks are those that are read without leaving the processor.
var fastClocks = []string{"tsc", "kvm-clock", "hyperv_clocksource_tsc_page", "xen", "arch_sys_counter"}

func checkClock(f *Facts, r *Report) {
	t, source := r.topic("clock", ""), f.Machine.ClockSource
	switch {
	case source != "" && !slices.Contains(fastClocks, source):
		t.warn("see the kernel's log for why it gave up tsc", "clock source %s is slow to read", source)
	case f.Machine.Unsynced:
		t.warn("run chrony or another NTP client", "the time is not synchronised: logs of several hosts cannot be compared")
	default:
		t.ok("synchronised, by %s", source)
	}
}
