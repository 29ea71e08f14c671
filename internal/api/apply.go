// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"net/http"
	"net/url"
	"time"

	"xdplvs/director"
)

func (s *Server) plan(w http.ResponseWriter, r *http.Request) error {
	var body fileBody
	if err := readJSON(r, &body); err != nil {
		return err
	}
	preview, err := s.backend.Preview(r.Context(), body.File, []byte(body.Text))
	if err != nil {
		return failure(http.StatusUnprocessableEntity, "%s", err)
	}
	return writeJSON(w, preview)
}

func (s *Server) apply(w http.ResponseWriter, r *http.Request) error {
	var body fileBody
	if err := readJSON(r, &body); err != nil {
		return err
	}
	confirm := time.Duration(0)
	if text := r.URL.Query().Get("confirm"); text != "" {
		var err error
		if confirm, err = time.ParseDuration(text); err != nil || confirm <= 0 {
			return failure(http.StatusBadRequest, "parameter confirm is a duration such as 2m, not %q", text)
		}
	}
	return done(w, s.backend.Apply(r.Context(), body.File, []byte(body.Text), confirm))
}

func (s *Server) confirm(w http.ResponseWriter, r *http.Request) error {
	return done(w, s.backend.Confirm(r.Context()))
}

func (s *Server) rollback(w http.ResponseWriter, r *http.Request) error {
	return done(w, s.backend.Rollback(r.Context()))
}

// done answers that something is in force, or why not.
func done(w http.ResponseWriter, err error) error {
	if err != nil {
		return failure(http.StatusUnprocessableEntity, "%s", err)
	}
	return writeJSON(w, struct{}{})
}

// Plan tells what a configuration would change. An *Error's text has one line for each mistake of it.
func (c *Client) Plan(ctx context.Context, file string, text []byte) (p director.Preview, err error) {
	err = c.call(ctx, http.MethodPost, pathPlan, nil, fileBody{file, string(text)}, &p)
	return p, err
}

// Apply puts a configuration in force, with confirm above 0 until that time is over or it is confirmed.
func (c *Client) Apply(ctx context.Context, file string, text []byte, confirm time.Duration) error {
	var query url.Values
	if confirm > 0 {
		query = url.Values{"confirm": {confirm.String()}}
	}
	return c.call(ctx, http.MethodPost, pathApply, query, fileBody{file, string(text)}, &struct{}{})
}

// Confirm makes a configuration stay that was applied until it is confirmed.
func (c *Client) Confirm(ctx context.Context) error {
	return c.call(ctx, http.MethodPost, pathConfirm, nil, nil, &struct{}{})
}

// Rollback returns to the former configuration.
func (c *Client) Rollback(ctx context.Context) error {
	return c.call(ctx, http.MethodPost, pathRollback, nil, nil, &struct{}{})
}
