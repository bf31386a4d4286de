package api

import (
	"strconv"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/harepost/harepost/engine"
)

// A bulk is what a bulk operation is asked for.
//
// Whoever replays, cancels or purges by filter must not hit more than was
// meant. So these requests are read more strictly than others: a field or
// parameter that is not known, that is null or empty, or that is there twice is
// a 400 and never a warning, and "everything" must be said in so many words.
type bulk struct {
	kind    engine.JobKind
	filter  engine.Filter
	given   bool // a filter, if only {}
	dryRun  bool
	rate    int // a second; 0: none
	allDead bool
}

const maxRatePerSecond = 1_000_000

// newBulk begins with what the kind works on.
func newBulk(kind engine.JobKind) *bulk {
	return &bulk{kind: kind, filter: engine.Filter{Dead: kind != engine.JobCancel, Pending: kind == engine.JobCancel}}
}

// statuses are the words of the statuses that the kind works on.
func (k *bulk) statuses() string {
	if k.kind == engine.JobCancel {
		return "queued or retrying"
	}
	return "dead_letter or rejected"
}

// field takes one field of a filter, as text.
func (k *bulk) field(name, value string) (err error) {
	f := &k.filter
	if !isFilterField(name) {
		return unknownFilterField(name)
	}
	if value == "" {
		return refused("filter", "field "+quoted([]byte(name))+" is empty; leave it out to mean any")
	}
	switch name {
	case "status":
		f.Status, err = k.status(value)
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
		return unknownFilterField(name) // never pass over one
	}
	return err
}

// isFilterField tells whether field knows the name.
func isFilterField(name string) bool {
	switch name {
	case "status", "target", "host", "label", "idempotency_key", "ordering_key", "since", "until":
		return true
	}
	return false
}

func unknownFilterField(name string) *problem {
	return refused("filter", "unknown field "+quoted([]byte(name))+
		"; there are status, target, host, label, idempotency_key, ordering_key, since and until")
}

func (k *bulk) status(value string) (engine.Status, error) {
	status, ok := engine.ParseStatus(value)
	if ok {
		only := engine.Filter{Dead: k.filter.Dead, Pending: k.filter.Pending}
		ok = only.Wants(status)
	}
	if !ok {
		return 0, invalid("status", quoted([]byte(value)), k.statuses())
	}
	return status, nil
}

// member reads one member of a bulk operation's body.
func (k *bulk) member(d *decoder, name []byte) (err error) {
	switch string(name) {
	case "filter":
		return k.members(d)
	case "dry_run":
		var given bool
		if k.dryRun, given, err = d.boolean("dry_run"); err == nil && !given {
			return invalid("dry_run", "null", "true or false")
		}
		return err
	case "rate_per_second":
		n, given, err := d.whole("rate_per_second")
		if err != nil || !given {
			return err
		}
		return k.pace(n)
	}
	return &problem{
		status:  fasthttp.StatusBadRequest,
		message: "unknown field " + quoted(name),
		detail:  "there are filter, dry_run and rate_per_second",
	}
}

// members reads the filter object.
func (k *bulk) members(d *decoder) error {
	given, err := d.open("filter")
	if err != nil {
		return err
	}
	if !given {
		return invalid("filter", "null", "an object; {} is everything")
	}
	k.given = true
	for {
		name, more, err := d.next()
		if err != nil || !more {
			return err
		}
		if !isFilterField(string(name)) { // whatever its value is
			return unknownFilterField(string(name))
		}
		field := "filter." + clip(name)
		value, given, err := d.str(field)
		if err != nil {
			return err
		}
		if !given {
			return invalid(field, "null", "a string; leave it out to mean any")
		}
		if err := k.field(string(name), string(value)); err != nil {
			return err
		}
	}
}

func (k *bulk) pace(n int64) error {
	if n < 1 || n > maxRatePerSecond {
		return invalid("rate_per_second", strconv.FormatInt(n, 10), "from 1 to "+strconv.Itoa(maxRatePerSecond))
	}
	k.rate = int(n)
	return nil
}

// body reads a bulk operation's body.
func (k *bulk) body(s *Server, c *call) error {
	if _, err := s.members(c.http.PostBody(), k.member); err != nil {
		return err
	}
	if !k.given {
		return &problem{
			status:  fasthttp.StatusBadRequest,
			message: "filter is missing",
			detail:  "filter must be an object; {} is everything",
		}
	}
	return nil
}

// query reads a purge, whose filter is in the query: a body of a DELETE may be
// lost on the way, and then nobody would know what it was to spare.
func (k *bulk) query(c *call) error {
	if len(c.http.PostBody()) > 0 {
		return &problem{
			status:  fasthttp.StatusBadRequest,
			message: "request has a body",
			detail:  "give the filter as query parameters",
		}
	}
	seen := map[string]bool{}
	for name, value := range c.http.QueryArgs().All() {
		if seen[string(name)] {
			return refused(quoted(name), "the parameter is there twice")
		}
		seen[string(name)] = true
		if err := k.parameter(string(name), string(value)); err != nil {
			return err
		}
	}
	switch {
	case k.given && k.allDead:
		return refused("all", "there is a filter beside it; give one of them")
	case !k.given && !k.allDead:
		return &problem{
			status:  fasthttp.StatusBadRequest,
			message: "filter is missing",
			detail:  "say which dead letters are to be removed, or all=true for every one",
		}
	}
	return nil
}

func (k *bulk) parameter(name, value string) (err error) {
	switch name {
	case "all":
		k.allDead, err = parseBool(name, value)
	case "dry_run":
		k.dryRun, err = parseBool(name, value)
	case "rate_per_second":
		n, err := strconv.ParseInt(value, 10, 64)
		if err != nil {
			return invalid(name, quoted([]byte(value)), "a whole number")
		}
		return k.pace(n)
	default:
		k.given = true
		err = k.field(name, value)
	}
	return err
}

func parseBool(name, value string) (bool, error) {
	if value != "true" && value != "false" {
		return false, invalid(name, quoted([]byte(value)), "true or false")
	}
	return value == "true", nil
}

// appendFilter appends a filter as it was given.
func appendFilter(b []byte, f *engine.Filter) []byte {
	b = append(b, '{')
	member := func(name, value string) {
		if value == "" {
			return
		}
		if b[len(b)-1] != '{' {
			b = append(b, ',')
		}
		b = appendString(b, name)
		b = append(b, ':')
		b = appendString(b, value)
	}
	if f.Status != 0 {
		member("status", f.Status.String())
	}
	member("target", f.TargetPrefix)
	member("host", f.Host)
	member("label", f.Label)
	member("idempotency_key", f.IdempotencyKey)
	member("ordering_key", f.OrderingKey)
	member("since", filterTime(f.Since))
	member("until", filterTime(f.Until))
	return append(b, '}')
}

// filterTime is as exact as the filter was.
func filterTime(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339Nano)
}
