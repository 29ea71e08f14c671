// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"compress/gzip"
	"encoding/json"
	"fmt"
	"os"
	"testing"
)

// Types of SCTP chunks (RFC 9260 section 3.2).
var chunkTypes = map[string]byte{
	"data": 0, "init": 1, "init_ack": 2, "sack": 3, "heartbeat": 4, "heartbeat_ack": 5, "abort": 6, "shutdown": 7,
	"shutdown_ack": 8, "error": 9, "cookie_echo": 10, "cookie_ack": 11, "ecne": 12, "cwr": 13, "shutdown_complete": 14,
	"auth": 15, "i_data": 64, "asconf": 193,
}

// chunks are the bytes behind an SCTP header: each chunk has a body of 6 bytes and is filled up to 12.
func chunks(names ...string) []byte {
	var b []byte
	for _, name := range names {
		b = append(b, chunkTypes[name], 0, 0, 10, 1, 2, 3, 4, 5, 6, 0, 0)
	}
	return b
}

// sctpTo is a packet to the sctp service of sctpWorld.
func sctpTo(data []byte, changes ...change) send {
	return sctp(append([]change{to(sctpPort), func(m *message) { m.data = data }}, changes...)...)
}

const sctpPort = 2905

func sctpWorld(r *rig) {
	r.addService("sctp", 11, Key{Addr: r.f.vip, Port: sctpPort, Protocol: sctpProto}, "f")
}

// TestSCTPStates replays every transition of the kernel's that the packets of a client can cause.
func TestSCTPStates(t *testing.T) {
	file := need(os.Open("testdata/ipvs-6.1/sctp.json.gz"))(t)
	defer file.Close()
	var table struct {
		Transitions []struct{ Table, Chunk, From, To string }
	}
	must(t, json.NewDecoder(need(gzip.NewReader(file))(t)).Decode(&table))
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			r := smallRig(t, f)
			sctpWorld(r)
			replayed := 0
			for _, tr := range table.Transitions {
				if tr.Table == "OUTPUT" {
					continue
				}
				replayed++
				if err := r.replaySCTP(t, tr.Table, tr.Chunk, tr.From, tr.To); err != nil {
					t.Errorf("%+v: %v", tr, err)
				}
			}
			if replayed != 280 {
				t.Errorf("%d transitions were replayed", replayed)
			}
			r.check(t)
		})
	}
}

func (r *rig) replaySCTP(t *testing.T, table, chunk, from, to string) error {
	r.forget()
	r.service("sctp").Flags = 0
	r.send(t, sctpTo(chunks("init"))(r.f))
	word := uint32(stateNumber("SCTP_" + from))
	if table == "INPUT_ONLY" {
		word |= noOutput
	}
	r.setWord(r.mustFindSCTP(t), word)
	if got := r.send(t, sctpTo(chunks(chunk))(r.f)); got.verdict != "tx_forward" {
		return fmt.Errorf("verdict %s", got.verdict)
	}
	e := r.mustFindSCTP(t)
	if got := stateNames[ConnState(&e.conn)]; got != "SCTP_"+to {
		return fmt.Errorf("went to %s", got)
	}
	counts, active := r.Counts[r.reals["f"]].Conns, to == "ESTABLISHED"
	if want := countOf(uint32(stateNumber("SCTP_" + to))); counts != want || (want == activeOne) != active {
		return fmt.Errorf("counts are %#x", counts)
	}
	return nil
}

func (r *rig) mustFindSCTP(t *testing.T) *entry {
	t.Helper()
	e := r.find(flow{r.f.client, r.f.vip, clientPort, sctpPort, sctpProto})
	if e == nil {
		t.Fatal("no connection")
	}
	return e
}

// TestSCTPChunks: what a new packet begins, and which chunk of several counts.
func TestSCTPChunks(t *testing.T) {
	cases := []struct {
		name   string
		flags  uint32
		data   []byte
		want   string // verdict, and the state of the connection that there is then
		second []byte
	}{
		{"INIT begins", 0, chunks("init"), "tx_new SCTP_INIT1", nil},
		{"nothing else does", 0, chunks("data"), "pass_no_connection", nil},
		{"nor does a header alone", 0, nil, "pass_no_connection", nil},
		{"nor half a chunk's head", 0, []byte{1, 0, 0}, "pass_no_connection", nil},
		{"nor does an ABORT when sloppy", ServiceSloppy, chunks("abort"), "pass_no_connection", nil},
		{"nor a header alone when sloppy", ServiceSloppy, nil, "pass_no_connection", nil},
		{"data does when sloppy", ServiceSloppy, chunks("data"), "tx_new SCTP_ESTABLISHED", nil},
		{"a cookie's echo establishes", 0, chunks("init"), "tx_forward SCTP_ESTABLISHED", chunks("cookie_echo", "data")},
		{"an ABORT behind it counts", 0, chunks("init"), "tx_forward SCTP_CLOSED", chunks("cookie_echo", "abort")},
		{"one behind data does not", 0, chunks("init"), "tx_forward SCTP_INIT1", chunks("data", "abort")},
		{"an ABORT closes", 0, chunks("init"), "tx_forward SCTP_CLOSED", chunks("abort")},
		{"unknown chunks are as data", ServiceSloppy, chunks("asconf"), "tx_new SCTP_ESTABLISHED", nil},
		{"a header alone changes nothing", 0, chunks("init"), "tx_forward SCTP_INIT1", []byte{}},
		{"INIT again", 0, chunks("init"), "tx_forward SCTP_INIT", chunks("init")},
	}
	for _, f := range families {
		for _, c := range cases {
			t.Run(f.name+"/"+c.name, func(t *testing.T) {
				r := smallRig(t, f)
				sctpWorld(r)
				r.service("sctp").Flags = c.flags
				got := r.send(t, sctpTo(c.data)(f)).verdict
				if c.second != nil {
					got = r.send(t, sctpTo(c.second)(f)).verdict
				}
				if e := r.find(flow{f.client, f.vip, clientPort, sctpPort, sctpProto}); e != nil {
					got += " " + stateNames[ConnState(&e.conn)]
				}
				if got != c.want {
					t.Errorf("%s, want %s", got, c.want)
				}
				r.check(t)
			})
		}
	}
}

// TestSCTPReuse: an INIT on a connection that is closed is a new one's.
func TestSCTPReuse(t *testing.T) {
	for _, f := range families {
		r := smallRig(t, f)
		sctpWorld(r)
		r.service("sctp").Flags = ServiceReuse
		r.send(t, sctpTo(chunks("init"))(f))
		for _, state := range []string{"SCTP_CLOSED", "SCTP_REJECTED"} {
			r.setWord(r.mustFindSCTP(t), uint32(stateNumber(state))|noOutput)
			want := map[string]string{"SCTP_CLOSED": "tx_new", "SCTP_REJECTED": "tx_forward"}[state]
			if got := r.send(t, sctpTo(chunks("init"))(f)); got.verdict != want {
				t.Errorf("%s: INIT on %s: %s, want %s", f.name, state, got.verdict, want)
			}
		}
		r.check(t)
	}
}
