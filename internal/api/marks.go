// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"

	"xdplvs/director"
)

// explainParams are what a packet is made of.
var explainParams = []string{"protocol", "source", "destination", "interface", "dscp", "mark"}

func (s *Server) marks(w http.ResponseWriter, r *http.Request) error {
	list, err := s.backend.Marks(r.Context())
	if err != nil {
		return err
	}
	return writeJSON(w, list)
}

func (s *Server) explainMark(w http.ResponseWriter, r *http.Request) error {
	q, err := markQuestion(r.URL.Query())
	if err != nil {
		return failure(http.StatusBadRequest, "%s", err)
	}
	a, err := s.backend.ExplainMark(r.Context(), q)
	if err != nil {
		return failure(http.StatusBadRequest, "%s", err)
	}
	return writeJSON(w, a)
}

func markQuestion(v url.Values) (q director.MarkQuestion, err error) {
	if err := q.Protocol.UnmarshalText([]byte(v.Get("protocol"))); err != nil {
		return q, err
	}
	if q.Source, err = netip.ParseAddrPort(v.Get("source")); err != nil {
		return q, err
	}
	if q.Dest, err = netip.ParseAddrPort(v.Get("destination")); err != nil {
		return q, err
	}
	q.Interface = v.Get("interface")
	dscp, err := number(v, "dscp", 8)
	if err != nil {
		return q, err
	}
	mark, err := number(v, "mark", 32)
	q.DSCP, q.Mark = uint8(dscp), uint32(mark)
	return q, err
}

// number is 0 if it is not given.
func number(v url.Values, name string, bits int) (uint64, error) {
	if !v.Has(name) {
		return 0, nil
	}
	n, err := strconv.ParseUint(v.Get(name), 0, bits)
	if err != nil {
		return 0, failure(http.StatusBadRequest, "parameter %s: %q is no number of %d bits", name, v.Get(name), bits)
	}
	return n, nil
}

// Marks are the rules that mark packets, as they are in force.
func (c *Client) Marks(ctx context.Context) (list director.MarkList, err error) {
	err = c.call(ctx, http.MethodGet, pathMarks, nil, nil, &list)
	return list, err
}

// ExplainMark tells which rule marks a packet, and which service takes it.
func (c *Client) ExplainMark(ctx context.Context, q director.MarkQuestion) (a director.MarkAnswer, err error) {
	v := url.Values{"protocol": {q.Protocol.String()}, "source": {q.Source.String()}, "destination": {q.Dest.String()},
		"dscp": {strconv.Itoa(int(q.DSCP))}, "mark": {strconv.FormatUint(uint64(q.Mark), 10)}}
	if q.Interface != "" {
		v.Set("interface", q.Interface)
	}
	err = c.call(ctx, http.MethodGet, pathExplainMark, v, nil, &a)
	return a, err
}
