package apitest

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/getkin/kin-openapi/openapi3"
)

// Gaps lists what the document leaves out. It wants of every
//
//	operation   an id of its own, one known tag, summary, description, security
//	parameter,
//	header      a description, an example, bounds
//	field       a description, bounds, and an example: its own, its type's, or
//	            its place in one of its object
//	content     an example, its own or its schema's
//
// and that examples are as their schemas say. A string is bounded by a length,
// a pattern, a format or its words, a number by both ends, an array and a map by
// their size. unbounded are the exceptions, each with its reason, by the place
// that a gap would name: "Send.labels[]", "Send.headers{}", "parameters.Limit".
// One that is not needed is a gap too.
func (c *Checker) Gaps(unbounded map[string]string) []string {
	a := &audit{spec: c.spec, unbounded: unbounded, left: maps.Clone(unbounded)}
	a.operations()
	for name, p := range c.spec.Components.Parameters {
		a.parameter("parameters."+name, p.Value)
	}
	for name, h := range c.spec.Components.Headers {
		a.parameter("headers."+name, &h.Value.Parameter)
	}
	for name, r := range c.spec.Components.Responses {
		a.response("responses."+name, r)
	}
	for name, s := range c.spec.Components.Schemas {
		if s.Value.Description == "" || len(s.Value.Examples) == 0 {
			a.gap(name, "has no description or no example")
		}
		a.schema(name, s)
	}
	for where := range a.left {
		a.gap(where, "is listed as unbounded, and is not or is not there")
	}
	slices.Sort(a.gaps)
	return a.gaps
}

// An audit is one reading of a document.
type audit struct {
	spec            *openapi3.T
	unbounded, left map[string]string // left are those not met yet
	gaps            []string
}

func (a *audit) gap(where, format string, args ...any) {
	a.gaps = append(a.gaps, where+" "+fmt.Sprintf(format, args...))
}

func (a *audit) operations() {
	ids := map[string]bool{}
	for path, item := range a.spec.Paths.Map() {
		a.parameters(path, item.Parameters)
		for method, op := range item.Operations() {
			where := method + " " + path
			switch {
			case op.OperationID == "" || ids[op.OperationID]:
				a.gap(where, "has no operationId of its own: %q", op.OperationID)
			case len(op.Tags) != 1 || a.spec.Tags.Get(op.Tags[0]) == nil:
				a.gap(where, "has the tags %q, not one known one", op.Tags)
			case op.Summary == "" || op.Description == "" || op.Security == nil:
				a.gap(where, "has no summary, description or security")
			}
			ids[op.OperationID] = true
			a.parameters(where, op.Parameters)
			if op.RequestBody != nil {
				a.content(where, op.RequestBody.Value.Content)
			}
			for status, r := range op.Responses.Map() {
				a.response(where+" "+status, r)
			}
		}
	}
}

func (a *audit) parameters(where string, list openapi3.Parameters) {
	for _, p := range list {
		if p.Ref == "" { // what is referred to is looked at in its own place
			a.parameter(where+" "+p.Value.Name, p.Value)
		}
	}
}

func (a *audit) parameter(where string, p *openapi3.Parameter) {
	if p.Description == "" || p.Example == nil {
		a.gap(where, "has no description or no example")
	}
	a.example(where, p.Schema.Value, p.Example)
	a.schema(where, p.Schema)
}

func (a *audit) response(where string, r *openapi3.ResponseRef) {
	if r.Ref != "" {
		return
	}
	for name, h := range r.Value.Headers {
		if h.Ref == "" {
			a.parameter(where+" "+name, &h.Value.Parameter)
		}
	}
	a.content(where, r.Value.Content)
}

func (a *audit) content(where string, content openapi3.Content) {
	for kind, media := range content {
		where := where + " " + kind
		if media.Example == nil && len(media.Schema.Value.Examples) == 0 {
			a.gap(where, "has no example")
		}
		a.example(where, media.Schema.Value, media.Example)
		a.schema(where, media.Schema)
	}
}

// schema looks at a schema and what it is made of.
func (a *audit) schema(where string, ref *openapi3.SchemaRef) {
	if ref == nil || ref.Ref != "" {
		return
	}
	s := ref.Value
	if missing := unboundedTypes(s); len(missing) > 0 {
		if a.unbounded[where] == "" {
			a.gap(where, "has no bound as %s", strings.Join(missing, ", "))
		}
		delete(a.left, where)
	}
	for _, example := range s.Examples {
		a.example(where, s, example)
	}
	for name, field := range s.Properties {
		where := where + "." + name
		if field.Value.Description == "" || len(field.Value.Examples) == 0 && !shown(s, name) {
			a.gap(where, "has no description or no example")
		}
		a.schema(where, field)
	}
	a.schema(where+"[]", s.Items)
	a.schema(where+"{}", s.AdditionalProperties.Schema)
	for _, one := range slices.Concat(s.AnyOf, s.OneOf, s.AllOf) {
		a.schema(where, one)
	}
}

// unboundedTypes are the types of a schema that it sets no bound.
func unboundedTypes(s *openapi3.Schema) (missing []string) {
	if len(s.Enum) > 0 || s.Const != nil {
		return nil
	}
	for _, kind := range s.Type.Slice() {
		bounded := true
		switch kind {
		case "string":
			bounded = s.MaxLength != nil || s.Pattern != "" || s.Format != ""
		case "integer", "number":
			bounded = s.Min != nil && s.Max != nil
		case "array":
			bounded = s.MaxItems != nil
		case "object":
			bounded = s.AdditionalProperties.Schema == nil || s.MaxProps != nil
		}
		if !bounded {
			missing = append(missing, kind)
		}
	}
	return missing
}

// shown reports whether one of an object's examples has the field.
func shown(s *openapi3.Schema, name string) bool {
	return slices.ContainsFunc(s.Examples, func(example any) bool {
		object, _ := example.(map[string]any)
		_, has := object[name]
		return has
	})
}

// example wants an example, if there is one, to be as its schema says.
func (a *audit) example(where string, s *openapi3.Schema, example any) {
	if example == nil {
		return
	}
	if err := s.VisitJSON(example, openapi3.EnableJSONSchema2020()); err != nil {
		a.gap(where, "has the example %v, which is not as documented: %v", example, err)
	}
}
