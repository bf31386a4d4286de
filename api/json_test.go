package api

import (
	"encoding/base64"
	"testing"
	"time"
)

func TestAppendText(t *testing.T) {
	f := func(raw, want string) {
		t.Helper()
		if got := string(appendText(nil, "body", []byte(raw))); got != want {
			t.Errorf("%q: %s, want %s", raw, got, want)
		}
	}
	f("", `"body":""`)
	f("a\"b\\c\n\x00é😀\u2028", `"body":"a\"b\\c\n\u0000é😀`+"\u2028"+`"`)
	f("\xff\x00", `"body":"`+base64.StdEncoding.EncodeToString([]byte("\xff\x00"))+`","body_encoding":"base64"`)
}

func TestAppendMillis(t *testing.T) {
	f := func(d time.Duration, want string) {
		t.Helper()
		if got := string(appendMillis(nil, d)); got != want {
			t.Errorf("%s: %s, want %s", d, got, want)
		}
	}
	f(0, "0")
	f(-time.Second, "0")
	f(499*time.Nanosecond, "0")
	f(time.Microsecond, "0.001")
	f(80*time.Microsecond, "0.08")
	f(1250*time.Microsecond, "1.25")
	f(84*time.Millisecond, "84")
	f(12*time.Hour, "43200000")
}
