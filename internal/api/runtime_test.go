// SPDX-License-Identifier: Apache-2.0

package api

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"reflect"
	"testing"
	"time"

	"xdplvs/director"
)

// TestEdit: edits arrive as they were sent, and what the daemon says of one that cannot be comes back.
func TestEdit(t *testing.T) {
	b := &fakeBackend{}
	path, _ := start(t, b, ServerOptions{})
	client := newClient(t, path)
	edits := []director.Edit{
		{Op: director.AddService, Set: map[string]json.RawMessage{"virtual": json.RawMessage(`"192.0.2.1:80"`)}},
		{Op: director.RemoveReal, Service: "web", Real: "10.0.0.1"},
	}
	if err := client.Edit(t.Context(), edits...); err != nil || !reflect.DeepEqual(b.edits, edits) {
		t.Errorf("%v, made %+v", err, b.edits)
	}
	for fault, status := range map[director.EditFault]int{
		director.FaultServiceExists: http.StatusConflict, director.FaultNoReal: http.StatusNotFound, director.FaultInvalid: http.StatusUnprocessableEntity,
	} {
		b.editErr = &director.EditError{Fault: fault, Index: 1, Text: "it cannot be"}
		err := client.Edit(t.Context(), edits...)
		var answer *Error
		if !errors.As(err, &answer) || *answer != (Error{Status: status, Message: "it cannot be", Fault: fault, Index: 1}) {
			t.Errorf("%s: %#v", fault, err)
		}
	}
	b.editErr = errors.New("no room")
	wantStatus(t, client.Edit(t.Context(), edits...), http.StatusUnprocessableEntity)
	wantStatus(t, client.Edit(t.Context()), http.StatusBadRequest)
}

// TestManyEdits: a restored table is far longer than other bodies may be.
func TestManyEdits(t *testing.T) {
	b := &fakeBackend{}
	path, _ := start(t, b, ServerOptions{})
	edits := make([]director.Edit, 20000)
	for i := range edits {
		edits[i] = director.Edit{Op: director.RemoveService, Service: "tcp 192.0.2.1:80"}
	}
	if err := newClient(t, path).Edit(t.Context(), edits...); err != nil || len(b.edits) != len(edits) {
		t.Errorf("%v, %d made", err, len(b.edits))
	}
}

// TestChanges: what was changed is told as it is, and can be discarded.
func TestChanges(t *testing.T) {
	key := director.MarkKey(7, false)
	b := &fakeBackend{changes: director.Changes{Services: []director.ServiceChange{{Key: key, Added: true, Options: &director.Service{Key: key, Scheduler: "rr"}}}}}
	path, _ := start(t, b, ServerOptions{})
	client := newClient(t, path)
	if got, err := client.Changes(t.Context()); err != nil || !reflect.DeepEqual(got, b.changes) {
		t.Errorf("%v, %+v", err, got)
	}
	if text, err := client.Config(t.Context()); err != nil || string(text) != "interfaces: [eth0]\n" {
		t.Errorf("%v, %s", err, text)
	}
	if err := client.DiscardChanges(t.Context()); err != nil || !b.changes.Empty() {
		t.Errorf("%v, left %+v", err, b.changes)
	}
	if err := errors.Join(client.Zero(t.Context(), "web"), client.Zero(t.Context(), "")); err != nil || !reflect.DeepEqual(b.zeroed, []string{"web", ""}) {
		t.Errorf("%v, zeroed %v", err, b.zeroed)
	}
	b.editErr = errors.New("broken")
	wantStatus(t, client.DiscardChanges(t.Context()), http.StatusUnprocessableEntity)
	if _, err := client.Config(t.Context()); err == nil {
		t.Error("no error")
	}
}

// TestApply: a configuration and the time to confirm it arrive as they were sent.
func TestApply(t *testing.T) {
	b := &fakeBackend{preview: director.Preview{Other: []string{"marks"}}}
	path, _ := start(t, b, ServerOptions{})
	client := newClient(t, path)
	if p, err := client.Plan(t.Context(), "new.yaml", []byte("a: b\n")); err != nil || !reflect.DeepEqual(p, b.preview) {
		t.Errorf("%v, %+v", err, p)
	}
	err := errors.Join(client.Apply(t.Context(), "new.yaml", []byte("a"), 0), client.Apply(t.Context(), "new.yaml", []byte("a"), 2*time.Minute),
		client.Confirm(t.Context()), client.Rollback(t.Context()))
	want := []string{"plan new.yaml a: b\n", "apply new.yaml a 0s", "apply new.yaml a 2m0s", "confirm", "rollback"}
	if err != nil || !reflect.DeepEqual(b.applied, want) {
		t.Errorf("%v, asked %q", err, b.applied)
	}
	for _, text := range []string{"soon", "0s", "-1m"} {
		wantStatus(t, client.call(t.Context(), http.MethodPost, pathApply, url.Values{"confirm": {text}}, fileBody{}, &struct{}{}), http.StatusBadRequest)
	}
	b.editErr = errors.Join(errors.New("new.yaml:1:1: a"), errors.New("new.yaml:2:1: b"))
	_, err = client.Plan(t.Context(), "new.yaml", nil)
	for _, err := range []error{err, client.Apply(t.Context(), "new.yaml", nil, 0), client.Confirm(t.Context()), client.Rollback(t.Context())} {
		wantStatus(t, err, http.StatusUnprocessableEntity)
		wantError(t, err, "new.yaml:1:1: a\nnew.yaml:2:1: b")
	}
}
