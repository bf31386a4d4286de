package api

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"

	"github.com/valyala/fasthttp"
)

// openAPI describes every route. Tests hold that it has each of them, and that
// every answer they see is as it says.
//
//go:embed openapi.json
var openAPI []byte

// openAPITag changes with the document. It is strong: there is one encoding.
var openAPITag = func() string {
	sum := sha256.Sum256(openAPI)
	return `"` + hex.EncodeToString(sum[:8]) + `"`
}()

// OpenAPI is the document of GET /v1/openapi.json. The caller must not change
// it.
func OpenAPI() []byte { return openAPI }

// getOpenAPI is GET /v1/openapi.json: 200, or 304 to who has it already.
func (s *Server) getOpenAPI(c *call) error {
	h := &c.http.Response.Header
	h.Set(fasthttp.HeaderETag, openAPITag)
	h.Set(fasthttp.HeaderCacheControl, "public, max-age=300")
	if hasTag(c.http.Request.Header.Peek(fasthttp.HeaderIfNoneMatch), openAPITag) {
		c.http.SetStatusCode(fasthttp.StatusNotModified)
		return nil
	}
	writeJSON(c.http, fasthttp.StatusOK, openAPI)
	return nil
}

// hasTag reports whether the value of If-None-Match names tag. Proxies mark
// tags as weak when they compress.
func hasTag(list []byte, tag string) bool {
	for one := range bytes.SplitSeq(list, []byte{','}) {
		one = bytes.TrimSpace(one)
		if string(one) == "*" || string(bytes.TrimPrefix(one, []byte("W/"))) == tag {
			return true
		}
	}
	return false
}
