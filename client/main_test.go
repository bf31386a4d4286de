package client_test

import (
	"fmt"
	"os"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/harepost/harepost/client/internal/live"
)

// running stops the server of the examples after the tests, before goroutines
// are counted.
type running struct{ *testing.M }

func (r running) Run() int {
	status := r.M.Run()
	if started != nil {
		if err := started.Close(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	return status
}

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(running{m},
		// fasthttp formats the Date header once a second, for the whole process.
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.updateServerDate.func1"),
		// The cleaner of fasthttp's workers notices the end of Serve when it wakes, within 10 s.
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.(*workerPool).Start.func2"),
	)
}

var started *live.Server

// theServer is one server for all examples and tests that want a real one,
// started when the first asks.
var theServer = sync.OnceValue(func() *live.Server {
	s, err := live.Start()
	if err != nil {
		panic(err)
	}
	started = s
	return s
})
