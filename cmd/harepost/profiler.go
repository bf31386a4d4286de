package main

import (
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"time"
)

// A profiler serves Go's profiles on a listener of its own.
type profiler struct {
	listener net.Listener
	server   *http.Server
	done     chan struct{} // closed when the accept loop is gone
}

// openProfiler binds and serves at once; an empty address is no profiler.
func openProfiler(address string) (*profiler, error) {
	if address == "" {
		return nil, nil
	}
	ln, err := listen(address)
	if err != nil {
		return nil, fmt.Errorf("--pprof: %w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", noCommandLine)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	p := &profiler{
		listener: ln,
		server:   &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second},
		done:     make(chan struct{}),
	}
	go func() {
		defer close(p.done)
		p.server.Serve(ln) // ends with ErrServerClosed by close
	}()
	return p, nil
}

// noCommandLine stands in for pprof.Cmdline: the command line may hold the
// admin token.
func noCommandLine(w http.ResponseWriter, _ *http.Request) {
	http.Error(w, "the command line is not shown", http.StatusNotFound)
}

// close ends the accept loop and every profile being taken.
func (p *profiler) close() {
	if p == nil {
		return
	}
	p.server.Close()
	<-p.done
}
