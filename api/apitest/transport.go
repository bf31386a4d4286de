package apitest

import (
	"bytes"
	"io"
	"net/http"
)

// Transport is base with every answer checked that comes over it. A body is
// read to its end before the caller gets it; one that breaks off breaks off for
// the caller too, and is not checked.
func (c *Checker) Transport(base http.RoundTripper, report func(error)) http.RoundTripper {
	return roundTripper(func(req *http.Request) (*http.Response, error) {
		resp, err := base.RoundTrip(req)
		if err != nil {
			return nil, err
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil {
			resp.Body = io.NopCloser(io.MultiReader(bytes.NewReader(body), broken{err}))
			return resp, nil
		}
		resp.Body = io.NopCloser(bytes.NewReader(body))
		if err := c.Check(req.Method, req.URL.RequestURI(), resp.StatusCode, resp.Header, body); err != nil {
			report(err)
		}
		return resp, nil
	})
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// broken is the end of a body that has none.
type broken struct{ err error }

func (b broken) Read([]byte) (int, error) { return 0, b.err }
