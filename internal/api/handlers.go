// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"xdplvs/director"
	"xdplvs/internal/api/connfilter"
)

// route is one thing that can be asked for.
type route struct {
	method string
	path   string
	need   role
	params []string // known query parameters
	body   int64    // the longest, in bytes; 0: there may be none
	serve  func(*Server, http.ResponseWriter, *http.Request) error
}

var routes = []route{
	{http.MethodGet, pathSnapshot, reader, nil, 0, (*Server).snapshot},
	{http.MethodGet, pathConnections, reader, []string{"filter"}, 0, (*Server).connections},
	{http.MethodDelete, pathConnections, admin, []string{"filter", "all"}, 0, (*Server).deleteConnections},
	{http.MethodGet, pathCount, reader, []string{"filter"}, 0, (*Server).count},
	{http.MethodGet, pathPersistence, reader, []string{"filter"}, 0, (*Server).templates},
	{http.MethodDelete, pathPersistence, admin, []string{"filter", "all"}, 0, (*Server).deleteTemplates},
	{http.MethodGet, pathTemplates, reader, []string{"filter"}, 0, (*Server).countTemplates},
	{http.MethodGet, pathTimeouts, reader, nil, 0, (*Server).timeouts},
	{http.MethodPatch, pathTimeouts, admin, nil, maxBody, (*Server).setTimeouts},
	{http.MethodGet, pathDefense, reader, nil, 0, (*Server).defense},
	{http.MethodPatch, pathDefense, admin, nil, maxBody, (*Server).setDefense},
	{http.MethodGet, pathReport, reader, nil, 0, (*Server).defenseReport},
	{http.MethodGet, pathAddresses, reader, nil, 0, (*Server).addresses},
	{http.MethodGet, pathHealth, reader, nil, 0, (*Server).health},
	{http.MethodGet, pathHistory, reader, []string{"real", "service"}, 0, (*Server).healthHistory},
	{http.MethodPost, pathOrder, admin, nil, maxBody, (*Server).orderHealth},
	{http.MethodGet, pathMarks, reader, nil, 0, (*Server).marks},
	{http.MethodGet, pathExplainMark, reader, explainParams, 0, (*Server).explainMark},
	{http.MethodPost, pathExplain, admin, nil, maxBody, (*Server).explain},
	{http.MethodGet, pathTrace, admin, []string{"filter", "bytes"}, 0, (*Server).trace},
	{http.MethodPost, pathReplay, admin, []string{"interface"}, maxCapture, (*Server).replay},
	{http.MethodGet, pathVersion, reader, nil, 0, (*Server).version},
	{http.MethodGet, pathOpenAPI, reader, nil, 0, (*Server).openAPI},
	{http.MethodPost, pathReload, admin, nil, 0, (*Server).reload},
	{http.MethodGet, pathConfig, admin, nil, 0, (*Server).config},
	{http.MethodPatch, pathConfig, admin, nil, maxEdits, (*Server).edit},
	{http.MethodGet, pathChanges, reader, nil, 0, (*Server).changes},
	{http.MethodDelete, pathChanges, admin, nil, 0, (*Server).discardChanges},
	{http.MethodPost, pathPlan, admin, nil, maxEdits, (*Server).plan},
	{http.MethodPost, pathApply, admin, []string{"confirm"}, maxEdits, (*Server).apply},
	{http.MethodPost, pathConfirm, admin, nil, 0, (*Server).confirm},
	{http.MethodPost, pathRollback, admin, nil, 0, (*Server).rollback},
	{http.MethodGet, pathWatch, reader, []string{"since"}, 0, (*Server).watch},
	{http.MethodPost, pathStop, admin, []string{"detach"}, 0, (*Server).stop},
	{http.MethodPost, pathZero, admin, []string{"service"}, 0, (*Server).zero},
}

// Error is an error that the daemon answered with.
type Error struct {
	Status  int // HTTP's
	Message string
	// Fault and Index are an edit's that cannot be made, see director.EditError.
	Fault director.EditFault
	Index int
}

// Error is the daemon's text.
func (e *Error) Error() string { return e.Message }

func failure(status int, format string, args ...any) error {
	return &Error{Status: status, Message: fmt.Sprintf(format, args...)}
}

func (s *Server) serveHTTP(w http.ResponseWriter, r *http.Request) {
	// The deadline of an earlier request on this connection would still hold.
	s.extendDeadline(http.NewResponseController(w))
	if err := s.dispatch(w, r); err != nil {
		s.writeError(w, err)
	}
}

// extendDeadline gives the reader time for the next piece.
func (s *Server) extendDeadline(rc *http.ResponseController) {
	if err := rc.SetWriteDeadline(time.Now().Add(s.opts.StallTimeout)); err != nil {
		s.log.Debug("api write deadline", "error", err)
	}
}

// dispatchKnown checks in this order: room, who, where, how, what.
func (s *Server) dispatchKnown(w http.ResponseWriter, r *http.Request) error {
	info, ok := r.Context().Value(connKey{}).(*connInfo)
	if !ok {
		return errors.New("a connection without its context")
	}
	if info.refused {
		return s.full(w)
	}
	if r.ContentLength != 0 {
		r.Body = limitBody(w, r.Body)
	}
	who, err := s.identify(w, r, info)
	if err != nil {
		return err
	}
	if err := who.must(reader); err != nil {
		return err
	}
	if page := s.opts.pageFor(r.URL.Path); page != nil {
		return servePage(w, r, page, who)
	}
	found, err := findRoute(w, r)
	if err != nil {
		return err
	}
	if err := who.must(found.need); err != nil {
		return err
	}
	if err := checkRequest(w, r, found); err != nil {
		return err
	}
	return s.serve(w, r, found, who)
}

// must refuses a caller that has a lower role.
func (c *caller) must(need role) error {
	if c.have < need {
		return failure(http.StatusForbidden, "%s", c.refusal(need))
	}
	return nil
}

// identifyPeer goes by what the kernel says.
func (s *Server) identifyPeer(_ http.ResponseWriter, _ *http.Request, info *connInfo) (*caller, error) {
	if info.err != nil {
		return nil, failure(http.StatusForbidden, "the kernel does not tell who asks")
	}
	p := info.peer
	return &caller{have: s.opts.roleOf(p), refusal: func(need role) string { return s.opts.refusal(p, need) },
		log: []any{"uid", p.uid, "pid", p.pid}}, nil
}

// full is the answer to a connection beyond the limit.
func (s *Server) full(w http.ResponseWriter) error {
	w.Header().Set("Connection", "close")
	return failure(http.StatusServiceUnavailable, "%d connections to the daemon are open, which is the limit", s.opts.MaxConns)
}

// serve runs the handler; what changes something is logged.
func (s *Server) serve(w http.ResponseWriter, r *http.Request, found *route, who *caller) error {
	err := found.serve(s, w, r)
	if found.need == admin {
		log := s.log.With("event", "api_request", "method", found.method, "path", found.path).With(who.log...)
		if err != nil {
			log.Warn("api request failed", "error", err)
		} else {
			log.Info("api request")
		}
	}
	return err
}

func findRoute(w http.ResponseWriter, r *http.Request) (*route, error) {
	var known, methods []string
	for i := range routes {
		switch {
		case routes[i].path != r.URL.Path:
			known = append(known, routes[i].path)
		case routes[i].method != r.Method:
			methods = append(methods, routes[i].method)
		default:
			return &routes[i], nil
		}
	}
	if methods != nil {
		w.Header().Set("Allow", strings.Join(methods, ", "))
		return nil, failure(http.StatusMethodNotAllowed, "%s wants %s, not %s", r.URL.Path, strings.Join(methods, " or "), r.Method)
	}
	return nil, failure(http.StatusNotFound, "unknown path %q (known: %s)", r.URL.Path, strings.Join(slices.Compact(known), ", "))
}

func checkRequest(w http.ResponseWriter, r *http.Request, found *route) error {
	if found.body > 0 {
		r.Body = http.MaxBytesReader(w, r.Body, found.body)
	} else if r.ContentLength != 0 {
		w.Header().Set("Connection", "close") // or the server would wait for the body
		return failure(http.StatusRequestEntityTooLarge, "%s takes no body", found.path)
	}
	for name := range r.URL.Query() {
		if !slices.Contains(found.params, name) {
			return failure(http.StatusBadRequest, "unknown parameter %q", name)
		}
	}
	return nil
}

func (s *Server) snapshot(w http.ResponseWriter, _ *http.Request) error {
	snapshot := s.backend.Snapshot()
	if snapshot == nil {
		return failure(http.StatusServiceUnavailable, "the daemon is still starting")
	}
	return writeSnapshot(w, snapshot)
}

func (s *Server) timeouts(w http.ResponseWriter, r *http.Request) error {
	t, err := s.backend.Timeouts(r.Context())
	if err != nil {
		return err
	}
	return writeJSON(w, t)
}

func (s *Server) setTimeouts(w http.ResponseWriter, r *http.Request) error {
	var change director.Timeouts
	if err := readJSON(r, &change); err != nil {
		return err
	}
	t, err := s.backend.SetTimeouts(r.Context(), change)
	if err != nil {
		return err
	}
	return writeJSON(w, t)
}

func (s *Server) defense(w http.ResponseWriter, r *http.Request) error {
	state, err := s.backend.Defense(r.Context())
	if err != nil {
		return err
	}
	return writeJSON(w, state)
}

func (s *Server) setDefense(w http.ResponseWriter, r *http.Request) error {
	var change director.DefenseChange
	if err := readJSON(r, &change); err != nil {
		return err
	}
	state, err := s.backend.SetDefense(r.Context(), change)
	if err != nil {
		return err
	}
	return writeJSON(w, state)
}

func (s *Server) defenseReport(w http.ResponseWriter, r *http.Request) error {
	report, err := s.backend.DefenseReport(r.Context())
	if err != nil {
		return err
	}
	return writeJSON(w, report)
}

func (s *Server) addresses(w http.ResponseWriter, _ *http.Request) error {
	return writeJSON(w, s.backend.Addresses())
}

func (s *Server) health(w http.ResponseWriter, _ *http.Request) error {
	return writeJSON(w, s.backend.Health())
}

func (s *Server) healthHistory(w http.ResponseWriter, r *http.Request) error {
	query := r.URL.Query()
	history, err := s.backend.HealthHistory(query.Get("real"), query.Get("service"))
	if err != nil {
		return failure(http.StatusNotFound, "%s", err)
	}
	return writeJSON(w, history)
}

func (s *Server) orderHealth(w http.ResponseWriter, r *http.Request) error {
	var order director.HealthOrder
	if err := readJSON(r, &order); err != nil {
		return err
	}
	n, err := s.backend.OrderHealth(order)
	if err != nil {
		return failure(http.StatusUnprocessableEntity, "%s", err)
	}
	return writeJSON(w, orderedBody{n})
}

// explain is for administrators: it changes nothing, but takes as much memory as the tables have.
func (s *Server) explain(w http.ResponseWriter, r *http.Request) error {
	var q director.Question
	if err := readJSON(r, &q); err != nil {
		return err
	}
	if err := q.Validate(); err != nil {
		return failure(http.StatusUnprocessableEntity, "%s", err)
	}
	e, err := s.backend.Explain(r.Context(), q)
	if err != nil {
		return err
	}
	return writeJSON(w, e)
}

func (s *Server) version(w http.ResponseWriter, _ *http.Request) error {
	return writeJSON(w, versionBody{s.backend.Version()})
}

func (s *Server) reload(w http.ResponseWriter, r *http.Request) error {
	return done(w, s.backend.Reload(r.Context()))
}

// entries is what lists connections, or templates.
type entries func(context.Context, func(*director.Conn) error) error

func (s *Server) count(w http.ResponseWriter, r *http.Request) error {
	return countOf(w, r, s.backend.Connections)
}

func (s *Server) countTemplates(w http.ResponseWriter, r *http.Request) error {
	return countOf(w, r, s.backend.Templates)
}

func countOf(w http.ResponseWriter, r *http.Request, list entries) error {
	var n uint64
	err := eachMatch(r, list, func(*director.Conn) error { n++; return nil })
	if err != nil {
		return err
	}
	return writeJSON(w, countBody{n})
}

func (s *Server) connections(w http.ResponseWriter, r *http.Request) error {
	stream := s.newStream(w)
	return stream.finish(eachMatch(r, s.backend.Connections, stream.add))
}

func (s *Server) templates(w http.ResponseWriter, r *http.Request) error {
	stream := s.newStream(w)
	return stream.finish(eachMatch(r, s.backend.Templates, stream.add))
}

func (s *Server) deleteConnections(w http.ResponseWriter, r *http.Request) error {
	return deleteMatches(w, r, "connections", s.backend.DeleteConnections)
}

func (s *Server) deleteTemplates(w http.ResponseWriter, r *http.Request) error {
	return deleteMatches(w, r, "templates", s.backend.DeleteTemplates)
}

// deleteMatches does not take a forgotten filter for all.
func deleteMatches(w http.ResponseWriter, r *http.Request, what string,
	remove func(context.Context, func(*director.Conn) bool) (uint64, error)) error {
	text, all := r.URL.Query().Get("filter"), r.URL.Query().Get("all")
	filter, err := connfilter.Parse(text)
	switch {
	case err != nil:
		return failure(http.StatusBadRequest, "%s", err)
	case all != "" && all != "true":
		return failure(http.StatusBadRequest, "parameter all is true or absent, not %q", all)
	case strings.TrimSpace(text) == "" && all == "":
		return failure(http.StatusBadRequest, "no filter says which %s to delete; all=true deletes all", what)
	case strings.TrimSpace(text) != "" && all != "":
		return failure(http.StatusBadRequest, "a filter and all=true contradict each other")
	}
	n, err := remove(r.Context(), filter.Match)
	if r.Context().Err() != nil { // or it is the one who asked that went away
		return failure(http.StatusServiceUnavailable, "the daemon stops (%d %s are deleted)", n, what)
	}
	if err != nil {
		return fmt.Errorf("%w (%d %s are deleted)", err, n, what)
	}
	return writeJSON(w, deletedBody{n})
}

// eachMatch calls yield for the entries that the request's filter lets through.
func eachMatch(r *http.Request, list entries, yield func(*director.Conn) error) error {
	filter, err := connfilter.Parse(r.URL.Query().Get("filter"))
	if err != nil {
		return failure(http.StatusBadRequest, "%s", err)
	}
	err = list(r.Context(), func(c *director.Conn) error {
		if !filter.Match(c) {
			return nil
		}
		return yield(c)
	})
	if r.Context().Err() != nil { // or it is the reader that went away
		return failure(http.StatusServiceUnavailable, "the daemon stops")
	}
	return err
}

// writeError answers with err, unless the answer has begun.
func (s *Server) writeError(w http.ResponseWriter, err error) {
	status := http.StatusInternalServerError
	body := errorBody{Error: err.Error()}
	var known *Error
	if errors.As(err, &known) {
		status, body.Fault, body.Index = known.Status, known.Fault, known.Index
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if err := json.NewEncoder(w).Encode(body); err != nil {
		s.log.Debug("api answer", "error", err)
	}
}

// readJSON decodes the request's body, which is one value.
func readJSON(r *http.Request, body any) error {
	text, err := io.ReadAll(r.Body)
	var tooLong *http.MaxBytesError
	if errors.As(err, &tooLong) {
		return failure(http.StatusRequestEntityTooLarge, "body is longer than %d bytes", tooLong.Limit)
	}
	if err == nil {
		err = json.Unmarshal(text, body)
	}
	if err != nil {
		return failure(http.StatusBadRequest, "read body: %s", err)
	}
	return nil
}

func writeJSON(w http.ResponseWriter, body any) error {
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(body); err != nil {
		return fmt.Errorf("send answer: %w", err)
	}
	return nil
}
