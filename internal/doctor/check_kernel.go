// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"fmt"
	"strings"
	"time"
)

// The oldest kernel that has all that the data plane uses.
const (
	leastMajor = 6
	leastMinor = 1
)

func checkKernel(f *Facts, r *Report) {
	t := r.topic("kernel", "")
	var major, minor int
	switch _, err := fmt.Sscanf(f.Machine.Release, "%d.%d", &major, &minor); {
	case err != nil:
		t.warn("", "Linux %s: cannot read this as a version; %d.%d or newer is needed", f.Machine.Release, leastMajor, leastMinor)
	case major < leastMajor || major == leastMajor && minor < leastMinor:
		t.fail(fmt.Sprintf("install %d.%d or newer", leastMajor, leastMinor), "Linux %s is too old", f.Machine.Release)
	case !f.Machine.BTF:
		t.ok("Linux %s, without BTF: the director needs none, tools like bpftool do", f.Machine.Release)
	default:
		t.ok("Linux %s, with BTF", f.Machine.Release)
	}
}

// checkProgram tells what came of loading the program: the one answer that says everything about
// verifier, privileges and lockdown.
func checkProgram(f *Facts, r *Report) {
	t := r.topic("program", "")
	m := &f.Machine
	switch {
	case m.TrialError != "":
		t.fail("", "the kernel does not load the program: %s", m.TrialError)
	case m.TrialLate != 0:
		t.warn("give it more time: --timeout", "the kernel has not loaded the program within %v", m.TrialLate)
	case !m.Trial.JIT:
		t.warn("sysctl -w net.core.bpf_jit_enable=1", "the program is interpreted: packets cost several times as much")
	case m.JITHarden:
		t.warn("sysctl -w net.core.bpf_jit_harden=1", "the compiled program hides its constants from everybody (bpf_jit_harden=2): packets cost more")
	default:
		t.ok("the kernel loads the program in %v, and compiles it", m.Trial.Took.Round(10*time.Millisecond))
	}
}

func checkCapabilities(f *Facts, r *Report) {
	t := r.topic("capabilities", "")
	if missing := f.Machine.MissingCaps; len(missing) > 0 {
		t.fail("run as root, or give them to the service", "missing: %s", strings.Join(missing, ", "))
		return
	}
	t.ok("all that a director needs")
}

func checkPins(f *Facts, r *Report) {
	if f.Config == nil {
		return
	}
	t := r.topic("bpffs", f.Config.StateDir)
	switch f.Machine.Pins {
	case PinsReady:
		t.ok("state_dir %s is on a bpffs", f.Config.StateDir)
	case PinsMounted:
		t.ok("state_dir %s: the bpffs will be mounted", f.Config.StateDir)
	default:
		t.fail("name a directory below /sys/fs/bpf", "state_dir %s is not on a bpffs: nothing can be pinned", f.Config.StateDir)
	}
}
