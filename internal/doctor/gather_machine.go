// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"encoding/hex"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"xdplvs/director"
	"xdplvs/internal/door"
)

// readText is a small file's text; "" if it cannot be read.
func readText(path string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}

func (f *Facts) readMachine() {
	m := &f.Machine
	var name unix.Utsname
	if unix.Uname(&name) == nil {
		m.Release = unix.ByteSliceToString(name.Release[:])
	}
	_, err := os.Stat("/sys/kernel/btf/vmlinux")
	m.BTF = err == nil
	m.JITHarden = readText("/proc/sys/net/core/bpf_jit_harden") == "2"
	m.MissingCaps = missingCaps(field(readText("/proc/self/status"), "CapEff:"))
	m.MemoryAvailable = kilobytes(field(readText("/proc/meminfo"), "MemAvailable:"))
	m.CPUs = runtime.NumCPU()
	var files unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &files) == nil {
		m.OpenFiles = files.Cur
	}
	m.ClockSource = readText("/sys/devices/system/clocksource/clocksource0/current_clocksource")
	state, err := unix.Adjtimex(&unix.Timex{})
	m.Unsynced = err == nil && state == unix.TIME_ERROR
	if f.Config != nil {
		m.readState(f.Config)
	}
}

// readState looks at what the configuration wants of the machine.
func (m *Machine) readState(c *Config) {
	m.Pins = pinState(c.StateDir)
	tables, _ := filepath.Glob(filepath.Join(c.StateDir, "map_*")) // fails on a bad pattern only
	m.TablesExist = len(tables) > 0
	m.MemoryNeeded, _ = c.Sizes.Memory() // fails where loading fails too, which is told
}

// pinState looks at a directory, or at the nearest above it that exists.
func pinState(dir string) PinState {
	const root = "/sys/fs/bpf"
	at := dir
	var fs unix.Statfs_t
	for unix.Statfs(at, &fs) != nil && at != "/" {
		at = filepath.Dir(at)
	}
	switch {
	case fs.Type == unix.BPF_FS_MAGIC:
		return PinsReady
	case strings.HasPrefix(dir, root+"/"):
		return PinsMounted
	default:
		return PinsNowhere
	}
}

// field is what follows a name in a file of lines; "" if it is not there.
func field(text, name string) string {
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, name); ok {
			return strings.TrimSpace(rest)
		}
	}
	return ""
}

// kilobytes reads a number with the unit kB, in bytes.
func kilobytes(text string) uint64 {
	n, _ := strconv.ParseUint(strings.TrimSuffix(text, " kB"), 10, 64) // what is no number is 0
	return n << 10
}

// missingCaps are those of the README's list that a mask of capabilities(7), in hexadecimal, lacks.
// CAP_SYS_ADMIN stands for those that were once part of it.
func missingCaps(mask string) (missing []string) {
	bits, err := strconv.ParseUint(mask, 16, 64)
	if err != nil {
		return nil
	}
	has := func(bit int) bool { return bits>>bit&1 != 0 }
	for _, c := range []struct {
		bit    int
		name   string
		within bool // CAP_SYS_ADMIN
	}{
		{unix.CAP_NET_ADMIN, "CAP_NET_ADMIN", false}, {unix.CAP_NET_RAW, "CAP_NET_RAW", false},
		{unix.CAP_BPF, "CAP_BPF", true}, {unix.CAP_PERFMON, "CAP_PERFMON", true},
	} {
		if !has(c.bit) && !(c.within && has(unix.CAP_SYS_ADMIN)) {
			missing = append(missing, c.name)
		}
	}
	return missing
}

func (f *Facts) readSysctls() {
	paths := []string{"net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding", "net/netfilter/nf_conntrack_count",
		"net/ipv6/conf/default/disable_ipv6", "net/ipv6/conf/" + door.Near + "/disable_ipv6"}
	for _, name := range []string{"rp_filter", "arp_ignore", "send_redirects", "forwarding"} {
		paths = append(paths, "net/ipv4/conf/all/"+name)
		for i := range f.Links {
			paths = append(paths, "net/ipv4/conf/"+f.Links[i].Name+"/"+name)
		}
	}
	for _, path := range paths {
		if text := readText("/proc/sys/" + path); text != "" {
			f.Sysctls[path] = text
		}
	}
}

func (f *Facts) readIPVS() { f.IPVS = parseIPVS(readText("/proc/net/ip_vs")) }

// parseIPVS reads the services of /proc/net/ip_vs: "TCP  C000020A:0050 wrr".
func parseIPVS(text string) (keys []director.ServiceKey) {
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if len(words) < 3 {
			continue
		}
		var key director.ServiceKey
		if key.Protocol.UnmarshalText([]byte(strings.ToLower(words[0]))) != nil {
			continue
		}
		at := strings.LastIndex(words[1], ":")
		port, err := strconv.ParseUint(words[1][at+1:], 16, 16)
		if addr, ok := ipvsAddr(words[1][:max(at, 0)]); ok && err == nil {
			key.Addr, key.Port = addr, uint16(port)
			keys = append(keys, key)
		}
	}
	return keys
}

// ipvsAddr reads C000020A or [2001:0db8:0000:0000:0000:0000:0000:0001].
func ipvsAddr(text string) (netip.Addr, bool) {
	if v6, ok := strings.CutPrefix(text, "["); ok {
		addr, err := netip.ParseAddr(strings.TrimSuffix(v6, "]"))
		return addr, err == nil
	}
	b, err := hex.DecodeString(text)
	addr, ok := netip.AddrFromSlice(b)
	return addr, err == nil && ok
}
