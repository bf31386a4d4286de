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
// An answer to a path that is not in the document must be its response NotFound,
// one to a method its MethodNotAllowed or, of OPTIONS, Options; unless the
// request could not even be read. Headers are held to the document as bodies
// are, also those of answers without a body.
//
// Where a test has an http.Client, its transport can do it, with all answers:
//
//	client.Transport = c.Transport(client.Transport, func(err error) { t.Error(err) })
//
// [Checker.Gaps] tells what the document itself lacks. A Checker has no
// goroutines and may be used by several.
package apitest

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
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

// Check reports how an answer differs from the document, or nil. A nil body is
// one that is not looked at, because it is a stream or was broken off.
func (c *Checker) Check(method, target string, status int, header http.Header, body []byte) error {
	path, _, _ := strings.Cut(target, "?")
	template, item := c.find(path)
	if err := c.check(method, template, item, status, header, body); err != nil {
		return fmt.Errorf("%s %s: %d %.1000s is not as documented: %w", method, cmp.Or(template, path), status, body, err)
	}
	return nil
}

func (c *Checker) check(method, template string, item *openapi3.PathItem, status int, header http.Header, body []byte) error {
	op := operation(item, method)
	response := c.response(method, item, op, status)
	if response == nil {
		return errors.New("the status is not documented")
	}
	head := method == http.MethodHead
	switch {
	case op == nil && status == http.StatusBadRequest && len(body) > 0 && !bytes.Contains(body, []byte("malformed HTTP request")):
		return errors.New("nothing else of it can be malformed")
	case (head || len(response.Value.Content) == 0) && len(body) > 0:
		return errors.New("it has a body")
	case len(response.Value.Content) > 0 && response.Value.Content.Get(header.Get("Content-Type")) == nil:
		return fmt.Errorf("Content-Type %q", header.Get("Content-Type"))
	}
	for name := range header {
		if !slices.Contains(ofHTTP, name) && !slices.Contains(ofCluster, name) && !hasHeader(response.Value.Headers, name) {
			return fmt.Errorf("the header %s is not documented", name)
		}
	}
	return validate(c.spec, template, response, header, body, body == nil || head)
}

// ofHTTP are headers that any answer may have and that documents leave out.
var ofHTTP = []string{"Connection", "Content-Length", "Content-Type", "Date", "Transfer-Encoding"}

// ofCluster are headers that any answer of a cluster's node may have. The document
// tells of them once, in its introduction and with the parameter consistency.
var ofCluster = []string{"X-Harepost-Node", "X-Harepost-Applied-Index", "X-Harepost-Age-Ms"}

// hasHeader looks a name of an [http.Header] up, which is written as Go does.
func hasHeader(documented openapi3.Headers, name string) bool {
	for d := range documented {
		if strings.EqualFold(d, name) {
			return true
		}
	}
	return false
}

// operation is that of a method, or nil; HEAD is answered as GET is.
func operation(item *openapi3.PathItem, method string) *openapi3.Operation {
	switch {
	case item == nil:
		return nil
	case method == http.MethodHead:
		return item.Get
	}
	return item.GetOperation(method)
}

// early are the answers to a request that could not be read, or not in full:
// they come before its path and method count.
var early = map[int]string{
	http.StatusBadRequest:                  "BadRequest",
	http.StatusRequestTimeout:              "Timeout",
	http.StatusRequestEntityTooLarge:       "TooLarge",
	http.StatusRequestHeaderFieldsTooLarge: "HeadTooLarge",
	http.StatusServiceUnavailable:          "Unavailable",
}

// response is what the document says of an answer; nil: there is no such.
func (c *Checker) response(method string, item *openapi3.PathItem, op *openapi3.Operation, status int) *openapi3.ResponseRef {
	all := c.spec.Components.Responses
	switch {
	case op != nil:
		return op.Responses.Status(status)
	case item == nil && status == http.StatusNotFound:
		return all["NotFound"]
	case item == nil:
		return all[early[status]]
	case method == http.MethodOptions && status == http.StatusNoContent:
		return all["Options"]
	case method != http.MethodOptions && status == http.StatusMethodNotAllowed:
		return all["MethodNotAllowed"]
	case status == http.StatusUnauthorized:
		return all["Unauthorized"] // a large body of a stranger's
	}
	return all[early[status]]
}

// validate holds an answer against what is documented of it. It is always said
// to be a 200: of some others kin-openapi does not even read the headers.
func validate(spec *openapi3.T, template string, response *openapi3.ResponseRef, header http.Header, body []byte, headersOnly bool) error {
	request, err := http.NewRequest(http.MethodGet, "http://api"+template, nil)
	if err != nil {
		return err
	}
	only := &openapi3.Operation{Responses: openapi3.NewResponses(openapi3.WithStatus(http.StatusOK, response))}
	route := &routers.Route{Spec: spec, Path: template, Method: request.Method, Operation: only}
	return openapi3filter.ValidateResponse(context.Background(), &openapi3filter.ResponseValidationInput{
		RequestValidationInput: &openapi3filter.RequestValidationInput{Request: request, Route: route},
		Status:                 http.StatusOK,
		Header:                 header,
		Body:                   io.NopCloser(bytes.NewReader(body)),
		Options:                &openapi3filter.Options{ExcludeResponseBody: headersOnly},
	})
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
