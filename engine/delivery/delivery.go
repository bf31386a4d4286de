package delivery

import "time"

// A Delivery is one accepted send with its history, as a reader sees it. The
// value is the caller's to keep; its strings and bytes alias immutable memory.
type Delivery struct {
	ID             ID
	Status         Status
	Target         string // the URL as given
	Host           string
	Method         string
	LastStatus     int // HTTP status of the last attempt, 0: none
	IdempotencyKey string
	OrderingKey    string // empty: none
	SkipFailed     bool   // the others of the key do not wait if this one ends dead
	CreatedAt      time.Time
	UpdatedAt      time.Time
	NextAttemptAt  time.Time // zero when final
	ExpiresAt      time.Time // zero: never
	MaxAttempts    int
	FlowKey        string // empty: none
	Lane           uint64 // within the account, see Record.Destination
	BodyBytes      int
	Metadata       []byte // raw JSON, nil: none
	Labels         []string
	Attempts       []Attempt
	WaitsForOrder  bool   // behind another of its key; only of a delivery that was looked up
	WaitingFor     string // why the next attempt is not under way; empty: it is, or there is none

	// Only when asked for.
	Headers     []Header
	Body        []byte
	BodyDropped bool // retention has taken the body
}

// View decodes a row into a delivery, without its body. Strings and bytes
// alias the row's.
func View(status Status, w *Row) (Delivery, error) {
	var rec Record
	if err := w.DecodeRecord(&rec); err != nil {
		return Delivery{}, err
	}
	attempts, err := w.DecodeAttempts()
	if err != nil {
		return Delivery{}, err
	}
	d := Delivery{
		ID:             rec.ID,
		Status:         status,
		Target:         rec.Target.URL,
		Host:           rec.Target.Host,
		Method:         rec.Method,
		IdempotencyKey: rec.IdempotencyKey,
		OrderingKey:    rec.OrderingKey,
		SkipFailed:     rec.SkipFailed,
		CreatedAt:      rec.ID.Time(),
		UpdatedAt:      time.UnixMilli(w.UpdatedAt).UTC(),
		MaxAttempts:    rec.Policy.MaxAttempts,
		FlowKey:        rec.FlowKey,
		Lane:           rec.Destination(),
		BodyBytes:      rec.BodyBytes,
		Metadata:       rec.Metadata,
		Labels:         rec.Labels,
		Headers:        rec.Headers,
		Attempts:       attempts,
	}
	if rec.ExpiresAt != 0 {
		d.ExpiresAt = time.UnixMilli(rec.ExpiresAt).UTC()
	}
	if n := len(attempts); n > 0 {
		d.LastStatus = attempts[n-1].HTTPStatus
	}
	if !status.Final() {
		d.NextAttemptAt = time.UnixMilli(w.NextDue(&rec, attempts)).UTC()
	}
	return d, nil
}

// NextDue is when the next attempt of a pending delivery is due, in Unix
// milliseconds.
func (w *Row) NextDue(rec *Record, attempts []Attempt) int64 {
	n := len(attempts)
	switch {
	case w.Replayed && n == w.Base:
		return w.ReplayDue
	case n > 0:
		return attempts[n-1].NextAttemptAt.UnixMilli()
	}
	return rec.NotBefore
}

// A Filter selects deliveries; a zero field selects all.
type Filter struct {
	Status         Status
	TargetPrefix   string
	Host           string
	Label          string
	IdempotencyKey string
	OrderingKey    string
	Since, Until   time.Time // Since <= CreatedAt < Until
	Dead           bool      // dead letters only: dead_letter and rejected
	Pending        bool      // queued and retrying only
}

// Wants reports whether deliveries of a status can pass the filter.
func (f *Filter) Wants(s Status) bool {
	return (f.Status == 0 || f.Status == s) && (!f.Dead || s.Dead()) && (!f.Pending || !s.Final())
}

// Match reports whether d passes the filter.
func (f *Filter) Match(d *Delivery) bool {
	switch {
	case !f.Wants(d.Status),
		len(f.TargetPrefix) > len(d.Target) || d.Target[:len(f.TargetPrefix)] != f.TargetPrefix,
		f.Host != "" && d.Host != f.Host,
		f.IdempotencyKey != "" && d.IdempotencyKey != f.IdempotencyKey,
		f.OrderingKey != "" && d.OrderingKey != f.OrderingKey,
		!f.Since.IsZero() && d.CreatedAt.Before(f.Since),
		!f.Until.IsZero() && !d.CreatedAt.Before(f.Until):
		return false
	}
	if f.Label == "" {
		return true
	}
	for _, l := range d.Labels {
		if l == f.Label {
			return true
		}
	}
	return false
}

// A Page is one page of a list, newest first. Next is the id to go on after,
// zero on the last page. A page may hold fewer deliveries than asked for, even
// none, while Next is not zero: a filter that matches little is bounded by the
// rows that a page may examine.
type Page struct {
	Deliveries []Delivery
	Next       ID
}
