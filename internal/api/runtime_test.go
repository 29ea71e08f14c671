// SPDX-License-Identifier: Apache-2.0

package api

import (
	"encoding/json"
	"errors"
	"net/http"
	"reflect"
	"testing"

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
