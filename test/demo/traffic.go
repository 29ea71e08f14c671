// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"

	"xdplvs/internal/netlab"
)

// answerWithin is how long a client waits, for a connection or an answer.
const answerWithin = 3 * time.Second

// tally is who answered requests to a service.
type tally struct {
	service service
	answers map[string]int // by real server
}

func (t tally) largest() (n int) {
	for _, a := range t.answers {
		n = max(n, a)
	}
	return n
}

// check tells whether the scheduler did what its name says, with usable real servers only. A cycle may
// be cut anywhere, so a real server's share may be off by the largest weight.
func (t tally) check(weights map[string]int) error {
	requests, sum := 0, 0
	for _, n := range t.answers {
		requests += n
	}
	share := map[string]int{}
	for name, w := range weights {
		share[name] = w
		if t.service.scheduler == "rr" {
			share[name] = min(w, 1)
		}
		sum += share[name]
	}
	for name, s := range share {
		want, off := requests*s/sum, s
		if got := t.answers[name]; got < want-off || got > want+off {
			return fmt.Errorf("service %s: %s answered %d of %d requests, want %d", t.service.name, name, got, requests, want)
		}
	}
	return nil
}

// spread sends n requests to a service, each on a connection of its own.
func (s *theatre) spread(ctx context.Context, to service, n int) (tally, error) {
	t := tally{service: to, answers: map[string]int{}}
	request := s.request(to)
	for i := range n {
		who, err := request(ctx)
		if err != nil {
			return t, fmt.Errorf("service %s: request %d of %d: %w", to.name, i+1, n, err)
		}
		t.answers[who]++
	}
	return t, nil
}

// request returns a function that makes a request and tells who answered.
func (s *theatre) request(to service) func(context.Context) (string, error) {
	if to.protocol == "udp" {
		return func(ctx context.Context) (string, error) { return s.query(ctx, to) }
	}
	client := s.httpClient(answerWithin)
	return func(ctx context.Context) (string, error) {
		answer, err := get(ctx, client, fmt.Sprintf("http://%v/", to.virtual))
		if err != nil {
			return "", err
		}
		defer answer.Body.Close()
		body, err := io.ReadAll(answer.Body)
		return strings.TrimSpace(string(body)), err
	}
}

// httpClient makes a connection for each request.
func (s *theatre) httpClient(timeout time.Duration) *http.Client {
	client := s.client.HTTPClient(timeout)
	client.Transport.(*http.Transport).DialContext = s.dial
	return client
}

// dial connects from a port that was never used: the director would still know another's connection,
// which the kernel does not.
func (s *theatre) dial(ctx context.Context, network, to string) (net.Conn, error) {
	source := client4
	if netip.MustParseAddrPort(to).Addr().Is6() {
		source = client6
	}
	port := firstPort + uint16(s.ports.Add(1))
	return s.client.DialFrom(ctx, network, netip.AddrPortFrom(source, port), to)
}

// firstPort is below those that the kernel chooses by itself.
const firstPort = 20000

// get asks for a URL; anything but 200 is an error.
func get(ctx context.Context, client *http.Client, url string) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	answer, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	if answer.StatusCode != http.StatusOK {
		answer.Body.Close()
		return nil, fmt.Errorf("get %s: %s", url, answer.Status)
	}
	return answer, nil
}

// query sends a datagram from a new port, as resolvers do, and reads the answer: name, blank, query.
func (s *theatre) query(ctx context.Context, to service) (string, error) {
	conn, err := s.dial(ctx, "udp", to.virtual.String())
	if err != nil {
		return "", err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	conn.SetDeadline(time.Now().Add(answerWithin))
	if _, err := io.WriteString(conn, "query"); err != nil {
		return "", fmt.Errorf("send query: %w", err)
	}
	answer := make([]byte, 100)
	n, err := conn.Read(answer)
	if err != nil {
		return "", fmt.Errorf("read answer: %w", err)
	}
	name, _, _ := strings.Cut(string(answer[:n]), " ")
	return name, nil
}

// The download: its size, and the most that is read before it may end.
const (
	downloadBytes = 64 << 20
	downloadFirst = downloadBytes / 2
	readPause     = 10 * time.Millisecond // after each chunk of the first part
)

// download is one long HTTP answer. It is read slowly until finish is called, then as fast as it comes.
type download struct {
	real string // who serves it
	read atomic.Int64

	body   io.ReadCloser
	sum    hash.Hash
	hurry  chan struct{}
	result chan error
}

// startDownload returns when the answer has begun.
func (s *theatre) startDownload(ctx context.Context, from service) (*download, error) {
	url := fmt.Sprintf("http://%v/bytes/%d", from.virtual, downloadBytes)
	answer, err := get(ctx, s.httpClient(0), url)
	if err != nil {
		return nil, fmt.Errorf("start download: %w", err)
	}
	d := &download{real: answer.Header.Get("X-Real-Server"), body: answer.Body, sum: sha256.New(),
		hurry: make(chan struct{}), result: make(chan error, 1)}
	go func() { d.result <- d.run(ctx) }()
	return d, nil
}

func (d *download) run(ctx context.Context) error {
	defer d.body.Close()
	for chunk := make([]byte, 64<<10); ; {
		n, err := d.body.Read(chunk)
		d.sum.Write(chunk[:n])
		read := d.read.Add(int64(n))
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("download from %s: %w after %d of %d bytes", d.real, err, read, downloadBytes)
		}
		d.pause(ctx, read)
	}
}

// pause waits a little, or from the end of the first part on until finish is called.
func (d *download) pause(ctx context.Context, read int64) {
	next := time.After(readPause)
	if read >= downloadFirst {
		next = nil
	}
	select {
	case <-d.hurry:
	case <-next:
	case <-ctx.Done(): // the next read fails
	}
}

// finish lets the download end and compares its checksum, which it returns in hex.
func (d *download) finish(ctx context.Context) (string, error) {
	close(d.hurry)
	select {
	case err := <-d.result:
		if err != nil {
			return "", err
		}
	case <-ctx.Done():
		return "", ctx.Err()
	}
	sum := hex.EncodeToString(d.sum.Sum(nil))
	if want := netlab.Checksum(downloadBytes); sum != want {
		return "", fmt.Errorf("download from %s: %d bytes with SHA-256 %s, want %s", d.real, d.read.Load(), sum, want)
	}
	return sum, nil
}
