// SPDX-License-Identifier: Apache-2.0

package api

import (
	"net/http"
	"slices"
	"testing"
)

// TestStop: what is asked for arrives, and a word that is not known ends no daemon.
func TestStop(t *testing.T) {
	b := &fakeBackend{}
	path, _ := start(t, b, ServerOptions{})
	client := newClient(t, path)
	for _, detach := range []bool{false, true} {
		if err := client.Stop(t.Context(), detach); err != nil {
			t.Error(err)
		}
	}
	err := client.call(t.Context(), http.MethodPost, pathStop, map[string][]string{"detach": {"yes"}}, nil, &struct{}{})
	wantStatus(t, err, http.StatusBadRequest)
	wantError(t, err, `parameter detach is true, or absent, not "yes"`)
	if !slices.Equal(b.stopped, []bool{false, true}) {
		t.Errorf("the daemon was told %v", b.stopped)
	}
}
