package main

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"testing"
)

// TestReferenceIsFresh fails while the page is not what the file says.
func TestReferenceIsFresh(t *testing.T) {
	openapi, err := os.ReadFile("../../api/openapi.json")
	if err != nil {
		t.Fatal(err)
	}
	want, err := reference(openapi)
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile("../../docs/api-reference.md")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Error("docs/api-reference.md is stale: run make api-docs")
	}
}

// TestEveryRouteIsShown: a route without a known tag would be left out.
func TestEveryRouteIsShown(t *testing.T) {
	openapi, err := os.ReadFile("../../api/openapi.json")
	if err != nil {
		t.Fatal(err)
	}
	page, err := reference(openapi)
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Paths map[string]map[string]json.RawMessage
	}
	if err := json.Unmarshal(openapi, &file); err != nil {
		t.Fatal(err)
	}
	for path, methods := range file.Paths {
		for method := range methods {
			if method == "parameters" {
				continue
			}
			if heading := "### " + strings.ToUpper(method) + " " + path + "\n"; !bytes.Contains(page, []byte(heading)) {
				t.Errorf("%s is not on the page", strings.TrimSpace(heading))
			}
		}
	}
}
