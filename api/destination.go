package api

import (
	"errors"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/harepost/harepost/engine"
)

// listDestinations is GET /v1/destinations.
func (s *Server) listDestinations(c *call) error {
	q := engine.DestinationQuery{Limit: defaultPage}
	w := warnings{most: s.o.Warnings}
	for k, v := range c.http.QueryArgs().All() {
		if len(v) == 0 && mayBeEmpty(string(k)) {
			continue
		}
		known, err := destinationParameter(&q, string(k), string(v))
		if err != nil {
			return err
		}
		if !known {
			w.unknownParameter(string(k))
		}
	}
	if q.ByPending && q.After != 0 {
		return refused("cursor", "a list that is sorted by pending has one page")
	}
	list, next, err := s.engine.Destinations(s.ctx, c.account, q)
	if err != nil {
		return err
	}
	s.writeDestinations(c, list, next, &w)
	return nil
}

// destinationParameter reads one parameter of a list of destinations.
func destinationParameter(q *engine.DestinationQuery, name, value string) (known bool, err error) {
	switch name {
	case "limit":
		q.Limit, err = parseLimit(value)
	case "cursor":
		if q.After, err = strconv.ParseUint(value, 16, 64); err != nil || len(value) != 16 {
			err = invalid("cursor", "not one of ours", "the next_cursor of a page, unchanged")
		}
	case "host":
		if q.Host, err = filterHost(value); err != nil {
			err = refused("host", err.Error())
		}
	case "prefix":
		q.Prefix = value
	case "state":
		var ok bool
		if q.State, ok = destinationStates[value]; !ok {
			err = invalid("state", strconv.Quote(clip([]byte(value))), "one of paused, breaker, failing, waiting")
		}
	case "sort":
		if q.ByPending = value == "pending"; !q.ByPending {
			err = invalid("sort", strconv.Quote(clip([]byte(value))), "pending")
		}
	case "account_id": // see authorize
	default:
		return false, nil
	}
	return true, err
}

var destinationStates = map[string]engine.DestinationState{
	"paused":  engine.PausedDestination,
	"breaker": engine.BrokenDestination,
	"failing": engine.FailingDestination,
	"waiting": engine.WaitingDestination,
}

// getDestination is GET /v1/destinations/{host}: all lanes to the host.
func (s *Server) getDestination(c *call) error {
	ref, err := parseDestination(c.param)
	if err != nil {
		return err
	}
	list, err := s.engine.DestinationsOf(s.ctx, c.account, ref)
	if err != nil {
		return err
	}
	s.writeDestinations(c, list, 0, &warnings{})
	return nil
}

// changeDestination is PATCH /v1/destinations/{host}. Null takes a limit away.
func (s *Server) changeDestination(c *call) error {
	var change engine.DestinationChange
	w, err := s.members(c.http.PostBody(), func(d *decoder, name []byte) error {
		return destinationField(d, name, &change)
	})
	if err != nil {
		return err
	}
	return s.changeDestinations(c, change, w)
}

func destinationField(d *decoder, name []byte, change *engine.DestinationChange) error {
	switch string(name) {
	case "rate":
		rate, _, err := d.laneRate("rate")
		change.Rate = &rate
		return err
	case "parallelism":
		n, _, err := d.laneParallelism("parallelism")
		change.Parallelism = &n
		return err
	}
	return d.skipUnknown(name)
}

// pauseDestination is POST /v1/destinations/{host}/pause.
func (s *Server) pauseDestination(c *call) error { return s.setPaused(c, true) }

// resumeDestination is POST /v1/destinations/{host}/resume.
func (s *Server) resumeDestination(c *call) error { return s.setPaused(c, false) }

func (s *Server) setPaused(c *call, paused bool) error {
	w, err := s.noMember(c)
	if err != nil {
		return err
	}
	return s.changeDestinations(c, engine.DestinationChange{Paused: &paused}, w)
}

func (s *Server) changeDestinations(c *call, change engine.DestinationChange, w *warnings) error {
	ref, err := parseDestination(c.param)
	if err != nil {
		return err
	}
	list, err := s.engine.ChangeDestinations(s.ctx, c.account, ref, change)
	if err != nil {
		return err
	}
	s.writeDestinations(c, list, 0, w)
	return nil
}

// parseDestination reads "host", "host:port", "scheme://host:port" or "flow:KEY".
func parseDestination(text string) (ref engine.DestinationRef, err error) {
	if key, ok := strings.CutPrefix(text, engine.FlowPrefix); ok {
		if !isFlowKey([]byte(key)) {
			return ref, refused("host", "what follows flow: is no flow key")
		}
		return engine.DestinationRef{FlowKey: key}, nil
	}
	if scheme, rest, ok := strings.Cut(text, "://"); ok {
		if scheme != "https" && scheme != "http" {
			return ref, refused("host", "the scheme must be https or http")
		}
		ref.Scheme, text = scheme, strings.TrimSuffix(rest, "/")
	}
	if err := parseAuthority(&ref, text); err != nil {
		return ref, refused("host", err.Error())
	}
	return ref, nil
}

func parseAuthority(ref *engine.DestinationRef, authority string) error {
	if strings.Count(authority, ":") > 1 && !strings.HasPrefix(authority, "[") {
		authority = "[" + authority + "]" // an IPv6 address alone
	}
	host, port, err := splitAuthority(authority)
	if err == nil && port != "" {
		ref.Port, err = parsePort(port)
	}
	if err == nil {
		ref.Host, _, err = targetHost(host, &targetRules{loopback: true})
	}
	if err == nil && ref.Port == 0 && ref.Scheme != "" {
		ref.Port = map[string]uint16{"https": 443, "http": 80}[ref.Scheme]
	}
	if err == nil && ref.Host == "" {
		err = errors.New("it is empty")
	}
	return err
}

func (s *Server) writeDestinations(c *call, list []engine.Destination, next uint64, w *warnings) {
	now := s.now()
	b := append(make([]byte, 0, 64+512*len(list)), `{"data":[`...)
	for i := range list {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendDestination(b, &list[i], now)
	}
	b = append(b, `],"next_cursor":`...)
	if next == 0 {
		b = append(b, "null"...)
	} else {
		hex := strconv.FormatUint(next, 16)
		b = append(b, '"')
		b = append(b, strings.Repeat("0", 16-len(hex))...)
		b = append(append(b, hex...), '"')
	}
	b = w.appendWarnings(b)
	writeJSON(c.http, fasthttp.StatusOK, append(b, '}', '\n'))
}

func appendDestination(b []byte, d *engine.Destination, now time.Time) []byte {
	b = append(b, `{"destination":`...)
	b = appendString(b, d.Name.String())
	b = append(b, `,"kind":`...)
	b = appendString(b, d.Name.Kind.String())
	b = append(b, `,"pending":`...)
	b = strconv.AppendInt(b, d.Pending, 10)
	b = append(b, `,"in_flight":`...)
	b = strconv.AppendInt(b, int64(d.InFlight), 10)
	b = append(b, `,"limit":`...)
	b = appendCodeOrNull(b, d.Limit)
	b = append(b, `,"parallelism":`...)
	b = appendCodeOrNull(b, d.Parallelism)
	b = append(b, `,"rate":`...)
	b = appendNumberOrNull(b, d.Rate, d.Rate != 0)
	b = append(b, `,"pace":`...)
	b = appendNumberOrNull(b, math.Round(d.Pace*1000)/1000, d.Pace != 0)
	b = append(b, `,"paused":`...)
	b = strconv.AppendBool(b, d.Paused)
	b = append(b, `,"breaker":`...)
	b = appendString(b, breakerWords[d.Breaker])
	b = append(b, `,"probe_at":`...)
	b = appendTimeOrNull(b, d.ProbeAt)
	b = append(b, `,"retry_after_until":`...)
	b = appendTimeOrNull(b, d.RetryAfterUntil)
	b = append(b, `,"oldest_due_at":`...)
	b = appendTimeOrNull(b, d.OldestDue)
	b = append(b, `,"oldest_due_age_seconds":`...)
	b = appendNumberOrNull(b, d.OldestDueAge(now).Round(time.Millisecond).Seconds(), !d.OldestDue.IsZero())
	b = append(b, `,"success_ratio":`...)
	attempts := d.Successes + d.Failures
	b = appendNumberOrNull(b, math.Round(10_000*float64(d.Successes)/float64(max(attempts, 1)))/10_000, attempts > 0)
	b = append(b, `,"p50_ms":`...)
	b = appendMillisOrNull(b, d.P50)
	b = append(b, `,"p99_ms":`...)
	b = appendMillisOrNull(b, d.P99)
	b = append(b, `,"failing_since":`...)
	b = appendTimeOrNull(b, d.FailingSince)
	b = append(b, `,"last_error":`...)
	b = appendLaneError(b, &d.LastError)
	b = append(b, `,"waiting_for":`...)
	b = appendStringOrNull(b, d.WaitingFor)
	return append(b, '}')
}

var breakerWords = [...]string{
	engine.BreakerClosed: "closed", engine.BreakerOpen: "open", engine.BreakerHalfOpen: "half_open",
}

func appendLaneError(b []byte, e *engine.LaneError) []byte {
	if e.Code == "" {
		return append(b, "null"...)
	}
	b = append(b, `{"code":`...)
	b = appendString(b, e.Code)
	b = append(b, `,"http_status":`...)
	b = appendCodeOrNull(b, e.HTTPStatus)
	b = append(b, `,"at":`...)
	return append(appendTime(b, e.At), '}')
}

func appendNumberOrNull(b []byte, n float64, given bool) []byte {
	if !given {
		return append(b, "null"...)
	}
	return strconv.AppendFloat(b, n, 'f', -1, 64)
}

func appendMillisOrNull(b []byte, d time.Duration) []byte {
	if d <= 0 {
		return append(b, "null"...)
	}
	return appendMillis(b, d)
}
