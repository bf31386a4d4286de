package transport

import (
	"os"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if run := os.Getenv(childVariable); run != "" {
		os.Exit(m.Run()) // inside the namespace: the parent judges
	}
	goleak.VerifyTestMain(m,
		// fasthttp's server keeps one goroutine per process for its Date header.
		goleak.IgnoreTopFunction("github.com/valyala/fasthttp.updateServerDate.func1"))
}

const childVariable = "HAREPOST_TRANSPORT_NAMESPACE"
