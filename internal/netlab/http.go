// SPDX-License-Identifier: Apache-2.0

package netlab

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// HTTPServer is an HTTP real server. Each answer carries the headers X-Real-Server, its name, and
// X-Client, the remote address it saw.
//
//	GET  /                   NAME\n
//	GET  /bytes/N            N deterministic bytes, see Checksum
//	GET  /slow/N[/INTERVAL]  N lines, one each INTERVAL (a Go duration, 100ms)
//	POST /sum                the SHA-256 of the request's body, in hex, \n
type HTTPServer struct {
	name     string
	server   *http.Server
	requests atomic.Uint64
	serving  sync.WaitGroup
}

// ServeHTTP serves on TCP addresses in the namespace, until Close of the server or of the lab.
func (h *Host) ServeHTTP(name string, addrs ...netip.AddrPort) (*HTTPServer, error) {
	s := &HTTPServer{name: name}
	s.server = &http.Server{Handler: s.handler(), ReadHeaderTimeout: 30 * time.Second}
	if err := h.lab.track(s); err != nil {
		return nil, fmt.Errorf("serve HTTP as %s: %w", name, err)
	}
	for _, addr := range addrs {
		listener, err := h.Listen(networkOf("tcp", addr), addr.String())
		if err != nil {
			return nil, errors.Join(fmt.Errorf("serve HTTP as %s: %w", name, err), s.Close())
		}
		s.serving.Go(func() { s.server.Serve(listener) }) // returns an error always: Close
	}
	return s, nil
}

// networkOf keeps [::] from taking IPv4 as well.
func networkOf(network string, addr netip.AddrPort) string {
	if addr.Addr().Is4() {
		return network + "4"
	}
	return network + "6"
}

// Requests returns how many requests arrived so far.
func (s *HTTPServer) Requests() uint64 { return s.requests.Load() }

// Close cuts the connections and returns when the server has stopped listening. It may be called
// again.
func (s *HTTPServer) Close() error {
	err := s.server.Close()
	s.serving.Wait()
	if isNetClosed(err) { // the lab closes listeners too
		return nil
	}
	return err
}

func (s *HTTPServer) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, s.name)
	})
	mux.HandleFunc("GET /bytes/{n}", serveBytes)
	mux.HandleFunc("GET /slow/{n}", serveSlow)
	mux.HandleFunc("GET /slow/{n}/{interval}", serveSlow)
	mux.HandleFunc("POST /sum", serveSum)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.requests.Add(1)
		w.Header().Set("X-Real-Server", s.name)
		w.Header().Set("X-Client", r.RemoteAddr)
		mux.ServeHTTP(w, r)
	})
}

// bytesSeed makes all real servers stream the same bytes.
var bytesSeed = [32]byte([]byte("netlab: deterministic HTTP bytes"))

// Stream returns the n bytes of "/bytes/N", also to send them the other way, to "/sum".
func Stream(n int64) io.Reader { return io.LimitReader(rand.NewChaCha8(bytesSeed), n) }

// Checksum returns the SHA-256, in hex, of the n bytes that "/bytes/N" streams.
func Checksum(n int64) string { return checksumOf(Stream(n)) }

// checksumOf reads r to its end; a read error ends it too, and shows as another sum.
func checksumOf(r io.Reader) string {
	sum := sha256.New()
	io.Copy(sum, r)
	return hex.EncodeToString(sum.Sum(nil))
}

func serveBytes(w http.ResponseWriter, r *http.Request) {
	n, err := strconv.ParseInt(r.PathValue("n"), 10, 64)
	if err != nil || n < 0 {
		http.Error(w, "bytes/N: N is no number of bytes", http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Length", strconv.FormatInt(n, 10))
	io.Copy(w, Stream(n)) // the client sees an error as a short body
}

func serveSlow(w http.ResponseWriter, r *http.Request) {
	n, err := strconv.Atoi(r.PathValue("n"))
	interval := 100 * time.Millisecond
	if text := r.PathValue("interval"); err == nil && text != "" {
		interval, err = time.ParseDuration(text)
	}
	if err != nil || n < 0 || interval <= 0 {
		http.Error(w, "slow/N/INTERVAL: no number of lines or no duration", http.StatusBadRequest)
		return
	}
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	flush := http.NewResponseController(w)
	for i := range n {
		fmt.Fprintf(w, "line %d\n", i)
		flush.Flush()
		select {
		case <-ticker.C:
		case <-r.Context().Done():
			return
		}
	}
}

func serveSum(w http.ResponseWriter, r *http.Request) {
	fmt.Fprintln(w, checksumOf(r.Body))
}
