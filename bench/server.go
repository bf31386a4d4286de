package bench

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/valyala/fasthttp"
)

// A server is a plain fasthttp server on free ports of 127.0.0.1. It has no
// timeouts, because each costs a system-wide timer update per request and its
// only clients are our own; connections are bounded by Concurrency.
type server struct {
	http      *fasthttp.Server
	listeners []net.Listener
	serving   sync.WaitGroup
	failed    chan error // what Serve returned, one per listener
}

// closeWait bounds how long a server waits for requests under way when it closes.
const closeWait = 10 * time.Second

func serve(name string, ports int, handler fasthttp.RequestHandler) (*server, error) {
	s := &server{
		http: &fasthttp.Server{
			Handler:                      handler,
			Name:                         name,
			NoDefaultContentType:         true,
			DisablePreParseMultipartForm: true,
			Concurrency:                  1 << 16,
			MaxRequestBodySize:           16 << 20,
			Logger:                       quiet{},
		},
		failed: make(chan error, ports),
	}
	for range ports {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, errors.Join(fmt.Errorf("bench: %s: %w", name, err), s.close())
		}
		s.listeners = append(s.listeners, l)
		s.serving.Go(func() { s.failed <- s.http.Serve(l) })
	}
	return s, nil
}

// close stops listening, waits for the requests under way and for Serve to
// return. It may be called twice.
func (s *server) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), closeWait)
	defer cancel()
	err := s.http.ShutdownWithContext(ctx)
	for _, l := range s.listeners {
		// Shutdown knows only the listeners whose Serve has begun.
		err = errors.Join(err, notClosed(l.Close()))
	}
	s.serving.Wait()
	for {
		select {
		case serveErr := <-s.failed:
			err = errors.Join(err, notClosed(serveErr))
		default:
			return err
		}
	}
}

// notClosed drops the error of using or closing a closed listener.
func notClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// quiet drops fasthttp's own log lines: a connection closed by the other side
// is no news here, and what matters is counted.
type quiet struct{}

func (quiet) Printf(string, ...any) {}
