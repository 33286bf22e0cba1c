package admin

import (
	"encoding"
	"encoding/json"
	"net/http"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// object is a JSON object of the document. Its keys are written in order, so
// that the same routes give the same bytes.
type object = map[string]any

// describe returns the document that describes the routes (OpenAPI 3.1). The
// schemas are those of the types that are decoded and shown.
func describe(version string, routes []Route) object {
	d := document{schemas: object{}}
	paths := object{}
	for i := range routes {
		rt := &routes[i]
		path, _ := paths[rt.Path].(object)
		if path == nil {
			path = object{}
			paths[rt.Path] = path
		}
		path[strings.ToLower(rt.Method)] = d.operation(rt)
	}
	d.schema(reflect.TypeFor[Problem]())
	return object{
		"openapi": "3.1.0",
		"info":    object{"title": "Weir", "version": version, "license": object{"name": "Apache-2.0", "identifier": "Apache-2.0"}},
		"paths":   paths,
		"components": object{
			"schemas":         d.schemas,
			"securitySchemes": object{"token": object{"type": "http", "scheme": "bearer"}, "certificate": object{"type": "mutualTLS"}},
		},
		"security": []object{{"token": []string{}}, {"certificate": []string{}}},
	}
}

// A document collects the schemas of named types.
type document struct{ schemas object }

func (d *document) operation(rt *Route) object {
	content := func(media string, t reflect.Type) object { return object{media: object{"schema": d.schema(t)}} }
	ok := object{"description": "done"}
	status := "204"
	if rt.Response != nil {
		status = "200"
		if rt.Method == http.MethodPost {
			status = "2XX" // 201 for something new
		}
		ok["content"] = content("application/json", reflect.TypeOf(rt.Response))
	}
	op := object{
		"summary":   rt.Summary,
		"x-role":    rt.Role.String(),
		"responses": object{status: ok, "default": object{"description": "it was not done; with in_force, it is in force but for what the detail says", "content": content("application/problem+json", reflect.TypeFor[Problem]())}},
	}
	if rt.Request != nil {
		op["requestBody"] = object{"required": true, "content": content("application/json", reflect.TypeOf(rt.Request))}
	}
	if ps := parameters(rt); len(ps) > 0 {
		op["parameters"] = ps
	}
	return op
}

func parameters(rt *Route) (ps []object) {
	add := func(in, name, about string, required bool) {
		ps = append(ps, object{"in": in, "name": name, "description": about, "required": required, "schema": object{"type": "string"}})
	}
	for part := range strings.SplitSeq(rt.Path, "/") {
		if name, ok := strings.CutPrefix(part, "{"); ok {
			add("path", strings.TrimRight(name, ".}"), "which one", true)
		}
	}
	for _, p := range rt.Query {
		add("query", p.Name, p.About, false)
	}
	if rt.Match {
		add("header", "If-Match", "the ETag of the object that is changed, or *", true)
	}
	if rt.Method != http.MethodGet {
		add("header", "Idempotency-Key", "the same request with the same key is done once, for "+strconv.Itoa(int(replayTime/time.Hour))+" hours", false)
	}
	return ps
}

var (
	textType = reflect.TypeFor[encoding.TextMarshaler]()
	jsonType = reflect.TypeFor[json.Marshaler]()
	timeType = reflect.TypeFor[time.Time]()
)

// schema returns the JSON schema of what encoding/json makes of the type.
func (d *document) schema(t reflect.Type) object {
	switch {
	case t == timeType:
		return object{"type": "string", "format": "date-time"}
	case t.Implements(jsonType):
		return object{}
	case t.Implements(textType):
		return object{"type": "string"}
	}
	switch t.Kind() {
	case reflect.Pointer:
		return d.schema(t.Elem())
	case reflect.Bool:
		return object{"type": "boolean"}
	case reflect.String:
		return object{"type": "string"}
	case reflect.Float32, reflect.Float64:
		return object{"type": "number"}
	case reflect.Slice, reflect.Array:
		return object{"type": "array", "items": d.schema(t.Elem())}
	case reflect.Map:
		return object{"type": "object", "additionalProperties": d.schema(t.Elem())}
	case reflect.Struct:
		return d.structure(t)
	case reflect.Interface:
		return object{}
	}
	return object{"type": "integer"}
}

func (d *document) structure(t reflect.Type) object {
	ref := object{"$ref": "#/components/schemas/" + t.Name()}
	if t.Name() != "" && d.schemas[t.Name()] != nil {
		return ref
	}
	properties, required := object{}, []string{}
	s := object{"type": "object", "properties": properties, "additionalProperties": false}
	if t.Name() != "" {
		d.schemas[t.Name()] = s // before its fields, which may lead back to it
	}
	for f := range t.Fields() {
		tag, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		if !f.IsExported() || tag == "-" {
			continue
		}
		name := f.Name
		if tag != "" {
			name = tag
		}
		properties[name] = d.schema(f.Type)
		if !strings.Contains(options, "omit") {
			required = append(required, name)
		}
	}
	if len(required) > 0 {
		s["required"] = required
	}
	if t.Name() == "" {
		return s
	}
	return ref
}
