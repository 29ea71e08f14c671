// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"testing"
)

// fullSize tells whether tests have traffic of full size, as in make test-roads, or less of it: with -short, or with the race
// detector, under which everything takes longer and nothing of the data plane is looked at.
func fullSize() bool { return !testing.Short() && !raceEnabled }

// bulk is what a large transfer carries.
func bulk() int64 {
	if fullSize() {
		return 1_000_000_000
	}
	return 50_000_000
}

// The bytes of an upload pass the director, of a download the acknowledgements.
func TestBulk(t *testing.T) {
	t.Parallel()
	f := newFarm(t, 2)
	f.configure(standard("rr", 1, 1)...)
	f.start()
	for _, family := range families {
		t.Run("download "+family.name, func(t *testing.T) {
			must(t, getBytes(f.client.HTTPClient(0), family.vip, bulk()))
		})
		t.Run("upload "+family.name, func(t *testing.T) {
			must(t, putBytes(f.client.HTTPClient(0), family.vip, bulk()))
		})
		got := f.service(ofFamily("web", family.vip)).Counters
		if got.InBytes < uint64(bulk()) || got.OutBytes != 0 {
			t.Errorf("%s: counters are %+v, more than %d bytes came in and none went out by the director", family.name, got, bulk())
		}
	}
}

func TestParallelRequests(t *testing.T) {
	t.Parallel()
	f := newFarm(t, 4)
	f.configure(standard("rr", 1, 1, 1, 1)...)
	f.start()
	const requests, size = 1000, 20_000
	for _, family := range families {
		t.Run(family.name, func(t *testing.T) {
			before := make([]uint64, len(f.reals))
			for i, r := range f.reals {
				before[i] = r.http.Requests()
			}
			clients, errs := f.manyDownloads(family.vip, requests, size)
			must(t, errors.Join(errs...))
			for i, r := range f.reals {
				if got := r.http.Requests() - before[i]; got != requests/4 {
					t.Errorf("%s served %d of %d requests, want a quarter", r.Name(), got, requests)
				}
			}
			f := f.on(t)
			if got := f.service(ofFamily("web", family.vip)).Counters.Conns; got != requests {
				t.Errorf("%d connections are counted, want %d", got, requests)
			}
			if got := f.output("connections", "count", "service", ofFamily("web", family.vip)); got != fmt.Sprintln(len(clients)) {
				t.Errorf("director connections count printed %q, want %d", got, len(clients))
			}
		})
	}
}

// manyDownloads are made at the same time. It returns the clients' addresses and ports: one of the
// first may be used again by one of the last.
func (f *farm) manyDownloads(vip netip.Addr, n int, size int64) (clients map[string]bool, errs []error) {
	clients, errs = map[string]bool{}, make([]error, n)
	var mu sync.Mutex
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			d, err := beginDownload(f.client.HTTPClient(12*patience), vip, size)
			if err != nil {
				errs[i] = err
				return
			}
			defer d.body.Close()
			errs[i] = d.finish()
			mu.Lock()
			clients[d.client] = true
			mu.Unlock()
		})
	}
	all.Wait()
	return clients, errs
}
