package bench

import "github.com/valyala/fasthttp"

// trivialAnswer is like a receipt of the engine.
const trivialAnswer = `{"queue_id":"hr_01k0000000000000000000000000","status":"queued","created_at":"2026-01-01T00:00:00.000Z"}` + "\n"

// serveTrivial answers every request with 202 and looks at nothing: what the
// generator reaches against it is the generator's own limit.
func serveTrivial() (*server, error) {
	return serve("trivial", 1, func(ctx *fasthttp.RequestCtx) {
		ctx.SetStatusCode(fasthttp.StatusAccepted)
		ctx.SetContentType("application/json")
		ctx.SetBodyString(trivialAnswer)
	})
}
