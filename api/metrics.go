package api

import (
	"bufio"
	"fmt"
	"time"

	"github.com/VictoriaMetrics/metrics"
	"github.com/valyala/fasthttp"
)

// codes are the statuses an answer of ours can have. One that is not here is
// counted as "other", so that the number of series is fixed at start.
var codes = []int{200, 201, 202, 204, 304, 400, 401, 403, 404, 405, 408, 409, 413, 415, 429, 431, 500, 503, 507}

// latencyBounds go from the cost of a read in memory to the longest lookup, in
// seconds.
var latencyBounds = []float64{
	.00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10,
}

// apiMetrics are the API's own part of the metrics page.
type apiMetrics struct {
	set     *metrics.Set
	unknown *routeMetrics // unknown paths and requests that could not be read
}

// routeMetrics count the answers of one route.
type routeMetrics struct {
	codes   [600]*metrics.Counter
	latency *metrics.PrometheusHistogram
}

func newMetrics(routes map[string]*route, conns *connections) *apiMetrics {
	m := &apiMetrics{set: metrics.NewSet()}
	m.unknown = m.newRoute("other")
	for _, r := range routes {
		r.metrics = m.newRoute(r.path)
	}
	m.set.NewGauge("harepost_api_connections", func() float64 { return float64(conns.count()) })
	conns.refused = m.set.NewCounter("harepost_api_connections_refused_total")
	m.set.NewGauge("harepost_api_large_body_bytes", func() float64 { return float64(conns.bodies.bytes()) })
	conns.bodies.refused = m.set.NewCounter("harepost_api_large_bodies_refused_total")
	return m
}

func (m *apiMetrics) newRoute(path string) *routeMetrics {
	rm := &routeMetrics{}
	other := m.set.NewCounter(fmt.Sprintf("harepost_api_requests_total{route=%q,code=%q}", path, "other"))
	for i := range rm.codes {
		rm.codes[i] = other
	}
	for _, code := range codes {
		name := fmt.Sprintf("harepost_api_requests_total{route=%q,code=\"%d\"}", path, code)
		rm.codes[code] = m.set.NewCounter(name)
	}
	name := fmt.Sprintf("harepost_api_request_duration_seconds{route=%q}", path)
	rm.latency = m.set.NewPrometheusHistogramExt(name, latencyBounds)
	return rm
}

// observe counts one answer; r is nil for an unknown path.
func (m *apiMetrics) observe(r *route, code int, took time.Duration) {
	rm := m.unknown
	if r != nil {
		rm = r.metrics
	}
	if code < 0 || code >= len(rm.codes) {
		code = 0
	}
	rm.codes[code].Inc()
	rm.latency.Update(took.Seconds())
}

// writeMetrics is GET /metrics.
func (s *Server) writeMetrics(c *call) error {
	c.http.Response.Header.SetContentType("text/plain; version=0.0.4; charset=utf-8")
	c.http.SetStatusCode(fasthttp.StatusOK)
	w := bufio.NewWriter(c.http.Response.BodyWriter())
	s.metrics.set.WritePrometheus(w)
	if s.o.Metrics != nil {
		s.o.Metrics(w)
	}
	return w.Flush()
}
