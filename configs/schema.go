// SPDX-License-Identifier: Apache-2.0

package configs

import "encoding/json"

// schema is a JSON Schema, or a part of one.
type schema map[string]any

func (s schema) self() schema { return s }

// Schema is a JSON Schema (draft 7) of the file, for editors: keys, types and
// texts. What holds between values only Parse knows.
func Schema() []byte {
	s := rootObject.schema()
	s["$schema"] = "http://json-schema.org/draft-07/schema#"
	s["title"] = "director configuration"
	text, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		panic(err) // maps of texts and numbers always can be marshalled
	}
	return append(text, '\n')
}

func (o *object[T]) schema() schema {
	properties, required := schema{}, []string{}
	for _, f := range o.fields {
		p := schema{"description": f.doc}
		for k, v := range f.schema() {
			p[k] = v
		}
		properties[f.key] = p
		if f.required {
			required = append(required, f.key)
		}
	}
	s := schema{"type": []string{"object", "null"}, "properties": properties, "additionalProperties": false, "required": required}
	if o.extensible {
		s["patternProperties"] = schema{"^x-": schema{}}
	}
	return s
}
