package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
)

// A document is the OpenAPI file and the page that is made from it.
type document struct {
	root *object
	page bytes.Buffer
}

// blankLines are more than one, where a description was empty.
var blankLines = regexp.MustCompile(`\n{3,}`)

// reference makes the page.
func reference(openapi []byte) ([]byte, error) {
	d := &document{root: &object{}}
	if err := json.Unmarshal(openapi, d.root); err != nil {
		return nil, err
	}
	if len(d.root.get("paths").names) == 0 {
		return nil, fmt.Errorf("the file has no paths")
	}
	d.printf("# API reference\n\n")
	d.printf("Generated from [api/openapi.json](../api/openapi.json) by `make api-docs`: do not edit. A server has the file under `/v1/openapi.json`.\n\n")
	d.printf("%s\n\n", d.root.get("info").text("description"))
	d.printf("Routes that say *key* want `Authorization: Bearer hp_live_...`; *admin* is the server's admin token.\n\n")
	for _, tag := range d.root.list("tags") {
		d.tag(tag)
	}
	d.schemas()
	page := blankLines.ReplaceAll(bytes.TrimSpace(d.page.Bytes()), []byte("\n\n"))
	return append(page, '\n'), nil
}

func (d *document) printf(format string, args ...any) { fmt.Fprintf(&d.page, format, args...) }

// tag writes the routes that carry it.
func (d *document) tag(tag *object) {
	d.printf("## %s\n\n%s\n\n", tag.text("name"), tag.text("description"))
	paths := d.root.get("paths")
	for _, path := range paths.names {
		item := paths.get(path)
		for _, method := range item.names {
			if op := item.get(method); op.has("tags", tag.text("name")) {
				d.operation(path, strings.ToUpper(method), op)
			}
		}
	}
}

// operation leaves out the parameters of the path: they are those of every
// request, which the introduction has.
func (d *document) operation(path, method string, op *object) {
	d.printf("### %s %s\n\n%s%s.\n\n", method, path, op.text("summary"), access(op))
	if text := op.text("description"); text != "" {
		d.printf("%s\n\n", text)
	}
	d.parameters(op.list("parameters"))
	body, _ := d.target(op.get("requestBody"))
	content := body.get("content")
	for _, kind := range content.names {
		d.printf("Request, `%s`: %s\n\n", kind, d.kind(content.get(kind, "schema")))
	}
	d.responses(op.get("responses"))
}

// access says who may call.
func access(op *object) string {
	words := []string{}
	for _, way := range op.list("security") {
		for _, name := range way.names {
			words = append(words, map[string]string{"apiKey": "key", "adminToken": "admin"}[name])
		}
		if len(way.names) == 0 {
			words = append(words, "open")
		}
	}
	if len(words) == 0 {
		return ""
	}
	return " (*" + strings.Join(words, " or ") + "*)"
}

func (d *document) parameters(list []*object) {
	if len(list) == 0 {
		return
	}
	d.printf("| parameter | in | type | |\n| --- | --- | --- | --- |\n")
	for _, p := range list {
		p, _ = d.target(p)
		name := "`" + p.text("name") + "`"
		if p.text("required") == "true" && p.text("in") != "path" {
			name += ", needed"
		}
		d.printf("| %s | %s | %s | %s |\n", name, p.text("in"), cell(d.kind(p.get("schema"))), cell(p.text("description")))
	}
	d.printf("\n")
}

func (d *document) responses(list *object) {
	d.printf("| status | answer | |\n| --- | --- | --- |\n")
	for _, status := range list.names {
		r, _ := d.target(list.get(status))
		answer := ""
		content := r.get("content")
		for _, kind := range content.names {
			if schema := content.get(kind, "schema"); len(schema.names) > 0 {
				answer = d.kind(schema)
			}
		}
		d.printf("| %s | %s | %s |\n", status, cell(answer), cell(r.text("description")))
	}
	d.printf("\n")
}

// schemas writes a table for each object of the API.
func (d *document) schemas() {
	d.printf("## Objects\n\n")
	all := d.root.get("components", "schemas")
	for _, name := range all.names {
		schema := all.get(name)
		d.printf("### %s\n\n%s\n\n", name, schema.text("description"))
		if len(schema.get("properties").names) == 0 {
			d.printf("%s\n\n", d.kind(schema))
			continue
		}
		d.printf("| field | type | |\n| --- | --- | --- |\n")
		d.fields(schema)
		d.printf("\n")
		for _, example := range examples(schema) {
			d.printf("```json norun: an example\n%s\n```\n\n", example)
		}
	}
}

func (d *document) fields(schema *object) {
	properties := schema.get("properties")
	for _, name := range properties.names {
		p := properties.get(name)
		needed := ""
		if schema.has("required", name) {
			needed = ", always"
		}
		d.printf("| `%s`%s | %s | %s |\n", name, needed, cell(d.kind(p)), cell(p.text("description")))
	}
}

func examples(schema *object) []string {
	var raw []json.RawMessage
	if schema.values["examples"] != nil {
		_ = json.Unmarshal(schema.values["examples"], &raw) // of another form: nothing to show
	}
	var texts []string
	for _, r := range raw {
		var b bytes.Buffer
		if json.Indent(&b, r, "", "  ") == nil {
			texts = append(texts, b.String())
		}
	}
	return texts
}

// bounds are the words of a schema that limit a value, and how they read.
var bounds = []struct{ name, format string }{
	{"enum", "one of %s"}, {"const", "always %s"}, {"format", "%s"}, {"minimum", "from %s"}, {"maximum", "to %s"},
	{"minLength", "at least %s characters"}, {"maxLength", "at most %s characters"}, {"minItems", "at least %s"},
	{"maxItems", "at most %s"}, {"maxProperties", "at most %s"}, {"pattern", "as in `%s`"}, {"default", "default %s"},
}

// kind is a type in words, with its bounds.
func (d *document) kind(schema *object) string {
	if _, name := d.target(schema); name != "" {
		return "[" + name + "](#" + strings.ToLower(name) + ")"
	}
	for _, union := range []string{"oneOf", "anyOf", "allOf"} {
		var words []string
		for _, s := range schema.list(union) {
			words = append(words, d.kind(s))
		}
		if len(words) > 0 {
			return strings.Join(words, " or ")
		}
	}
	word := listed(schema.text("type"), " or ")
	if items := schema.get("items"); len(items.names) > 0 {
		word += " of " + d.kind(items)
	}
	for _, b := range bounds {
		text := schema.text(b.name)
		if b.name == "enum" {
			text = listed(text, ", ")
		}
		if text != "" {
			word += ", " + fmt.Sprintf(b.format, text)
		}
	}
	return strings.TrimPrefix(word, ", ")
}

// listed are the elements of an array of strings, or the text that is none.
func listed(text, between string) string {
	return strings.NewReplacer(`"`, "", "[", "", "]", "", ", ", between, ",", between).Replace(text)
}

// cell keeps text inside its cell of a table.
func cell(text string) string {
	return strings.TrimSpace(strings.NewReplacer("|", `\|`, "\n", " ").Replace(text))
}
