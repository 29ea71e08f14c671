// SPDX-License-Identifier: Apache-2.0

package api

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"xdplvs/director"
)

var update = flag.Bool("update", false, "write docs/openapi.json")

// TestEachRouteIsDescribed, and nothing else is.
func TestEachRouteIsDescribed(t *testing.T) {
	known := map[string]bool{}
	for i := range routes {
		r := &routes[i]
		name := r.method + " " + r.path
		known[name] = true
		of, ok := operations[name]
		switch {
		case !ok:
			t.Errorf("%s is in no line of operations (openapi.go)", name)
		case of.summary == "" || of.answer == nil:
			t.Errorf("%s has no summary, or no answer", name)
		case (r.body > 0) != (of.body != nil || of.capture):
			t.Errorf("%s: the route has a body: %v, the description: %v", name, r.body, of.body != nil || of.capture)
		}
		for _, p := range r.params {
			if parameters[p] == "" {
				t.Errorf("%s: parameter %s is not described", name, p)
			}
		}
	}
	for name := range operations {
		if !known[name] {
			t.Errorf("%s is described, and there is no such route", name)
		}
	}
}

// TestDescriptionInDocuments: the document in the repository is what the daemon says.
func TestDescriptionInDocuments(t *testing.T) {
	const file = "../../docs/openapi.json"
	if *update {
		if err := os.WriteFile(file, OpenAPI(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(text, OpenAPI()) {
		t.Error("docs/openapi.json is not what the daemon says: go test ./internal/api -run TestDescriptionInDocuments -update")
	}
}

// document is a description that was read.
type document struct{ root map[string]any }

// at follows keys; nil if there is nothing.
func (d document) at(keys ...string) any {
	var here any = d.root
	for _, k := range keys {
		object, _ := here.(map[string]any)
		here = object[k]
	}
	return here
}

// check reports where a value is not what the schema says.
func (d document) check(where string, schema, value any) (faults []string) {
	of, ok := schema.(map[string]any)
	if !ok {
		return []string{where + ": has no schema"}
	}
	if ref, ok := of["$ref"].(string); ok {
		found := d.at(strings.Split(strings.TrimPrefix(ref, "#/"), "/")...)
		return d.check(where, found, value)
	}
	switch v := value.(type) {
	case map[string]any:
		return d.checkObject(where, of, v)
	case []any:
		if of["type"] != "array" {
			return []string{fmt.Sprintf("%s: is an array, not %v", where, of["type"])}
		}
		for i := range v {
			faults = append(faults, d.check(fmt.Sprintf("%s[%d]", where, i), of["items"], v[i])...)
		}
		return faults
	}
	if got, want := jsonType(value), fmt.Sprint(of["type"]); value != nil && !strings.Contains(want, got) && (got != "number" || want != "integer") {
		return []string{fmt.Sprintf("%s: is %s, not %s", where, got, want)}
	}
	return nil
}

func (d document) checkObject(where string, of, v map[string]any) (faults []string) {
	if of["type"] != "object" {
		return []string{fmt.Sprintf("%s: is an object, not %v", where, of["type"])}
	}
	properties, _ := of["properties"].(map[string]any)
	for name, inner := range v {
		schema, ok := properties[name]
		if !ok {
			schema, ok = of["additionalProperties"], of["additionalProperties"] != nil
		}
		if !ok && of["properties"] != nil {
			faults = append(faults, where+"."+name+": is not described")
		} else if ok {
			faults = append(faults, d.check(where+"."+name, schema, inner)...)
		}
	}
	for _, name := range asList(of["required"]) {
		if _, ok := v[fmt.Sprint(name)]; !ok {
			faults = append(faults, fmt.Sprintf("%s: has no %v, which is required", where, name))
		}
	}
	return faults
}

func asList(v any) []any { list, _ := v.([]any); return list }

func jsonType(v any) string {
	switch v.(type) {
	case string:
		return "string"
	case bool:
		return "boolean"
	default:
		return "number"
	}
}

// TestAnswersAreAsDescribed asks every route that answers in JSON, and compares.
func TestAnswersAreAsDescribed(t *testing.T) {
	var d document
	if err := json.Unmarshal(OpenAPI(), &d.root); err != nil {
		t.Fatal(err)
	}
	s := NewServer(discard(), describedBackend(), ServerOptions{})
	asked := 0
	for i := range routes {
		r := &routes[i]
		if r.path == pathOpenAPI || operations[r.method+" "+r.path].yaml {
			continue
		}
		body := io.Reader(nil)
		if r.body > 0 {
			text, err := json.Marshal(sampleBody(r))
			if err != nil {
				t.Fatal(err)
			}
			body = bytes.NewReader(text)
		}
		w := httptest.NewRecorder()
		if err := r.serve(s, w, httptest.NewRequest(r.method, r.path+"?all=true", body)); err != nil {
			t.Logf("%s %s is not compared: %v", r.method, r.path, err) // wants what only its own test knows
			continue
		}
		asked++
		kind := strings.Split(w.Header().Get("Content-Type"), ";")[0]
		schema := d.at("paths", r.path, strings.ToLower(r.method), "responses", "200", "content", kind, "schema")
		for line := range bytes.Lines(w.Body.Bytes()) {
			var value any
			if err := json.Unmarshal(line, &value); err != nil {
				t.Errorf("%s %s: %v", r.method, r.path, err)
				continue
			}
			for _, fault := range d.check(r.method+" "+r.path, schema, value) {
				t.Error(fault)
			}
		}
	}
	if asked < 10 {
		t.Errorf("only %d routes were asked", asked)
	}
}

// sampleBody is an empty value of what a route takes.
func sampleBody(r *route) any {
	if r.path == pathExplain {
		return question()
	}
	return struct{}{}
}

// describedBackend has one of each.
func describedBackend() *fakeBackend {
	snapshot := bigSnapshot(2, 2)
	snapshot.Verdicts = map[string]uint64{"tx": 1}
	snapshot.Tables = []director.TableState{{Name: "connections4", Entries: map[string]uint64{"UDP": 1}}}
	conn := fakeConn(0)
	return &fakeBackend{
		snapshot: snapshot, conns: 3, templates: []director.Conn{conn}, reload: noFault, timeouts: director.DefaultTimeouts,
		addresses:   director.AddressList{Addresses: []director.AddressState{{Rival: &director.Rival{}}}},
		explanation: director.Explanation{Reals: []director.Candidate{{RealState: snapshot.Services[0].Reals[0]}}, ConnAfter: &conn, FrameBefore: []byte{1}, FrameAfter: []byte{2}},
	}
}

// TestDescriptionIsServed: over the socket it is the same.
func TestDescriptionIsServed(t *testing.T) {
	s := NewServer(discard(), &fakeBackend{}, ServerOptions{})
	w := httptest.NewRecorder()
	if err := s.openAPI(w, httptest.NewRequest(http.MethodGet, pathOpenAPI, nil)); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(w.Body.Bytes(), OpenAPI()) || w.Header().Get("Content-Type") != "application/json" {
		t.Errorf("served as %s:\n%s", w.Header().Get("Content-Type"), w.Body)
	}
}
