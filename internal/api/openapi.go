// SPDX-License-Identifier: Apache-2.0

package api

import (
	"encoding"
	"encoding/json"
	"net/http"
	"reflect"
	"strings"
	"time"

	"xdplvs/director"
)

// operation is what the description says of a route beyond what the route itself knows.
type operation struct {
	summary string
	body    any // of the request; nil: none
	answer  any
	lines   bool // the answer is a stream of such values, one a line
	yaml    bool // the answer is a file
	capture bool // the body is one of packets
}

// operations describe the routes, by METHOD PATH. A test holds both to each other.
var operations = map[string]operation{
	"GET " + pathSnapshot:       {summary: "The whole state", answer: director.Snapshot{}},
	"GET " + pathConnections:    {summary: "Connections, as a stream", answer: director.Conn{}, lines: true},
	"DELETE " + pathConnections: {summary: "End connections", answer: deletedBody{}},
	"GET " + pathCount:          {summary: "Count connections", answer: countBody{}},
	"GET " + pathPersistence:    {summary: "Templates of persistence, as a stream", answer: director.Conn{}, lines: true},
	"DELETE " + pathPersistence: {summary: "Forget templates", answer: deletedBody{}},
	"GET " + pathTemplates:      {summary: "Count templates", answer: countBody{}},
	"GET " + pathTimeouts:       {summary: "Timeouts in force", answer: director.Timeouts{}},
	"PATCH " + pathTimeouts:     {summary: "Change timeouts until the configuration is read again", body: director.Timeouts{}, answer: director.Timeouts{}},
	"GET " + pathAddresses:      {summary: "Who has the virtual addresses", answer: director.AddressList{}},
	"GET " + pathDefense:        {summary: "What the defenses do", answer: director.DefenseState{}},
	"PATCH " + pathDefense:      {summary: "Change settings of defenses until the configuration is read again", body: director.DefenseChange{}, answer: director.DefenseState{}},
	"GET " + pathReport:         {summary: "Who has sent most, and what became of it", answer: director.DefenseReport{}},
	"GET " + pathHealth:         {summary: "Health of the services that are checked", answer: director.HealthList{}},
	"GET " + pathHistory:        {summary: "What became of real servers", answer: []director.HealthHistory{}},
	"POST " + pathOrder:         {summary: "Set the condition of real servers by hand", body: director.HealthOrder{}, answer: orderedBody{}},
	"GET " + pathMarks:          {summary: "Rules that mark packets", answer: director.MarkList{}},
	"GET " + pathExplainMark:    {summary: "Which rule marks a packet, and which service takes it", answer: director.MarkAnswer{}},
	"GET " + pathConfig:         {summary: "The configuration in force, with the run-time changes in it", answer: "", yaml: true},
	"PATCH " + pathConfig:       {summary: "Change services and real servers, all or none", body: editsBody{}, answer: struct{}{}},
	"GET " + pathChanges:        {summary: "What is not as in the file", answer: director.Changes{}},
	"DELETE " + pathChanges:     {summary: "Make everything as in the file", answer: struct{}{}},
	"POST " + pathPlan:          {summary: "What a configuration would change", body: fileBody{}, answer: director.Preview{}},
	"POST " + pathApply:         {summary: "Put a configuration in force", body: fileBody{}, answer: struct{}{}},
	"POST " + pathConfirm:       {summary: "Let a configuration stay", answer: struct{}{}},
	"POST " + pathRollback:      {summary: "Return to the former configuration", answer: struct{}{}},
	"GET " + pathWatch:          {summary: "Changes as they happen, as a stream; lost tells that some cannot be told any more, alive that nothing has happened", answer: director.Event{}, lines: true},
	"POST " + pathStop:          {summary: "End the daemon; the data plane forwards on, or is removed", answer: struct{}{}},
	"POST " + pathZero:          {summary: "Show counters from 0 on", answer: struct{}{}},
	"POST " + pathExplain:       {summary: "What would become of a packet; nothing changes by it", body: director.Question{}, answer: director.Explanation{}},
	"GET " + pathTrace:          {summary: "Packets as they go by, as a stream that ends when the reader goes", answer: director.TraceLine{}, lines: true},
	"POST " + pathReplay:        {summary: "What would become of the packets of a capture; nothing changes by it", capture: true, answer: director.TraceLine{}, lines: true},
	"GET " + pathVersion:        {summary: "The daemon's version", answer: versionBody{}},
	"POST " + pathReload:        {summary: "Read the configuration again", answer: struct{}{}},
	"GET " + pathOpenAPI:        {summary: "This description", answer: map[string]any{}},
}

// parameters describe those of queries.
var parameters = map[string]string{
	"filter": "Which entries, in ss's words, as in: dst 192.0.2.0/24 state established",
	"all":    "true, in the place of a filter: every entry",

	"bytes":       "How many bytes of each frame are wanted, as it came and as it left; absent: none",
	"real":        "Name or address of real servers",
	"service":     "Name, or protocol and address, of a service; all if absent",
	"protocol":    "tcp, udp or sctp",
	"source":      "Address and port of the client",
	"destination": "Address and port that the packet is for",
	"interface":   "Name of the interface that it comes in by",
	"dscp":        "Differentiated services code point, 0 to 63",
	"mark":        "The firewall's mark",
	"since":       "Position of the last event that was seen; from now on if absent",
	"detach":      "true: all that the director added to the host is removed",
	"confirm":     "How long it is on trial, as in 2m; absent: it stays",
}

// node is a part of the description.
type node map[string]any

// OpenAPI describes the API, in OpenAPI 3.1 (https://spec.openapis.org/oas/v3.1.0).
func OpenAPI() []byte {
	s := schemas{}
	paths := node{}
	for i := range routes {
		r := &routes[i]
		at, ok := paths[r.path].(node)
		if !ok {
			at = node{}
			paths[r.path] = at
		}
		at[strings.ToLower(r.method)] = s.operation(r)
	}
	text, err := json.MarshalIndent(node{
		"openapi": "3.1.0",
		"info": node{
			"title": "director", "version": "1",
			"description": "The daemon's API on its unix socket, where who asks is known by the credentials of the peer, and over TCP, with TLS and a token or a client certificate. A change that breaks a reader gets another version in the path.",
		},
		"servers": []node{{"url": "http://director", "description": "over the unix socket " + DefaultSocket},
			{"url": "https://{host}:{port}", "description": "over TCP", "variables": node{"host": node{"default": "director.example.com"}, "port": node{"default": "9443"}}}},
		"security": []node{{}, {"token": []string{}}, {"certificate": []string{}}},
		"paths":    paths,
		"components": node{"schemas": s, "securitySchemes": node{
			"token": node{"type": "http", "scheme": "bearer"}, "certificate": node{"type": "mutualTLS"}}},
	}, "", "  ")
	if err != nil {
		panic(err) // maps of texts always can be marshalled
	}
	return append(text, '\n')
}

// schemas are those of named types.
type schemas map[string]any

func (s schemas) operation(r *route) node {
	of := operations[r.method+" "+r.path]
	role := "readers"
	if r.need == admin {
		role = "administrators"
	}
	kind := "application/json"
	if of.lines {
		kind = "application/x-ndjson"
	} else if of.yaml {
		kind = "application/yaml"
	}
	content := func(kind string, v any) node {
		if v == nil {
			return node{kind: node{}}
		}
		return node{kind: node{"schema": s.of(reflect.TypeOf(v))}}
	}
	out := node{
		"summary":     of.summary,
		"description": "For " + role + ".",
		"responses": node{
			"200":     node{"description": "done", "content": content(kind, of.answer)},
			"default": node{"description": "what is wrong", "content": content("application/json", errorBody{})},
		},
	}
	var list []node
	for _, name := range r.params {
		list = append(list, node{"name": name, "in": "query", "description": parameters[name], "schema": node{"type": "string"}})
	}
	if list != nil {
		out["parameters"] = list
	}
	if of.capture {
		out["requestBody"] = node{"required": true, "content": node{captureType: node{}}}
	} else if r.body > 0 {
		out["requestBody"] = node{"required": true, "content": content("application/json", of.body)}
	}
	return out
}

var (
	textual   = reflect.TypeFor[encoding.TextMarshaler]()
	timeouts  = reflect.TypeFor[director.Timeouts]()
	moment    = reflect.TypeFor[time.Time]()
	duration  = reflect.TypeFor[time.Duration]()
	byteSlice = reflect.TypeFor[[]byte]()
)

// of is the schema of what encoding/json makes of a type.
func (s schemas) of(t reflect.Type) node {
	switch {
	case t == moment:
		return node{"type": "string", "format": "date-time"}
	case t == duration:
		return node{"type": "integer", "description": "nanoseconds"}
	case t == byteSlice:
		return node{"type": "string", "contentEncoding": "base64"}
	case t == timeouts:
		return s.timeouts()
	case t.Implements(textual):
		return node{"type": "string"}
	}
	switch t.Kind() {
	case reflect.Pointer:
		return s.of(t.Elem())
	case reflect.Slice:
		return node{"type": "array", "items": s.of(t.Elem())}
	case reflect.Map:
		return node{"type": "object", "additionalProperties": s.of(t.Elem())}
	case reflect.Struct:
		return s.named(t)
	default:
		return basic(t.Kind())
	}
}

func basic(k reflect.Kind) node {
	switch k {
	case reflect.Bool:
		return node{"type": "boolean"}
	case reflect.String:
		return node{"type": "string"}
	case reflect.Float64:
		return node{"type": "number"}
	case reflect.Interface:
		return node{}
	default: // integers; a test looks at every type that is used
		return node{"type": "integer"}
	}
}

// timeouts are an object of their own making.
func (schemas) timeouts() node {
	properties := node{}
	for _, name := range director.TimeoutNames() {
		properties[name] = node{"type": []string{"string", "number"}, "description": "as 15m, or seconds"}
	}
	return node{"type": "object", "properties": properties, "additionalProperties": false}
}

// named refers to the schema of a struct, which it adds where it is missing.
func (s schemas) named(t reflect.Type) node {
	if t.Name() == "" {
		return node{"type": "object"}
	}
	if s[t.Name()] == nil {
		s[t.Name()] = node{} // so that a type that has itself inside ends
		properties, required := node{}, []string{}
		s.fields(t, properties, &required)
		s[t.Name()] = node{"type": "object", "properties": properties, "required": required}
	}
	return node{"$ref": "#/components/schemas/" + t.Name()}
}

func (s schemas) fields(t reflect.Type, properties node, required *[]string) {
	for f := range t.Fields() {
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case f.Anonymous && name == "":
			s.fields(f.Type, properties, required)
		case f.IsExported() && name != "-":
			properties[name] = s.of(f.Type)
			if !strings.Contains(options, "omit") {
				*required = append(*required, name)
			}
		}
	}
}

func (s *Server) openAPI(w http.ResponseWriter, _ *http.Request) error {
	w.Header().Set("Content-Type", "application/json")
	_, err := w.Write(s.description())
	return err
}
