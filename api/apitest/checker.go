// Package apitest holds answers of the API against its OpenAPI document, for
// the tests of every room that talks to a server.
//
//	c, err := apitest.New(api.OpenAPI())
//	err = c.Check("GET", "/v1/deliveries?limit=1", status, header, body)
//
// The document is OpenAPI 3.1, and its schemas are JSON Schema 2020-12, which
// kin-openapi validates as such: type arrays with "null", const and the rest
// count. Beyond what the document says by itself, an object with properties is
// taken to have no others: an undocumented field is an error.
//
// An answer to a path or method that is not in the document must be an error of
// the common shape, 404 or 405. [Checker.Gaps] tells what the document itself
// lacks. A Checker has no goroutines and may be used by several.
package apitest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
)

// A Checker knows one document.
type Checker struct {
	spec *openapi3.T
}

// New reads and validates a document.
func New(document []byte) (*Checker, error) {
	strict, err := closeObjects(document)
	if err != nil {
		return nil, fmt.Errorf("apitest: read the document: %w", err)
	}
	spec, err := openapi3.NewLoader().LoadFromData(strict)
	if err != nil {
		return nil, fmt.Errorf("apitest: load the document: %w", err)
	}
	if err := spec.Validate(context.Background(), openapi3.IsOpenAPI31OrLater()); err != nil {
		return nil, fmt.Errorf("apitest: validate the document: %w", err)
	}
	return &Checker{spec: spec}, nil
}

// closeObjects makes the schemas of the document refuse undocumented members.
func closeObjects(document []byte) ([]byte, error) {
	var doc any
	if err := json.Unmarshal(document, &doc); err != nil {
		return nil, err
	}
	closeSchemas(doc)
	return json.Marshal(doc)
}

func closeSchemas(v any) {
	switch v := v.(type) {
	case map[string]any:
		_, properties := v["properties"].(map[string]any)
		if _, open := v["additionalProperties"]; properties && v["type"] == "object" && !open {
			v["additionalProperties"] = false
		}
		for _, member := range v {
			closeSchemas(member)
		}
	case []any:
		for _, element := range v {
			closeSchemas(element)
		}
	}
}

// Operations are the documented statuses of each operation, by
// "METHOD /path/{of}/the/document".
func (c *Checker) Operations() map[string][]int {
	all := map[string][]int{}
	for path, item := range c.spec.Paths.Map() {
		for method, op := range item.Operations() {
			codes := []int{}
			for text := range op.Responses.Map() {
				var code int
				if _, err := fmt.Sscan(text, &code); err == nil {
					codes = append(codes, code)
				}
			}
			all[method+" "+path] = codes
		}
	}
	return all
}

// Check reports how an answer differs from the document, or nil.
func (c *Checker) Check(method, target string, status int, header http.Header, body []byte) error {
	path, _, _ := strings.Cut(target, "?")
	template, item := c.find(path)
	if method == http.MethodHead {
		method = http.MethodGet
		body = nil
	}
	var op *openapi3.Operation
	if item != nil {
		op = item.GetOperation(method)
	}
	switch {
	case method == http.MethodOptions && item != nil && status == http.StatusNoContent:
		return nil
	case op == nil:
		return c.undocumented(item != nil, status, header, body)
	}
	if item := op.Responses.Status(status); item == nil {
		return fmt.Errorf("%s %s: %d is not documented", method, template, status)
	}
	if body == nil {
		return nil
	}
	request, err := http.NewRequest(method, "http://api"+template, nil)
	if err != nil {
		return err
	}
	route := &routers.Route{Spec: c.spec, Path: template, PathItem: item, Method: method, Operation: op}
	err = openapi3filter.ValidateResponse(context.Background(), &openapi3filter.ResponseValidationInput{
		RequestValidationInput: &openapi3filter.RequestValidationInput{Request: request, Route: route},
		Status:                 status,
		Header:                 header,
		Body:                   io.NopCloser(bytes.NewReader(body)),
		Options:                &openapi3filter.Options{IncludeResponseStatus: true},
	})
	if err != nil {
		return fmt.Errorf("%s %s: %d %s is not as documented: %w", method, template, status, body, err)
	}
	return nil
}

// undocumented checks the answer to what the document does not have.
func (c *Checker) undocumented(path bool, status int, header http.Header, body []byte) error {
	want := http.StatusNotFound
	if path {
		want = http.StatusMethodNotAllowed
		if header.Get("Allow") == "" {
			return errors.New("405 without Allow")
		}
	}
	// A request that could not be read may be refused before its path counts.
	if status != want && status != http.StatusBadRequest && status < 413 {
		return fmt.Errorf("%d to what is not documented, want %d", status, want)
	}
	if body == nil {
		return nil
	}
	var v any
	if err := json.Unmarshal(body, &v); err != nil {
		return fmt.Errorf("%d %s: %w", status, body, err)
	}
	return c.spec.Components.Schemas["Error"].Value.VisitJSON(v, openapi3.EnableJSONSchema2020())
}

// find returns the documented path that a request's path is of; one without a
// parameter goes before one with.
func (c *Checker) find(path string) (template string, item *openapi3.PathItem) {
	if item := c.spec.Paths.Value(path); item != nil {
		return path, item
	}
	for template, item := range c.spec.Paths.Map() {
		if fits(template, path) {
			return template, item
		}
	}
	return "", nil
}

func fits(template, path string) bool {
	want, got := strings.Split(template, "/"), strings.Split(path, "/")
	if len(want) != len(got) {
		return false
	}
	for i, element := range want {
		parameter := strings.HasPrefix(element, "{")
		if parameter && got[i] == "" || !parameter && element != got[i] {
			return false
		}
	}
	return true
}
