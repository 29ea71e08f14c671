// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"
)

// vlans are the tags that frames come with, from none to as many as the data plane knows.
var vlans = []struct {
	name string
	tags []tag
}{
	{"untagged", nil},
	{"802.1Q", []tag{{typeCustomer, 100}}},
	{"priority only", []tag{{typeCustomer, 0xe000}}},
	{"802.1ad and 802.1Q", []tag{{typeService, 7}, {typeCustomer, 100}}},
}

// Frames come in with tags, and leave as the way to the real server wants them: untagged, as there is no
// VLAN device. What is no service's keeps its tags.
func TestVLAN(t *testing.T) {
	t.Parallel()
	f := newFarm(t, 1)
	f.configure(standard("rr", 1)...)
	f.start()
	client, server, own := tap(t, f.clientEnd), tap(t, f.reals[0].eth0), tap(t, f.directorEnd)
	for _, family := range families {
		src := map[bool]netip.Addr{true: client4, false: client6}[family.vip.Is4()]
		from := get(f.client.ListenPacket("udp", netip.AddrPortFrom(src, 0).String()))(t)
		defer from.Close()
		here := netip.AddrPortFrom(src, from.LocalAddr().(*net.UDPAddr).AddrPort().Port())
		for _, vlan := range vlans {
			t.Run(family.name+" "+vlan.name, func(t *testing.T) {
				f := f.on(t)
				for _, size := range []int{0, 1, 100, 1400} {
					payload := bytes.Repeat([]byte{0xa5}, size)
					sent := udpFrame(f.clientEnd.MAC, f.directorEnd.MAC, here, netip.AddrPortFrom(family.vip, dnsPort), payload, vlan.tags...)
					ip := sent[etherLen+4*len(vlan.tags):]
					must(t, client.send(sent))
					mustBeForwarded(t, f, server.await(t, patience, sameDatagram(ip)), ip)
					mustAnswer(t, from, append([]byte("rs1 "), payload...))

					sent = udpFrame(f.clientEnd.MAC, f.directorEnd.MAC, here, netip.AddrPortFrom(family.vip, 9), payload, vlan.tags...)
					ip = sent[etherLen+4*len(vlan.tags):]
					must(t, client.send(sent))
					mustBeUntouched(t, own.await(t, patience, func(seen frame) bool { return bytes.HasSuffix(seen.data, ip) }), vlan.tags)
				}
			})
		}
	}
}

// With nat the answers go back with the tags that the client's frames had, whatever is on the way between.
func TestVLANReplies(t *testing.T) {
	t.Parallel()
	for _, interfaces := range []string{"eth0, eth1", "{name: eth0, mode: generic}, {name: eth1, mode: generic}"} {
		t.Run(interfaces, func(t *testing.T) {
			f, _ := byNAT.farm(t, netWay{build: twoNetworks, interfaces: interfaces})
			client := tap(t, f.clientEnd)
			port := uint16(20000)
			for _, family := range families {
				src := map[bool]string{true: "10.1.0.1", false: "fd01::1"}[family.vip.Is4()]
				for _, vlan := range vlans {
					t.Run(family.name+" "+vlan.name, func(t *testing.T) {
						port++
						here, there := netip.AddrPortFrom(netip.MustParseAddr(src), port), netip.AddrPortFrom(family.vip, dnsPort)
						payload := []byte("who is there, " + t.Name())
						must(t, client.send(udpFrame(f.clientEnd.MAC, f.directorEnd.MAC, here, there, payload, vlan.tags...)))
						seen := client.await(t, patience, func(seen frame) bool {
							return !seen.sent && bytes.HasSuffix(seen.data, append([]byte(" "), payload...))
						})
						mustBeUntouched(t, seen, vlan.tags)
						if got := seen.innerTags(); len(vlan.tags) > 1 && !slices.Equal(got, vlan.tags[1:]) {
							t.Errorf("tags within the outer one are %#x, want %#x", got, vlan.tags[1:])
						}
						if want := family.vip.AsSlice(); !bytes.Contains(seen.data, want) {
							t.Errorf("answer does not come from %s:\n%x", family.vip, seen.data)
						}
					})
				}
			}
		})
	}
}

// innerTags are those that the kernel has left in the frame.
func (f *frame) innerTags() (tags []tag) {
	for b := f.data[12:]; len(b) >= 4; b = b[4:] {
		kind := binary.BigEndian.Uint16(b)
		if kind != typeCustomer && kind != typeService {
			break
		}
		tags = append(tags, tag{kind, binary.BigEndian.Uint16(b[2:])})
	}
	return tags
}

// sameDatagram finds the frame that a host received with this IP packet's datagram.
func sameDatagram(ip []byte) func(frame) bool {
	header := 20
	if ip[0]>>4 == 6 {
		header = 40
	}
	return func(seen frame) bool { return !seen.sent && bytes.HasSuffix(seen.data, ip[header:]) }
}

// mustBeUntouched fails unless the director's kernel saw the frame with its tags. Of two the kernel
// takes off the outer one.
func mustBeUntouched(t *testing.T, seen frame, tags []tag) {
	t.Helper()
	if seen.tagged != (len(tags) > 0) || seen.tagged && (seen.tpid != tags[0].tpid || seen.tci != tags[0].tci) {
		t.Errorf("director's kernel saw (tagged: %v, tag %#x %#x), want tags %#x", seen.tagged, seen.tpid, seen.tci, tags)
	}
}

// mustBeForwarded fails unless the real server saw the IP packet in an untagged frame from the
// director, changed in its TTL only.
func mustBeForwarded(t *testing.T, f *farm, seen frame, ip []byte) {
	t.Helper()
	want := append([]byte{}, ip...)
	if want[0]>>4 == 4 {
		want[8]--
		want[10], want[11] = 0, 0
		sum := ^sum16(0, want[:20])
		want[10], want[11] = byte(sum>>8), byte(sum)
	} else {
		want[7]--
	}
	if seen.tagged || !bytes.Equal(seen.data[etherLen:], want) {
		t.Errorf("real server saw (tagged: %v, tag %#x %#x)\n%x\nwant\n%x", seen.tagged, seen.tpid, seen.tci, seen.data[etherLen:], want)
	}
	if from := net.HardwareAddr(seen.data[6:12]); from.String() != f.directorEnd.MAC.String() {
		t.Errorf("frame came from %s, the director is %s", from, f.directorEnd.MAC)
	}
}

// mustAnswer fails unless the socket gets the answer.
func mustAnswer(t *testing.T, conn net.PacketConn, want []byte) {
	t.Helper()
	must(t, conn.SetReadDeadline(time.Now().Add(patience)))
	buf := make([]byte, 1<<16)
	n, _, err := conn.ReadFrom(buf)
	must(t, err)
	if !bytes.Equal(buf[:n], want) {
		t.Errorf("answer is %q, want %q", buf[:n], want)
	}
}
