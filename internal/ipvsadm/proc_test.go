// SPDX-License-Identifier: Apache-2.0

package ipvsadm

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"xdplvs/director"
)

// totals is a table that has counted what the recording's kernel had.
type totals struct{ *table }

func (d *totals) Snapshot(ctx context.Context) (*director.Snapshot, error) {
	s, err := d.table.Snapshot(ctx)
	s.Total = director.Counters{Conns: 3, InPkts: 3, InBytes: 0x96}
	s.Rates = director.Rates{InBPS: 0x13}
	return s, err
}

func proc(t *testing.T, d Director, name string) string {
	t.Helper()
	var out strings.Builder
	if err := Proc(t.Context(), &out, d, name); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// recordedProc is what a recording shows of a file, the n-th time.
func recordedProc(t *testing.T, recordingName, file string, n int) string {
	t.Helper()
	for _, s := range recording(t, recordingName) {
		if s.line == "cat /proc/net/"+file {
			if n == 0 {
				return strings.TrimSuffix(s.output, "= 0\n")
			}
			n--
		}
	}
	t.Fatalf("%s has no %s", recordingName, file)
	return ""
}

// lines are sorted: IPVS's order is that of hash tables. What follows a service stays behind it.
func lines(text string) []string {
	list := strings.Split(strings.ReplaceAll(text, "\n  -> ", "|  -> "), "\n")
	slices.Sort(list)
	return list
}

// TestProcServices: byte for byte what the kernel shows of the same table.
func TestProcServices(t *testing.T) {
	d := newTable()
	for _, s := range recording(t, "proc") {
		if strings.HasPrefix(s.line, "ipvsadm -A") || strings.HasPrefix(s.line, "ipvsadm -a") {
			d.shell(s.line)
		}
	}
	got := proc(t, d, "ip_vs")
	want := strings.Replace(recordedProc(t, "proc", "ip_vs", 0), "-> 7F000001:0050      Masq ", "-> 7F000001:0050      Route", 1)
	if !slices.Equal(lines(got), lines(want)) {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if got, want := proc(t, newTable(), "ip_vs"), recordedProc(t, "traffic", "ip_vs", 1); got != want {
		t.Errorf("empty: got\n%s\nwant\n%s", got, want)
	}
}

// TestProcConnections: the entries of a recording, of the file as the kernel shows them.
func TestProcConnections(t *testing.T) {
	at := netip.MustParseAddrPort
	d := newTable()
	conn := func(p director.Protocol, client, virtual, real, state string, seconds time.Duration) {
		d.conns = append(d.conns, director.Conn{Protocol: p, Client: at(client), Virtual: at(virtual), Real: at(real), State: state, Expires: seconds * time.Second})
	}
	conn(director.UDP, "10.99.0.1:57568", "10.99.0.1:53", "10.2.0.1:53", "UDP", 297)
	conn(director.TCP, "10.99.0.2:0", "10.99.0.2:80", "10.2.0.1:80", "NONE", 298)
	conn(director.TCP, "10.99.0.1:59880", "10.99.0.1:80", "10.2.0.1:80", "SYN_RECV", 57)
	conn(director.TCP, "10.99.0.2:35268", "10.99.0.2:80", "10.2.0.1:80", "SYN_RECV", 58)
	if got, want := proc(t, d, "ip_vs_conn"), recordedProc(t, "traffic", "ip_vs_conn", 0); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	d.conns = nil
	conn(director.TCP, "[2001:db8::7]:1", "[2001:db8::1]:80", "10.0.0.1:80", "ESTABLISHED", -1)
	const want = "TCP 2001:0db8:0000:0000:0000:0000:0000:0007 0001 2001:0db8:0000:0000:0000:0000:0000:0001 0050 0A000001 0050 ESTABLISHED       0\n"
	if got := proc(t, d, "ip_vs_conn"); !strings.HasSuffix(got, "\n"+want) {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// TestProcStats: numbers are hexadecimal.
func TestProcStats(t *testing.T) {
	d := &totals{newTable()}
	if got, want := proc(t, d, "ip_vs_stats"), recordedProc(t, "traffic", "ip_vs_stats", 0); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	want := strings.Replace(recordedProc(t, "traffic", "ip_vs_stats_percpu", 0), "  1        0        0        0                0                0\n", "", 1)
	if got := proc(t, d, "ip_vs_stats_percpu"); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if err := Proc(t.Context(), nil, d, "ip_vs_app"); err == nil || !strings.Contains(err.Error(), "known: ip_vs, ip_vs_conn, ip_vs_stats, ip_vs_stats_percpu") {
		t.Errorf("error %v", err)
	}
}
