package api

import (
	"testing"

	"github.com/harepost/harepost/engine"
)

func TestCursor(t *testing.T) {
	id := engine.DeliveryID{1, 2, 3, 255}
	text := string(appendCursor(nil, id))
	if got, ok := parseCursor(text); !ok || got != id {
		t.Errorf("%s: %v, %v", text, got, ok)
	}
	// Every change of one character is noticed.
	for i := range text {
		for _, c := range []byte("A_-z0=") {
			changed := text[:i] + string(c) + text[i+1:]
			if got, ok := parseCursor(changed); changed != text && ok {
				t.Fatalf("%s, which is %s changed at %d, is read as %v", changed, text, i, got)
			}
		}
	}
	for _, bad := range []string{"", "x", text + "A", text[1:], id.String()} {
		if _, ok := parseCursor(bad); ok {
			t.Errorf("%q is a cursor", bad)
		}
	}
}
