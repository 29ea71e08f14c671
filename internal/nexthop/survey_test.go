// SPDX-License-Identifier: Apache-2.0

package nexthop

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"xdplvs/internal/netlab"
)

// survey asks from the director.
func (r *rig) survey(wait time.Duration, link int, addrs ...string) (claims []Claim, err error) {
	r.t.Helper()
	var inquiries []Inquiry
	for _, a := range addrs {
		inquiries = append(inquiries, Inquiry{link, netip.MustParseAddr(a)})
	}
	r.must(r.dir.Do(func() error {
		claims, err = Survey(context.Background(), inquiries, wait)
		return nil
	}))
	return claims, err
}

func (r *rig) claim(a string, who *netlab.Iface) Claim {
	return Claim{Inquiry{r.eth.Index, netip.MustParseAddr(a)}, [6]byte(who.MAC)}
}

// TestSurvey: every station that answers is named, real servers that keep silent are not, and an
// address of our own is somebody else's only if they say so.
func TestSurvey(t *testing.T) {
	r := newRig(t)
	r.must(r.dir.AddAddr("eth0", netip.MustParsePrefix("192.0.2.10/32")))
	talker, talkerEnd := r.host("talker", "10.0.0.11/24", "fd00::11/64", "2001:db8::10/128")
	r.must(talker.AddAddr("lo", netip.MustParsePrefix("192.0.2.10/32")))
	other, otherEnd := r.host("other", "10.0.0.12/24", "fd00::12/64")
	r.must(other.AddAddr("eth0", netip.MustParsePrefix("192.0.2.10/32")))
	silent, silentEnd := r.host("silent", "10.0.0.13/24", "fd00::13/64")
	r.must(silent.RealServerDR(netip.MustParseAddr("192.0.2.10"), netip.MustParseAddr("2001:db8::10")))

	// Whoever announces an address has it, too; what nobody asked for is nobody's business.
	announced := make(chan error, 1)
	go func() {
		time.Sleep(300 * time.Millisecond)
		announced <- silent.Do(func() error {
			return errors.Join(sendAnnouncement(silentEnd.Index, "02:00:00:00:00:77", netip.MustParseAddr("10.0.0.77")),
				sendAnnouncement(silentEnd.Index, "02:00:00:00:00:99", netip.MustParseAddr("10.0.0.99")))
		})
	}()
	claims, err := r.survey(time.Second, r.eth.Index,
		"192.0.2.10", "10.0.0.1", "10.0.0.13", "10.0.0.99", "2001:db8::10", "fd00::1", "fd00::99", "192.0.2.10")
	r.must(errors.Join(err, <-announced))
	announcer := r.claim("10.0.0.99", silentEnd)
	announcer.MAC = [6]byte{2, 0, 0, 0, 0, 0x99}
	want := []Claim{
		r.claim("192.0.2.10", talkerEnd), r.claim("192.0.2.10", otherEnd), r.claim("2001:db8::10", talkerEnd),
		r.claim("10.0.0.13", silentEnd), announcer,
	}
	slices.SortFunc(want, compareClaims)
	if !slices.Equal(claims, want) {
		t.Errorf("got  %v\nwant %v", claims, want)
	}
}

// TestSurveyDoesNotAnnounce: asking for our own address must not put it, nor another one that is
// asked for, into the caches of others.
func TestSurveyDoesNotAnnounce(t *testing.T) {
	r := newRig(t)
	for _, a := range []string{"192.0.2.10/32", "192.0.2.11/32"} {
		r.must(r.dir.AddAddr("eth0", netip.MustParsePrefix(a)))
	}
	other, _ := r.host("other", "10.0.0.12/24", "192.0.2.1/24")
	r.must(other.Sysctl("net.ipv4.conf.all.arp_accept", "1"))
	_, err := r.survey(300*time.Millisecond, r.eth.Index, "192.0.2.10", "192.0.2.11", "10.0.0.1")
	r.must(err)
	for _, a := range []string{"192.0.2.10", "192.0.2.11", "10.0.0.1"} {
		if hw, err := other.Neigh("eth0", netip.MustParseAddr(a)); err == nil {
			t.Errorf("a host learnt %s as %s", hw, a)
		}
	}
}

// TestSurveyFaults: what cannot be asked is said, once, and does not keep from the rest.
func TestSurveyFaults(t *testing.T) {
	r := newRig(t)
	_, hostEnd := r.host("host", "10.0.0.11/24")
	var claims []Claim
	var err error
	r.must(r.dir.Do(func() error {
		claims, err = Survey(context.Background(), []Inquiry{
			{4711, netip.MustParseAddr("10.0.0.11")}, {4711, netip.MustParseAddr("10.0.0.12")},
			{1, netip.MustParseAddr("10.0.0.11")}, {r.eth.Index, netip.MustParseAddr("10.0.0.11")},
		}, 300*time.Millisecond)
		return nil
	}))
	if err == nil || strings.Count(err.Error(), "no link of index 4711") != 1 || !strings.Contains(err.Error(), "device lo has no link-layer address") {
		t.Errorf("error %v", err)
	}
	if want := []Claim{r.claim("10.0.0.11", hostEnd)}; !slices.Equal(claims, want) {
		t.Errorf("got %v, want %v", claims, want)
	}
	many := make([]string, 1000)
	for i := range many {
		many[i] = netip.AddrFrom4([4]byte{10, 0, byte(1 + i>>8), byte(i)}).String()
	}
	start := time.Now()
	if _, err = r.survey(100*time.Millisecond, r.eth.Index, many...); err == nil || !strings.Contains(err.Error(), "of 1000 addresses") {
		t.Errorf("error %v", err)
	}
	if took := time.Since(start); took > leeway {
		t.Errorf("100 ms took %v", took)
	}
}
