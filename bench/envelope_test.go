package bench

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/go-json-experiment/json/jsontext"
)

func TestEnvelope(t *testing.T) {
	check := func(request, target, method, body string) {
		t.Helper()
		e, err := readEnvelope([]byte(request))
		if err != nil {
			t.Errorf("%s: %v", request, err)
			return
		}
		if string(e.Target) != target || string(e.Method) != method || string(e.Body) != body {
			t.Errorf("%s: target %q, method %q, body %q", request, e.Target, e.Method, e.Body)
		}
	}
	check(`{"target":"http://a/"}`, "http://a/", "", "")
	check(`{"target":"http://a/","body":{"a": [1, "}"]}}`, "http://a/", "", `{"a": [1, "}"]}`)
	check(` { "body" : "plain" , "target" : "http://a/" , "method" : "PUT" } `, "http://a/", "PUT", "plain")
	check(`{"target":"http://a/","body":"a\"b\\\u00e9\n"}`, "http://a/", "", "a\"b\\é\n")
	check(`{"target":"http://a/","body":null}`, "http://a/", "", "")
	check(`{"target":"http://a/","body":-1.5e3}`, "http://a/", "", "-1.5e3")
	check(`{"target":"http://a/","body":[]}`, "http://a/", "", "[]")
	check(`{"metadata":{"target":"http://no/","x":[{}]},"target":"http://a/"}`, "http://a/", "", "")
}

func TestEnvelopeRefuses(t *testing.T) {
	for _, request := range []string{
		``, `{`, `{}`, `[]`, `null`, `{"target"}`, `{"target":}`, `{"target":"http://a/`, `{"target":7}`,
		`{"target":"http:\/\/a"}`, `{"target":"http://a/","body":{"a":[}`, `{"target":"http://a/","body":"\x"}`,
		`{"target":"http://a/" "body":1}`, `{"body":1}`,
	} {
		if e, err := readEnvelope([]byte(request)); err == nil {
			t.Errorf("%s: %+v", request, e)
		}
	}
}

// On every request that is JSON, the cheap scanner agrees with a real parser;
// on everything else it only has to come back.
func FuzzEnvelope(f *testing.F) {
	f.Add([]byte(`{"target":"http://a/","body":{"a":[1,"\"}"]},"method":"PUT"}`))
	f.Add([]byte(`{"target":"http://a/","body":"\u00e9"}`))
	f.Add([]byte(`{"target":"","x":{}}`))
	f.Fuzz(func(t *testing.T, request []byte) {
		e, err := readEnvelope(request)
		want, ok := parseEnvelope(request)
		if !ok {
			return
		}
		if err != nil {
			t.Fatalf("refused: %v", err)
		}
		if !bytes.Equal(e.Target, want.Target) || !bytes.Equal(e.Method, want.Method) || !bytes.Equal(e.Body, want.Body) {
			t.Fatalf("read %q, %q, %q; want %q, %q, %q", e.Target, e.Method, e.Body, want.Target, want.Method, want.Body)
		}
	})
}

// parseEnvelope reads the same with a JSON parser; false for what is no valid
// request, or one whose names, target or method are escaped.
func parseEnvelope(request []byte) (e envelope, ok bool) {
	var fields map[string]json.RawMessage
	if !jsontext.Value(request).IsValid() || json.Unmarshal(request, &fields) != nil {
		return e, false
	}
	names := bytes.Count(request, []byte(`"target"`)) + bytes.Count(request, []byte(`"method"`)) + bytes.Count(request, []byte(`"body"`))
	known := 0
	for _, name := range []string{"target", "method", "body"} {
		if _, has := fields[name]; has {
			known++
		}
	}
	if names != known {
		return e, false // one is escaped, or stands elsewhere too
	}
	text := func(name string) ([]byte, bool) {
		raw, has := fields[name]
		if !has {
			return nil, true
		}
		var s string
		if bytes.IndexByte(raw, '\\') >= 0 || raw[0] != '"' || json.Unmarshal(raw, &s) != nil {
			return nil, false
		}
		return []byte(s), true
	}
	var okTarget, okMethod bool
	e.Target, okTarget = text("target")
	e.Method, okMethod = text("method")
	if body := fields["body"]; len(body) > 0 && body[0] == '"' {
		unquoted, err := jsontext.AppendUnquote(nil, body)
		if err != nil {
			return e, false
		}
		e.Body = unquoted
	} else if string(body) != "null" {
		e.Body = body
	}
	return e, okTarget && okMethod && len(e.Target) > 0
}
