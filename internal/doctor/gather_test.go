// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"encoding/binary"
	"fmt"
	"slices"
	"testing"

	"xdplvs/director"
)

func TestParseIPVS(t *testing.T) {
	got := parseIPVS(`IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port Forward Weight ActiveConn InActConn
TCP  C000020A:0050 wrr
  -> 0A00000B:0050      Route   1      0          0
UDP  [2001:0db8:0000:0000:0000:0000:0000:0010]:0035 rr
FWM  00000001 rr
TCP  nonsense:0050 rr
TCP  C000020A:zz rr
TCP  C0 rr
`)
	want := []director.ServiceKey{
		{Protocol: director.TCP, Addr: addr("192.0.2.10"), Port: 80}, {Protocol: director.UDP, Addr: addr("2001:db8::10"), Port: 53},
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestMissingCaps(t *testing.T) {
	for mask, want := range map[string]string{
		"000001ffffffffff": "[]",
		"0000000000000000": "[CAP_NET_ADMIN CAP_NET_RAW CAP_BPF CAP_PERFMON]",
		"0000000000003000": "[CAP_BPF CAP_PERFMON]", // both of the network
		"0000000000203000": "[]",                    // and CAP_SYS_ADMIN
		"000000c000003000": "[]",
		"":                 "[]", // not told
	} {
		if got := fmt.Sprint(missingCaps(mask)); got != want {
			t.Errorf("%s lacks %s, want %s", mask, got, want)
		}
	}
}

func TestFields(t *testing.T) {
	const text = "MemTotal:  100 kB\nMemAvailable:      23319 kB\n"
	if got := kilobytes(field(text, "MemAvailable:")); got != 23319<<10 {
		t.Error(got)
	}
	if got := kilobytes(field(text, "MemFree:")); got != 0 {
		t.Error(got)
	}
}

func TestFeaturesFrom(t *testing.T) {
	attr := func(kind uint16, value []byte) []byte {
		b := binary.NativeEndian.AppendUint16(nil, uint16(4+len(value)))
		return append(binary.NativeEndian.AppendUint16(b, kind), value...)
	}
	index := attr(netdevIndex, binary.NativeEndian.AppendUint32(nil, 7))
	features := attr(netdevFeatures, binary.NativeEndian.AppendUint64(nil, 0x47))
	if got, ok := featuresFrom(slices.Concat(index, features)); !ok || got != 0x47 {
		t.Error(got, ok)
	}
	for _, message := range [][]byte{nil, index, features[:8]} {
		if got, ok := featuresFrom(message); ok {
			t.Errorf("%x has features %x", message, got)
		}
	}
}

func TestPinState(t *testing.T) {
	for dir, want := range map[string]PinState{
		t.TempDir(): PinsNowhere, t.TempDir() + "/a/b": PinsNowhere, "/": PinsNowhere,
	} {
		if got := pinState(dir); got != want {
			t.Errorf("%s: %s, want %s", dir, got, want)
		}
	}
	if got := pinState("/sys/fs/bpf/a/b"); got == PinsNowhere {
		t.Errorf("below /sys/fs/bpf: %s", got)
	}
}

func TestSize(t *testing.T) {
	for n, want := range map[uint64]string{0: "0 MiB", 57<<20 + 1: "57 MiB", 9 << 30: "9216 MiB", 22 << 30: "22 GiB"} {
		if got := size(n); got != want {
			t.Errorf("%d is %s, want %s", n, got, want)
		}
	}
}
