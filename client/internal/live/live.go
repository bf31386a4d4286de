// Package live runs a whole server in the process, on loopback, with its data in
// a temporary directory: for the examples and tests of the packages above it,
// which themselves know nothing of a server's inside.
//
//	s, err := live.Start()
//	c, err := client.New(s.URL, s.APIKey, client.Options{})
//	...
//	err = s.Close()
//
// It is as with "harepost serve --dev": targets on loopback need no domain.
package live

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/harepost/harepost/api"
	"github.com/harepost/harepost/client"
	"github.com/harepost/harepost/engine"
	"github.com/harepost/harepost/transport"
)

// AdminToken is that of every server.
const AdminToken = "admin-token-of-a-test"

// A Server runs from Start to Close.
type Server struct {
	URL    string
	APIKey string // of an account
	Secret string // its signing secret

	dir       string
	transport *transport.Transport
	engine    *engine.Engine
	api       *api.Server
	served    chan error // nil until the API serves
}

// Start starts a server with one account.
func Start() (_ *Server, err error) {
	s := &Server{}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	if s.dir, err = os.MkdirTemp("", "harepost-live-"); err != nil {
		return nil, err
	}
	quiet := slog.New(slog.DiscardHandler)
	if s.transport, err = transport.New(transport.Options{
		EgressAllow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
		Logger:      quiet,
	}); err != nil {
		return nil, err
	}
	if s.engine, err = engine.Open(s.dir, engine.Options{
		Transport: s.transport, DevLoopback: true, LogSegmentBytes: 1 << 20, Logger: quiet,
	}); err != nil {
		return nil, err
	}
	if s.api, err = api.New(s.engine, api.Options{AdminToken: AdminToken, Dev: true, Logger: quiet}); err != nil {
		return nil, err
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s.URL, s.served = "http://"+ln.Addr().String(), make(chan error, 1)
	go func() { s.served <- s.api.Serve(ln) }()
	return s, s.signUp()
}

func (s *Server) signUp() error {
	c, err := client.New(s.URL, "", client.Options{AdminToken: AdminToken})
	if err != nil {
		return err
	}
	defer c.CloseIdleConnections()
	made, err := c.CreateAccount(context.Background(), "live")
	s.APIKey, s.Secret = made.APIKey, made.SigningSecret
	return err
}

// Close stops the server and removes its data.
func (s *Server) Close() error {
	var errs []error
	if s.served != nil {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		errs = append(errs, s.api.Shutdown(ctx), <-s.served)
	}
	if s.engine != nil {
		errs = append(errs, s.engine.Close())
	}
	if s.transport != nil {
		s.transport.Close()
	}
	if s.dir != "" {
		errs = append(errs, os.RemoveAll(s.dir))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("live: close: %w", err)
	}
	return nil
}
