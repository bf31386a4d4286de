package docs_test

import (
	"os"
	"strings"
	"testing"

	"github.com/harepost/harepost/engine"
)

// Whoever copies the id of the operator's account out of the page has the right one.
func TestOperatorAccount(t *testing.T) {
	text, err := os.ReadFile("operating.md")
	if err != nil {
		t.Fatal(err)
	}
	if id := "`" + engine.OperatorAccount.String() + "`"; !strings.Contains(string(text), id) {
		t.Errorf("operating.md does not name the operator's account, %s", id)
	}
}
