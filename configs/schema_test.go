// SPDX-License-Identifier: Apache-2.0

package configs

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"
)

// TestSchemaAccepts holds that editors do not mark what Parse accepts.
func TestSchemaAccepts(t *testing.T) {
	files, err := filepath.Glob("*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	texts := map[string][]byte{"everything": []byte(everything)}
	for _, file := range files {
		if texts[file], err = os.ReadFile(file); err != nil {
			t.Fatal(err)
		}
	}
	schema := decodedSchema(t)
	for name, text := range texts {
		if name == "everything" { // its service named 443 is a text to Parse only
			text = []byte(strings.Replace(string(text), "name: 443", "name: a443", 1))
		}
		if fault := validate(t, schema, text); fault != "" {
			t.Errorf("%s: %s", name, fault)
		}
	}
}

// TestSchemaRefuses has what editors can know.
func TestSchemaRefuses(t *testing.T) {
	pinAvailable(t)
	schema := decodedSchema(t)
	for name, want := range map[string]string{
		"key_unknown":            "servises: unknown",
		"key_unknown_in_service": "services.shceduler: unknown",
		"key_unknown_in_real":    "services.reals: none of",
		"no_interfaces":          "interfaces: missing",
		"port_text":              "services.port: none of the forms",
		"mark_zero":              "marks.mark: below 1",
		"weight_large":           "services.weight: above 65535",
		"scheduler_unknown":      "services.scheduler: not in [rr wrr]",
		"method_unavailable":     "services.method: not in [dr tun local]",
		"limits_suffix":          ": none of the forms",
		"service_name_odd":       "services.name: not ^",
		"version_unknown":        "version: not 1",
	} {
		t.Run(name, func(t *testing.T) {
			text, err := os.ReadFile("testdata/invalid/" + name + ".yaml")
			if err != nil {
				t.Fatal(err)
			}
			if got := validate(t, schema, text); !strings.Contains(got, want) {
				t.Errorf("got %q, want %q", got, want)
			}
		})
	}
}

// TestSchemaDescribes keeps each key explained.
func TestSchemaDescribes(t *testing.T) {
	for _, d := range regexp.MustCompile(`"description": "(.*)"`).FindAllStringSubmatch(string(Schema()), -1) {
		if !strings.HasSuffix(d[1], ".") || len(d[1]) < 10 {
			t.Errorf("no sentence: %q", d[1])
		}
	}
}

// decodedSchema is Schema, which takes long to make and to read.
func decodedSchema(t *testing.T) (schema map[string]any) {
	t.Helper()
	if err := json.Unmarshal(Schema(), &schema); err != nil {
		t.Fatal(err)
	}
	return schema
}

func validate(t *testing.T, schema map[string]any, text []byte) string {
	t.Helper()
	var value any
	if err := yaml.Unmarshal(text, &value); err != nil {
		t.Fatal(err)
	}
	return fault("", schema, value)
}

// fault is the first that a value has against the part of JSON Schema that Schema
// uses; another keyword panics.
func fault(path string, s map[string]any, value any) string {
	for keyword, arg := range s {
		if f := keywords[keyword](s, arg, value); f != "" {
			return path + ": " + f
		}
	}
	switch v := value.(type) {
	case map[string]any:
		return faultIn(path, s, v)
	case []any:
		for _, e := range v {
			if items, ok := s["items"].(map[string]any); ok && fault(path, items, e) != "" {
				return fault(path, items, e)
			}
		}
	}
	return ""
}

func faultIn(path string, s, object map[string]any) string {
	properties, has := s["properties"].(map[string]any)
	if !has {
		return ""
	}
	for k, v := range object {
		p, known := properties[k].(map[string]any)
		switch {
		case known:
			if f := fault(strings.TrimPrefix(path+"."+k, "."), p, v); f != "" {
				return f
			}
		case s["patternProperties"] == nil || !strings.HasPrefix(k, "x-"):
			return strings.TrimPrefix(path+"."+k, ".") + ": unknown"
		}
	}
	for _, k := range s["required"].([]any) {
		if _, has := object[k.(string)]; !has {
			return k.(string) + ": missing"
		}
	}
	return ""
}

func nothing(_ map[string]any, _, _ any) string { return "" }

var keywords map[string]func(s map[string]any, arg, value any) string

func init() { // keywords and fault call each other
	keywords = map[string]func(s map[string]any, arg, value any) string{
		"$schema": nothing, "title": nothing, "description": nothing,
		"properties": nothing, "additionalProperties": nothing, "patternProperties": nothing, "required": nothing, "items": nothing,
		"type": func(_ map[string]any, arg, value any) string {
			for _, name := range strings.Fields(strings.Trim(fmt.Sprint(arg), "[]")) {
				if name == typeName(value) {
					return ""
				}
			}
			return fmt.Sprintf("not a %v", arg)
		},
		"anyOf": func(_ map[string]any, arg, value any) string {
			for _, s := range arg.([]any) {
				if fault("", s.(map[string]any), value) == "" {
					return ""
				}
			}
			return "none of the forms"
		},
		"enum": func(_ map[string]any, arg, value any) string {
			for _, v := range arg.([]any) {
				if v == value {
					return ""
				}
			}
			return fmt.Sprintf("not in %v", arg)
		},
		"const": func(_ map[string]any, arg, value any) string {
			return when(fmt.Sprint(arg) != fmt.Sprint(value), "not %v", arg)
		},
		"minimum": func(_ map[string]any, arg, value any) string {
			return when(asFloat(value) < arg.(float64), "below %v", arg)
		},
		"maximum": func(_ map[string]any, arg, value any) string {
			return when(asFloat(value) > arg.(float64), "above %v", arg)
		},
		"minLength": func(_ map[string]any, arg, value any) string {
			return when(length(value) < arg.(float64), "shorter", arg)
		},
		"maxLength": func(_ map[string]any, arg, value any) string {
			return when(length(value) > arg.(float64), "longer", arg)
		},
		"pattern": func(_ map[string]any, arg, value any) string {
			text, ok := value.(string)
			return when(ok && !regexp.MustCompile(arg.(string)).MatchString(text), "not %v", arg)
		},
	}
}

func when(wrong bool, format string, arg any) string {
	if !wrong {
		return ""
	}
	if !strings.Contains(format, "%") {
		format += " than %v"
	}
	return fmt.Sprintf(format, arg)
}

func typeName(value any) string {
	switch value.(type) {
	case nil:
		return "null"
	case bool:
		return "boolean"
	case int:
		return "integer"
	case string:
		return "string"
	case []any:
		return "array"
	}
	return map[reflect.Kind]string{reflect.Map: "object", reflect.Float64: "number"}[reflect.ValueOf(value).Kind()]
}

func asFloat(value any) float64 {
	n, _ := value.(int)
	return float64(n)
}

func length(value any) float64 {
	text, _ := value.(string)
	return float64(len(text))
}
