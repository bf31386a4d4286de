package transport

import (
	"flag"
	"os"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	flag.Parse()
	// The parent judges what runs inside its namespace, and benchmarks leave
	// fasthttp goroutines behind that nobody can wait for.
	if os.Getenv(insideVariable) != "" || flag.Lookup("test.bench").Value.String() != "" {
		os.Exit(m.Run())
	}
	goleak.VerifyTestMain(m)
}

// insideVariable is set in the copy of the test program that runs in a
// network namespace of its own.
const insideVariable = "HAREPOST_TRANSPORT_NAMESPACE"
