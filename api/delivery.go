package api

import (
	"strconv"
	"strings"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/harepost/harepost/engine"
)

const (
	defaultPage = 25
	maxPage     = 100
)

// getDelivery is GET /v1/deliveries/{id}.
func (s *Server) getDelivery(c *call) error {
	id, err := engine.ParseDeliveryID(c.param)
	if err != nil {
		return errNotFound
	}
	var o engine.ReadOptions
	switch include := string(c.http.QueryArgs().Peek("include")); include {
	case "":
	case "payload":
		o.Payload = true
	default:
		return invalid("include", strconv.Quote(clip([]byte(include))), "payload")
	}
	d, err := s.engine.Delivery(s.ctx, c.account, id, o)
	if err != nil {
		return err
	}
	b := appendDelivery(make([]byte, 0, 1024), &d, o.Payload)
	writeJSON(c.http, fasthttp.StatusOK, append(b, '\n'))
	return nil
}

// listDeliveries is GET /v1/deliveries, newest first.
func (s *Server) listDeliveries(c *call) error {
	q, err := parseListQuery(c.http.QueryArgs(), s.o.Warnings)
	if err != nil {
		return err
	}
	return s.writePage(c, q)
}

// writePage answers with a page of the account's deliveries.
func (s *Server) writePage(c *call, q *listQuery) error {
	page, err := s.engine.Deliveries(s.ctx, c.account, q.filter, q.after, q.limit)
	if err != nil {
		return err
	}
	b := append(make([]byte, 0, 64+320*len(page.Deliveries)), `{"data":[`...)
	for i := range page.Deliveries {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendListItem(b, &page.Deliveries[i])
	}
	b = append(b, `],"next_cursor":`...)
	if page.Next.IsZero() {
		b = append(b, "null"...)
	} else {
		b = append(b, '"')
		b = appendCursor(b, page.Next)
		b = append(b, '"')
	}
	b = q.appendWarnings(b)
	writeJSON(c.http, fasthttp.StatusOK, append(b, '}', '\n'))
	return nil
}

// A listQuery is the query of a list of deliveries.
type listQuery struct {
	filter engine.Filter
	after  engine.DeliveryID // zero: from the newest
	limit  int
	warnings
}

func parseListQuery(args *fasthttp.Args, mostWarnings int) (*listQuery, error) {
	q := &listQuery{limit: defaultPage}
	q.most = mostWarnings
	for k, v := range args.All() {
		if len(v) == 0 && mayBeEmpty(string(k)) {
			continue
		}
		if err := q.parameter(string(k), string(v)); err != nil {
			return nil, err
		}
	}
	return q, nil
}

// mayBeEmpty tells whether a parameter is as good as not given when it is empty:
// a cursor's loop begins so. A status has its words, and "" is none of them:
// that is a variable that was not set.
func mayBeEmpty(name string) bool {
	switch name {
	case "limit", "cursor", "target", "host", "prefix", "account_id", "label", "idempotency_key", "ordering_key", "since", "until":
		return true
	}
	return false
}

func (q *listQuery) parameter(name, value string) (err error) {
	f := &q.filter
	switch name {
	case "status":
		var ok bool
		if f.Status, ok = engine.ParseStatus(value); !ok {
			return invalid("status", strconv.Quote(clip([]byte(value))),
				"one of queued, retrying, delivered, rejected, dead_letter, canceled")
		}
	case "limit":
		q.limit, err = parseLimit(value)
	case "cursor":
		var ok bool
		if q.after, ok = parseCursor(value); !ok {
			return invalid("cursor", "not one of ours", "the next_cursor of a page, unchanged")
		}
	case "target":
		f.TargetPrefix = value
	case "host":
		if f.Host, err = filterHost(value); err != nil {
			return refused("host", err.Error())
		}
	case "label":
		f.Label = value
	case "idempotency_key":
		f.IdempotencyKey = value
	case "ordering_key":
		f.OrderingKey = value
	case "since":
		f.Since, err = parseQueryTime(name, value)
	case "until":
		f.Until, err = parseQueryTime(name, value)
	default:
		q.unknownParameter(name)
	}
	return err
}

// parseLimit clamps a number to the page sizes; any whole number will do, one
// that no integer holds included.
func parseLimit(s string) (int, error) {
	digits := s
	if s[0] == '-' || s[0] == '+' {
		digits = s[1:]
	}
	for _, c := range []byte(digits) {
		if c < '0' || c > '9' {
			digits = ""
		}
	}
	if digits == "" {
		return 0, invalid("limit", strconv.Quote(clip([]byte(s))), "a whole number, from 1 to 100")
	}
	n, _ := strconv.ParseInt(s, 10, 64) // saturates
	return int(min(max(n, 1), maxPage)), nil
}

// filterHost accepts what a target may have had for a host, brackets or not.
func filterHost(value string) (string, error) {
	if strings.Contains(value, ":") && !strings.HasPrefix(value, "[") {
		value = "[" + value + "]"
	}
	name, _, err := targetHost(value, &targetRules{loopback: true})
	return name, err
}

func parseQueryTime(name, value string) (time.Time, error) {
	t, ok := parseTime(value)
	if !ok {
		return time.Time{}, invalid(name, strconv.Quote(clip([]byte(value))),
			"an RFC 3339 date such as 2026-06-10T14:22:10Z (a + in it is written %2B)")
	}
	return t, nil
}

// parseTime reads an RFC 3339 date that can be written as one again in UTC: an
// offset may carry it out of the years that four digits have.
func parseTime(text string) (time.Time, bool) {
	t, err := time.Parse(time.RFC3339, text)
	year := t.UTC().Year()
	return t, err == nil && 0 <= year && year <= 9999
}
