package main

import (
	"os"
	"os/exec"
	"testing"
)

// A client that a stock generator made from the OpenAPI document works.
// `make openapi-client` generates it.
func TestGeneratedClient(t *testing.T) {
	program := os.Getenv("HAREPOST_GENERATED_CLIENT")
	if program == "" {
		t.Skip("HAREPOST_GENERATED_CLIENT is not set: make openapi-client generates a client, with npm, and sets it")
	}
	w := startWorld(t)
	acme := w.tenant(t, "acme").verified(t, "your-app.com")
	in := w.inbox(t, "your-app.com", answers(410))
	client := exec.CommandContext(t.Context(), "node", program)
	client.Env = append(os.Environ(), "HAREPOST_URL="+w.server.URL, "HAREPOST_API_KEY="+acme.key, "TARGET="+in.url)
	text, err := client.CombinedOutput()
	t.Logf("%s", text)
	if err != nil {
		t.Errorf("%s: %v", program, err)
	}
}
