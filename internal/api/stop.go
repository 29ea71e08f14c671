// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"net/http"
	"net/url"
)

func (s *Server) stop(w http.ResponseWriter, r *http.Request) error {
	detach := r.URL.Query().Get("detach")
	if detach != "" && detach != "true" {
		return failure(http.StatusBadRequest, "parameter detach is true, or absent, not %q", detach)
	}
	s.backend.Stop(detach == "true")
	return writeJSON(w, struct{}{})
}

// Stop ends the daemon, which goes on for a moment. The data plane forwards on, or, with detach, all that
// the director added to the host is removed.
func (c *Client) Stop(ctx context.Context, detach bool) error {
	var query url.Values
	if detach {
		query = url.Values{"detach": {"true"}}
	}
	return c.call(ctx, http.MethodPost, pathStop, query, nil, &struct{}{})
}
