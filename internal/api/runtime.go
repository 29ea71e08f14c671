// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"xdplvs/director"
)

// faultStatus is what HTTP says of the faults.
var faultStatus = map[director.EditFault]int{
	director.FaultServiceExists: http.StatusConflict,
	director.FaultRealExists:    http.StatusConflict,
	director.FaultNoService:     http.StatusNotFound,
	director.FaultNoReal:        http.StatusNotFound,
}

// editFailure is the answer to edits that were not made.
func editFailure(err error) error {
	answer := &Error{Status: http.StatusUnprocessableEntity, Message: err.Error(), Fault: director.FaultInvalid}
	var edit *director.EditError
	if errors.As(err, &edit) {
		answer.Fault, answer.Index = edit.Fault, edit.Index
		if status, ok := faultStatus[edit.Fault]; ok {
			answer.Status = status
		}
	}
	return answer
}

func (s *Server) config(w http.ResponseWriter, _ *http.Request) error {
	text, err := s.backend.Config()
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/yaml")
	if _, err := w.Write(text); err != nil {
		return fmt.Errorf("send answer: %w", err)
	}
	return nil
}

func (s *Server) edit(w http.ResponseWriter, r *http.Request) error {
	var body editsBody
	if err := readJSON(r, &body); err != nil {
		return err
	}
	if len(body.Edits) == 0 {
		return failure(http.StatusBadRequest, "the body has no edits")
	}
	if err := s.backend.Edit(r.Context(), body.Edits); err != nil {
		return editFailure(err)
	}
	return writeJSON(w, struct{}{})
}

func (s *Server) changes(w http.ResponseWriter, _ *http.Request) error {
	return writeJSON(w, s.backend.Changes())
}

func (s *Server) discardChanges(w http.ResponseWriter, r *http.Request) error {
	return done(w, s.backend.DiscardChanges(r.Context()))
}

func (s *Server) zero(w http.ResponseWriter, r *http.Request) error {
	if err := s.backend.Zero(r.Context(), r.URL.Query().Get("service")); err != nil {
		return editFailure(err)
	}
	return writeJSON(w, struct{}{})
}

// Config is the text of a configuration file that is what is in force.
func (c *Client) Config(ctx context.Context) ([]byte, error) {
	resp, err := c.do(ctx, http.MethodGet, pathConfig, nil, nil)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, fmt.Errorf("read answer to %s: %w", pathConfig, err)
	}
	return text, nil
}

// Edit changes services: all edits are in force when it returns, or none is. An *Error tells which
// cannot be, and why.
func (c *Client) Edit(ctx context.Context, edits ...director.Edit) error {
	return c.call(ctx, http.MethodPatch, pathConfig, nil, editsBody{edits}, &struct{}{})
}

// Changes are those that edits made of the configuration.
func (c *Client) Changes(ctx context.Context) (changes director.Changes, err error) {
	err = c.call(ctx, http.MethodGet, pathChanges, nil, nil, &changes)
	return changes, err
}

// DiscardChanges makes everything as the configuration says.
func (c *Client) DiscardChanges(ctx context.Context) error {
	return c.call(ctx, http.MethodDelete, pathChanges, nil, nil, &struct{}{})
}

// Zero lets the counters of a service begin at 0, or with an empty name those of all.
func (c *Client) Zero(ctx context.Context, service string) error {
	var query url.Values
	if service != "" {
		query = url.Values{"service": {service}}
	}
	return c.call(ctx, http.MethodPost, pathZero, query, nil, &struct{}{})
}
