package api

import (
	"strconv"
	"sync"
	"time"

	"golang.org/x/net/http/httpguts"

	"github.com/harepost/harepost/engine"
)

// Ranges of the delivery policy. Numbers outside are clamped, never refused.
const (
	minAttempts, maxAttempts   = 1, 25
	minBaseDelay, maxBaseDelay = 100, 60_000       // ms
	minMaxDelay, maxMaxDelay   = 1_000, 43_200_000 // ms
	minTimeout, maxTimeout     = 1_000, 30_000     // ms
)

var defaultPolicy = engine.Policy{
	MaxAttempts:       5,
	Backoff:           engine.BackoffExponential,
	Jitter:            engine.JitterFull,
	BaseDelay:         time.Second,
	MaxDelay:          time.Hour,
	Timeout:           10 * time.Second,
	RespectRetryAfter: true,
}

// A sendRequest decodes one send. Everything in send aliases the request's
// bytes or the decoder's scratch until release.
type sendRequest struct {
	decoder
	o     *Options
	rules *targetRules
	sendFields
}

// sendFields are what one request fills in.
type sendFields struct {
	send engine.Send

	target    []byte
	hasTarget bool
	jsonBody  bool // body was written as JSON, not as a string
	typed     bool // the caller set Content-Type
	key       []byte

	orderingKey []byte
	ordered     bool // it was given
	onFailure   bool // on_failure was given

	delay     time.Duration
	notBefore time.Time
	expiresAt time.Time

	hasRate, hasParallelism bool
}

var sendRequests = sync.Pool{New: func() any { return new(sendRequest) }}

func (s *Server) acquireSendRequest(body []byte) *sendRequest {
	r := sendRequests.Get().(*sendRequest)
	r.o, r.rules, r.most = &s.o, &s.targets, s.o.Warnings
	r.decoder.reset(body)
	return r
}

// release returns r to the pool without a trace of the request.
func (r *sendRequest) release() {
	r.decoder.release()
	headers, labels := r.send.Headers, r.send.Labels
	clear(headers)
	clear(labels)
	r.sendFields = sendFields{}
	r.send.Headers, r.send.Labels = headers[:0], labels[:0]
	sendRequests.Put(r)
}

// decode reads the body and validates all of it. header is the value of the
// HTTP header Idempotency-Key, nil when there was none.
func (r *sendRequest) decode(header []byte, now time.Time) error {
	r.send.Method = "POST"
	r.send.Policy = defaultPolicy
	if err := r.openBody(); err != nil {
		return err
	}
	for {
		name, more, err := r.next()
		if err != nil {
			return err
		}
		if !more {
			break
		}
		if err := r.field(name); err != nil {
			return err
		}
	}
	if err := r.closeBody("object"); err != nil {
		return err
	}
	return r.finish(header, now)
}

func (r *sendRequest) field(name []byte) (err error) {
	switch string(name) {
	case "target":
		r.target, r.hasTarget, err = r.str("target")
	case "method":
		err = r.method()
	case "headers":
		err = r.headers()
	case "body":
		err = r.body()
	case "delivery":
		err = r.delivery()
	case "idempotency_key":
		r.key, _, err = r.str("idempotency_key")
	case "ordering_key":
		r.orderingKey, r.ordered, err = r.str("ordering_key")
	case "on_failure":
		err = r.failure()
	case "sign":
		r.send.Sign, _, err = r.boolean("sign")
	case "metadata":
		err = r.metadata()
	case "labels":
		err = r.labels()
	case "delay_ms":
		err = r.delayMillis()
	case "not_before":
		r.notBefore, err = r.date("not_before")
	case "expires_at":
		r.expiresAt, err = r.date("expires_at")
	case "flow_key":
		err = r.flowKey()
	case "rate":
		r.send.Flow.Rate, r.hasRate, err = r.laneRate("rate")
	case "parallelism":
		r.send.Flow.Parallelism, r.hasParallelism, err = r.laneParallelism("parallelism")
	default:
		err = r.skipUnknown(name)
	}
	return err
}

func (r *sendRequest) method() error {
	v, given, err := r.str("method")
	if err != nil || !given {
		return err
	}
	// Constants, so that the method needs no memory of the request's.
	switch string(v) {
	case "POST":
		r.send.Method = "POST"
	case "PUT":
		r.send.Method = "PUT"
	case "PATCH":
		r.send.Method = "PATCH"
	case "DELETE":
		r.send.Method = "DELETE"
	case "GET":
		r.send.Method = "GET"
	default:
		return invalid("method", quoted(v), "one of POST, PUT, PATCH, DELETE, GET")
	}
	return nil
}

func (r *sendRequest) headers() error {
	given, err := r.open("headers")
	if err != nil || !given {
		return err
	}
	total, count := 0, 0
	for {
		name, more, err := r.next()
		if err != nil || !more {
			return err
		}
		value, given, err := r.headerValue(name)
		if err != nil {
			return err
		}
		if !given {
			continue
		}
		count++
		total += len(name) + len(value)
		if count > r.o.Headers || total > r.o.HeadersBytes {
			return refused("headers", "more than "+strconv.Itoa(r.o.Headers)+" of them, or more than "+
				strconv.Itoa(r.o.HeadersBytes)+" bytes together")
		}
		r.header(alias(name), alias(value))
	}
}

// headerValue reads and checks one member of headers; false means null.
func (r *sendRequest) headerValue(name []byte) ([]byte, bool, error) {
	if !httpguts.ValidHeaderFieldName(alias(name)) {
		return nil, false, refused("headers", quoted(name)+" is not a legal header name")
	}
	v, err := r.value()
	if err != nil || v.Kind() == 'n' {
		return nil, false, err
	}
	if v.Kind() != '"' {
		return nil, false, invalid("headers."+clip(name), kindName(v), "a string")
	}
	value := r.unquote(v)
	if !httpguts.ValidHeaderFieldValue(alias(value)) {
		return nil, false, refused("headers."+clip(name), "its value has a line break or another control character")
	}
	return value, true, nil
}

func (r *sendRequest) header(name, value string) {
	if isStripped(name) {
		r.warn("header " + quoted([]byte(name)) + " is not forwarded")
		return
	}
	r.typed = r.typed || isContentType(name)
	r.send.Headers = append(r.send.Headers, engine.Header{Name: name, Value: value})
}

// body takes a string for the bytes it means, null for nothing, and every
// other value for the very bytes it was written in.
func (r *sendRequest) body() error {
	v, err := r.value()
	if err != nil {
		return err
	}
	switch v.Kind() {
	case 'n':
	case '"':
		r.send.Body = r.unquote(v)
	default:
		r.send.Body, r.jsonBody = v, true
	}
	return nil
}

func (r *sendRequest) delivery() error {
	given, err := r.open("delivery")
	if err != nil || !given {
		return err
	}
	for {
		name, more, err := r.next()
		if err != nil || !more {
			return err
		}
		if err := r.policyField(name); err != nil {
			return err
		}
	}
}

func (r *sendRequest) policyField(name []byte) (err error) {
	p := &r.send.Policy
	switch string(name) {
	case "max_attempts":
		n := int64(p.MaxAttempts)
		err = r.clamped("delivery.max_attempts", &n, minAttempts, maxAttempts)
		p.MaxAttempts = int(n)
	case "backoff":
		err = r.backoff(p)
	case "jitter":
		err = r.jitter(p)
	case "base_delay_ms":
		err = r.millis("delivery.base_delay_ms", &p.BaseDelay, minBaseDelay, maxBaseDelay)
	case "max_delay_ms":
		err = r.millis("delivery.max_delay_ms", &p.MaxDelay, minMaxDelay, maxMaxDelay)
	case "timeout_ms":
		err = r.millis("delivery.timeout_ms", &p.Timeout, minTimeout, maxTimeout)
	case "respect_retry_after":
		var v, given bool
		if v, given, err = r.boolean("delivery.respect_retry_after"); given {
			p.RespectRetryAfter = v
		}
	default:
		r.unknownField("delivery.", name)
		_, err = r.value()
	}
	return err
}

// clamped leaves n as it is when the value is null.
func (r *sendRequest) clamped(field string, n *int64, lowest, highest int64) error {
	v, given, err := r.whole(field)
	if given {
		*n = min(max(v, lowest), highest)
	}
	return err
}

func (r *sendRequest) millis(field string, d *time.Duration, lowest, highest int64) error {
	n := d.Milliseconds()
	err := r.clamped(field, &n, lowest, highest)
	*d = time.Duration(n) * time.Millisecond
	return err
}

func (r *sendRequest) backoff(p *engine.Policy) error {
	v, given, err := r.str("delivery.backoff")
	if err != nil || !given {
		return err
	}
	switch string(v) {
	case "exponential":
		p.Backoff = engine.BackoffExponential
	case "fixed":
		p.Backoff = engine.BackoffFixed
	default:
		return invalid("delivery.backoff", quoted(v), "exponential or fixed")
	}
	return nil
}

func (r *sendRequest) jitter(p *engine.Policy) error {
	v, given, err := r.str("delivery.jitter")
	if err != nil || !given {
		return err
	}
	switch string(v) {
	case "full":
		p.Jitter = engine.JitterFull
	case "none":
		p.Jitter = engine.JitterNone
	default:
		return invalid("delivery.jitter", quoted(v), "full or none")
	}
	return nil
}

func (r *sendRequest) metadata() error {
	v, err := r.value()
	switch {
	case err != nil:
		return err
	case v.Kind() == 'n':
		return nil
	case v.Kind() != '{':
		return invalid("metadata", kindName(v), "an object")
	case len(v) > r.o.MetadataBytes:
		return refused("metadata", "it is longer than "+strconv.Itoa(r.o.MetadataBytes)+" bytes")
	}
	r.send.Metadata = v
	return nil
}

func (r *sendRequest) labels() error {
	given, err := r.openArray("labels", "an array of strings")
	if err != nil || !given {
		return err
	}
	for {
		more, err := r.nextElement()
		if err != nil || !more {
			return err
		}
		v, err := r.value()
		if err != nil {
			return err
		}
		if v.Kind() != '"' {
			return invalid("labels["+strconv.Itoa(len(r.send.Labels))+"]", kindName(v), "a string")
		}
		label := r.unquote(v)
		chars, ok := isPrintable(label)
		switch {
		case !ok || chars == 0 || chars > r.o.LabelChars:
			return refused("labels", "each must be a string of 1 to "+strconv.Itoa(r.o.LabelChars)+
				" printable characters, without a space at either end")
		case len(r.send.Labels) == r.o.Labels:
			return refused("labels", "there are more than "+strconv.Itoa(r.o.Labels))
		}
		r.send.Labels = append(r.send.Labels, alias(label))
	}
}

func (r *sendRequest) delayMillis() error {
	n, given, err := r.whole("delay_ms")
	if err != nil || !given {
		return err
	}
	if n < 0 || n > r.o.MaxDelay.Milliseconds() {
		return invalid("delay_ms", strconv.FormatInt(n, 10), "from 0 to "+strconv.FormatInt(r.o.MaxDelay.Milliseconds(), 10))
	}
	r.delay = time.Duration(n) * time.Millisecond
	return nil
}

// date reads an RFC 3339 date; the zero time means null.
func (r *sendRequest) date(field string) (time.Time, error) {
	v, given, err := r.str(field)
	if err != nil || !given {
		return time.Time{}, err
	}
	t, ok := parseTime(alias(v))
	if !ok {
		return time.Time{}, invalid(field, quoted(v), "an RFC 3339 date such as 2026-06-10T14:22:10Z")
	}
	return t, nil
}

// finish checks what depends on more than one field.
func (r *sendRequest) finish(header []byte, now time.Time) error {
	if !r.hasTarget {
		return &problem{status: 400, message: "target is missing", detail: "target must be an https URL"}
	}
	var err error
	if r.send.Target, err = r.rules.parse(alias(r.target)); err != nil {
		return refused("target", err.Error())
	}
	if r.send.Method == "GET" {
		if len(r.send.Body) > 0 {
			r.warn("body ignored: a GET is sent without one")
		}
		r.send.Body, r.jsonBody = nil, false
	}
	if r.jsonBody && !r.typed {
		r.send.Headers = append(r.send.Headers, engine.Header{Name: "Content-Type", Value: "application/json"})
	}
	if err := r.idempotencyKey(header); err != nil {
		return err
	}
	if err := r.ordering(); err != nil {
		return err
	}
	if err := r.flow(); err != nil {
		return err
	}
	return r.schedule(now)
}

// idempotencyKey settles on the field or its alias, the HTTP header.
func (r *sendRequest) idempotencyKey(header []byte) error {
	key := r.key
	switch {
	case len(header) == 0:
	case len(key) == 0:
		key = header
	case string(key) != string(header):
		return refused("idempotency_key", "the field and the header Idempotency-Key differ")
	}
	chars, ok := isPrintable(key)
	if !ok || chars > r.o.IdempotencyKeyChars {
		return refused("idempotency_key", "it must have at most "+strconv.Itoa(r.o.IdempotencyKeyChars)+
			" printable characters, without a space at either end")
	}
	if r.key != nil && len(key) == 0 {
		r.warn("idempotency_key is empty, which is the same as none: a repetition is a new send")
	}
	r.send.IdempotencyKey = alias(key)
	return nil
}

// schedule brings delay_ms, not_before and expires_at together.
func (r *sendRequest) schedule(now time.Time) error {
	if r.delay > 0 {
		r.send.NotBefore = now.Add(r.delay)
	}
	if r.notBefore.Sub(now) > r.o.MaxDelay {
		return refused("not_before", "it is further ahead than "+r.o.MaxDelay.String())
	}
	// The later one wins; one that is past is the same as none.
	if r.notBefore.After(now) && r.notBefore.After(r.send.NotBefore) {
		r.send.NotBefore = r.notBefore
	}
	if r.expiresAt.IsZero() {
		return nil
	}
	if !r.expiresAt.After(now) || !r.expiresAt.After(r.send.NotBefore) {
		return refused("expires_at", "it is past, or not after the first attempt")
	}
	r.send.ExpiresAt = r.expiresAt
	return nil
}
