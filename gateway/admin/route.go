package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strings"
)

// A Route is one thing that the API does. The document that describes the API
// is made from the routes.
type Route struct {
	Method  string // GET never changes anything; HEAD is answered by GET
	Path    string // below /v1/, with {name} for a parameter, as net/http spells it
	Role    Roles  // which one of these it takes
	Summary string
	Query   []Param
	// Request is a value of the type that the body is decoded to; nil: no body.
	Request any
	// Response is a value of the type that Handle returns; nil: nothing.
	Response any
	// Match says that the caller must name the version of the object that it
	// changes, in If-Match.
	Match bool
	// Handle does it. What it returns is shown as JSON. An error that is no
	// Problem is the gateway's own fault.
	Handle func(context.Context, *Call) (any, error)
}

// A Param is a parameter in the query.
type Param struct{ Name, About string }

// A Call is one request for a route by somebody who may make it.
type Call struct {
	Identity Identity
	Body     any // a pointer to a value of the type of Route.Request, or nil

	request *http.Request
	query   url.Values
}

// Param returns a parameter of the path.
func (c *Call) Param(name string) string { return c.request.PathValue(name) }

// Query returns a parameter of the query, empty where there is none.
func (c *Call) Query(name string) string { return c.query.Get(name) }

// Matches returns an error unless the caller knows the object in that version
// (RFC 9110, section 13.1.1). Whoever changes the object asks this while nobody
// else can.
func (c *Call) Matches(etag string) error {
	h := strings.Join(c.request.Header["If-Match"], ",")
	for tag := range strings.SplitSeq(h, ",") {
		if tag = strings.TrimSpace(tag); tag == "*" || tag == quoteTag(etag) {
			return nil
		}
	}
	return Errorf(http.StatusPreconditionFailed, "it has been changed meanwhile; get it again and decide again")
}

// A Tagged value has a version, which becomes its ETag.
type Tagged interface{ ETag() string }

// Created is what Handle returns for something new.
type Created struct {
	Location string
	Value    any
}

func quoteTag(etag string) string { return `"` + etag + `"` }

// maxBody bounds the body of a request.
const maxBody = 1 << 20

// call checks what the route takes and makes the Call.
func (rt *Route) call(id Identity, r *http.Request, body []byte) (*Call, error) {
	c := &Call{Identity: id, request: r}
	var err error
	if c.query, err = url.ParseQuery(r.URL.RawQuery); err != nil {
		return nil, Errorf(http.StatusBadRequest, "the query cannot be read: %v", err)
	}
	for name, values := range c.query {
		known := slices.ContainsFunc(rt.Query, func(p Param) bool { return p.Name == name })
		if !known || len(values) > 1 {
			return nil, Errorf(http.StatusBadRequest, "the query parameter %q is unknown or there twice; see /v1/openapi.json", name)
		}
	}
	if rt.Match && len(r.Header["If-Match"]) == 0 {
		return nil, Errorf(http.StatusPreconditionRequired, "this changes an object: get it first, and send its ETag as If-Match")
	}
	if rt.Request == nil {
		if len(body) > 0 {
			return nil, Errorf(http.StatusBadRequest, "%s %s takes no body", rt.Method, rt.Path)
		}
		return c, nil
	}
	if t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || t != "application/json" {
		return nil, Errorf(http.StatusUnsupportedMediaType, "the body must be JSON, with Content-Type: application/json")
	}
	into := reflect.New(reflect.TypeOf(rt.Request))
	if err := strictJSON(body, into.Interface()); err != nil {
		return nil, Errorf(http.StatusBadRequest, "the body is not what this takes: %v; see /v1/openapi.json", err)
	}
	c.Body = into.Interface()
	return c, nil
}

// strictJSON decodes one value and nothing else, without unknown fields.
func strictJSON(body []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	switch err := d.Decode(into); {
	case errors.Is(err, io.EOF):
		return errors.New("it is empty")
	case err != nil:
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("there is more behind the JSON value")
	}
	return nil
}

// A reply is a finished answer, as it is sent and, for an Idempotency-Key,
// sent again.
type reply struct {
	status int
	header http.Header
	body   []byte
}

func (re *reply) write(w http.ResponseWriter) {
	for k, v := range re.header {
		w.Header()[k] = v
	}
	w.WriteHeader(re.status)
	_, _ = w.Write(re.body)
}

// answer renders what Handle returned.
func answer(r *http.Request, v any) (*reply, error) {
	re := &reply{status: http.StatusOK, header: http.Header{}}
	if c, ok := v.(Created); ok {
		re.status, v = http.StatusCreated, c.Value
		re.header.Set("Location", c.Location)
	}
	if v == nil {
		re.status = http.StatusNoContent
		return re, nil
	}
	if t, ok := v.(Tagged); ok {
		tag := quoteTag(t.ETag())
		re.header.Set("ETag", tag)
		if r.Method == http.MethodGet && slices.Contains(r.Header["If-None-Match"], tag) {
			re.status = http.StatusNotModified
			return re, nil
		}
	}
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("the answer cannot be shown: %w", err)
	}
	re.header.Set("Content-Type", "application/json")
	re.body = append(b, '\n')
	return re, nil
}
