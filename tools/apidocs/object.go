package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
)

// An object is a JSON object whose members stay in the order they were written
// in: that order is the author's.
type object struct {
	names  []string
	values map[string]json.RawMessage
}

// UnmarshalJSON reads the members in order.
func (o *object) UnmarshalJSON(text []byte) error {
	d := json.NewDecoder(bytes.NewReader(text))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return fmt.Errorf("%.40s is no object", text)
	}
	o.values = map[string]json.RawMessage{}
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return err
		}
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return err
		}
		o.names = append(o.names, name.(string))
		o.values[name.(string)] = value
	}
	return nil
}

// get is the object under a path of names; an empty one when there is none.
func (o *object) get(path ...string) *object {
	for _, name := range path {
		var next object
		if o.values[name] == nil || json.Unmarshal(o.values[name], &next) != nil {
			return &object{}
		}
		o = &next
	}
	return o
}

// list are the objects of an array.
func (o *object) list(name string) []*object {
	var found []*object
	if o.values[name] != nil {
		_ = json.Unmarshal(o.values[name], &found) // of another type: nothing to show
	}
	return found
}

// text is a string member, or the JSON of any other; empty when there is none.
func (o *object) text(name string) string {
	raw := o.values[name]
	var s string
	if raw == nil || json.Unmarshal(raw, &s) == nil {
		return s
	}
	return string(raw)
}

// has tells whether an array of strings holds word.
func (o *object) has(name, word string) bool {
	var words []string
	return o.values[name] != nil && json.Unmarshal(o.values[name], &words) == nil && contains(words, word)
}

func contains(words []string, word string) bool {
	for _, w := range words {
		if w == word {
			return true
		}
	}
	return false
}

// target follows a reference; the name is that of what was referred to.
func (d *document) target(o *object) (*object, string) {
	ref := o.text("$ref")
	if ref == "" {
		return o, ""
	}
	path := strings.Split(strings.TrimPrefix(ref, "#/"), "/")
	return d.root.get(path...), path[len(path)-1]
}
