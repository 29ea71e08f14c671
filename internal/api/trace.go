// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"

	"xdplvs/director"
	"xdplvs/internal/api/connfilter"
)

// trace is for administrators: it shows what clients and servers say to each other.
func (s *Server) trace(w http.ResponseWriter, r *http.Request) error {
	filter, err := connfilter.ParsePackets(r.URL.Query().Get("filter"))
	if err != nil {
		return failure(http.StatusBadRequest, "%s", err)
	}
	bytes, err := tracedBytes(r.URL.Query().Get("bytes"))
	if err != nil {
		return err
	}
	stream := s.newStream(w)
	err = s.backend.Trace(r.Context(), filter, bytes, stream.addPackets)
	if r.Context().Err() != nil { // or it is the reader that went away
		err = failure(http.StatusServiceUnavailable, "the daemon stops")
	}
	return stream.finish(err)
}

func tracedBytes(text string) (int, error) {
	if text == "" {
		return 0, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 || n > director.TracedBytes {
		return 0, failure(http.StatusBadRequest, "parameter bytes is a number up to %d, not %q", director.TracedBytes, text)
	}
	return n, nil
}

// addPackets sends packets at once, and how many are missing if some are.
func (st *stream) addPackets(batch []director.Traced, lost uint64) error {
	for i := range batch {
		if err := st.line(director.TraceLine{Packet: &batch[i]}); err != nil {
			return err
		}
	}
	if lost > 0 {
		if err := st.line(director.TraceLine{Lost: lost}); err != nil {
			return err
		}
	}
	return st.push()
}

func (st *stream) line(v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("send answer: %w", err)
	}
	if st.buf = append(append(st.buf, text...), '\n'); len(st.buf) < streamChunk {
		return nil
	}
	return st.flush()
}

// Trace calls yield for packets that the filter lets through as they go by, with so many bytes of their frames,
// until ctx ends or yield fails. A *TraceLine without a packet is the news that some are missing, or, with 0,
// that packets are seen from now on.
func (c *Client) Trace(ctx context.Context, filter string, bytes int, yield func(*director.TraceLine) error) error {
	query := url.Values{"bytes": {strconv.Itoa(bytes)}}
	if filter != "" {
		query.Set("filter", filter)
	}
	resp, err := c.do(ctx, http.MethodGet, pathTrace, query, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if err := yield(&director.TraceLine{}); err != nil {
		return err
	}
	return readLines(resp.Body, func(line *packetLine) error { return yield(&line.TraceLine) })
}

// packetLine is a line of a stream of packets; the last one may be an error.
type packetLine struct {
	director.TraceLine
	errorBody
}

// readLines decodes a stream of packets until it ends, which is an error where it ends by one.
func readLines(r io.Reader, yield func(*packetLine) error) error {
	for lines := json.NewDecoder(r); ; {
		var line packetLine
		err := lines.Decode(&line)
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("read packets: %w", err)
		case line.Error != "":
			return errors.New(line.Error)
		}
		if err := yield(&line); err != nil {
			return err
		}
	}
}

// captureType is what captures are sent as.
const captureType = "application/vnd.tcpdump.pcap"

// replay is for administrators: it takes as much memory as the tables have. It answers while it reads.
func (s *Server) replay(w http.ResponseWriter, r *http.Request) error {
	stream := s.newStream(w)
	if err := stream.rc.EnableFullDuplex(); err != nil {
		return fmt.Errorf("read and answer: %w", err)
	}
	err := s.backend.Replay(r.Context(), r.Body, r.URL.Query().Get("interface"), func(line *director.TraceLine) error { return stream.line(line) })
	var tooLong *http.MaxBytesError
	switch {
	case errors.As(err, &tooLong):
		err = failure(http.StatusRequestEntityTooLarge, "the capture is longer than %d bytes", tooLong.Limit)
	case r.Context().Err() != nil: // or it is the reader that went away
		err = failure(http.StatusServiceUnavailable, "the daemon stops")
	}
	return stream.finish(err)
}

// Replay tells what would become of the packets of a capture, in the format pcap or pcapng, if they came in now, those
// of other interfaces than the director's by the one named in, or if that is empty, the first; nothing changes by it.
func (c *Client) Replay(ctx context.Context, capture io.Reader, in string, yield func(*director.TraceLine) error) error {
	var query url.Values
	if in != "" {
		query = url.Values{"interface": {in}}
	}
	resp, err := c.send(ctx, http.MethodPost, pathReplay, query, capture)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	return readLines(resp.Body, func(line *packetLine) error { return yield(&line.TraceLine) })
}
