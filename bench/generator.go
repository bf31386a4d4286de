package bench

import (
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/harepost/harepost/bench/report"
)

// GeneratorOptions say what load to make.
type GeneratorOptions struct {
	// URL of the system under load: scheme, host and port.
	URL string `json:"url,omitempty"`
	// CA is the PEM text of certificate authorities that are trusted beside those of
	// the system.
	CA string `json:"ca,omitempty"`
	// Direct posts the payloads to the targets themselves, as somebody would who
	// has no system between. Then URL, Keys, Batch, Repeat and Delivery say nothing.
	Direct bool `json:"direct,omitempty"`

	// Keys are API keys, one of each account; sends take turns. None: no header.
	Keys []string `json:"keys,omitempty"`
	// Targets are the URLs to send to; the sends of an account take turns, and a
	// URL that is there twice gets twice as much. A direct POST goes to that of its
	// connection.
	Targets []string `json:"targets"`

	// Connections to the system, one request under way on each. In an open loop
	// they bound what is under way: what is due beyond it waits, and its waiting
	// is part of its latency.
	Connections int `json:"connections"`
	// Rate is that of an open loop, in sends a second. Zero: a closed loop, in
	// which each connection sends as soon as it has its answer.
	Rate    Rate `json:"rate"`
	Poisson bool `json:"poisson,omitempty"` // arrivals at random instead of evenly

	Batch   int     `json:"batch,omitempty"` // sends of a batch; 0: POST /v1/send
	Payload Sizes   `json:"payload"`
	Repeat  float64 `json:"repeat,omitempty"` // share of requests that repeat the last one, idempotency keys and all
	// OrderingKeys is how many ordering keys the sends have, in turns. 0: none.
	OrderingKeys int `json:"ordering_keys,omitempty"`
	// Delivery is the JSON of every send's "delivery", its policy. Empty: none.
	Delivery string `json:"delivery,omitempty"`

	Warmup   time.Duration `json:"warmup_ns"`   // load before the measuring begins
	Duration time.Duration `json:"duration_ns"` // of the measuring
	Run      uint32        `json:"run"`         // written into every mark
	Seed     uint64        `json:"seed"`        // of Poisson arrivals
}

const (
	// answerWait bounds how long the generator waits for one answer, and for the
	// backlog of an open loop at its end. The engine answers or refuses earlier.
	answerWait = 30 * time.Second
	// refusedPause is what a connection of a closed loop waits after 429 or 503:
	// less than the Retry-After of whole seconds, so that the load comes back
	// quickly, and long enough that refusals do not become the load. An open loop
	// goes by its schedule.
	refusedPause = 50 * time.Millisecond
	// failuresInRow is how many failed requests end a connection's work.
	failuresInRow = 10
	// progressEvery is how often the generator says how far it is.
	progressEvery = 200 * time.Millisecond
)

func (o GeneratorOptions) validate() error {
	switch {
	case len(o.Targets) == 0 || o.Connections < 1 || o.Duration <= 0:
		return fmt.Errorf("bench: generator: %d targets, %d connections, %s (at least 1, 1 and some time)", len(o.Targets), o.Connections, o.Duration)
	case o.Payload.at == nil:
		return errors.New("bench: generator: no payload sizes")
	case o.Batch < 0 || o.Batch > 50_000:
		return fmt.Errorf("bench: generator: batches of %d, want 1 to 50,000", o.Batch)
	case o.Direct && (o.Batch > 0 || o.Repeat > 0):
		return errors.New("bench: generator: a direct POST has no batches and no idempotency keys")
	case o.OrderingKeys < 0:
		return fmt.Errorf("bench: generator: %d ordering keys, want 0 or more", o.OrderingKeys)
	case !(o.Repeat >= 0 && o.Repeat < 1):
		return fmt.Errorf("bench: generator: a share of %g repetitions, want 0 to below 1", o.Repeat)
	}
	return nil
}

func (o GeneratorOptions) roots() (*x509.CertPool, error) {
	if o.CA == "" {
		return nil, nil
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		return nil, fmt.Errorf("bench: generator: the system's certificates: %w", err)
	}
	if !pool.AppendCertsFromPEM([]byte(o.CA)) {
		return nil, errors.New("bench: generator: no certificate in the PEM text of the authorities")
	}
	return pool, nil
}

// Generated says what a load did.
type Generated struct {
	// Attempted sends had the sequence numbers below it.
	Attempted uint64 `json:"attempted"`
	Accepted  uint64 `json:"accepted"`  // answered 202, each send once
	Refused   uint64 `json:"refused"`   // answered 429 or 503
	Unadvised uint64 `json:"unadvised"` // of those, without a Retry-After
	Failed    uint64 `json:"failed"`    // any other answer, or none
	Repeated  uint64 `json:"repeated"`  // made again on purpose
	// Unsent were due, and no connection was free until the end.
	Unsent uint64 `json:"unsent"`
	// FirstFailure is the first reason, for the report.
	FirstFailure string `json:"first_failure,omitempty"`

	PayloadBytes     uint64        `json:"payload_bytes"`     // of accepted sends
	MeasuredAccepted uint64        `json:"measured_accepted"` // answered while measuring, repetitions too
	MeasuredTime     time.Duration `json:"measured_ns"`
	Began            moment        `json:"began"`
	// AnswerLatency is of accepted requests: from when they were due in an open
	// loop, from when they were made in a closed one.
	AnswerLatency report.Distribution `json:"answer_latency"`
	// LateMax is how far the generator itself was behind its schedule: the most that
	// a request came late for which a connection was waiting.
	LateMax       time.Duration `json:"late_max_ns"`
	AcceptedMarks sequences     `json:"accepted_marks"`
}

// Generating is what a load has done so far.
type Generating struct {
	At        moment `json:"at"`
	Measuring bool   `json:"measuring,omitempty"` // the warm-up is over
	Measured  bool   `json:"measured,omitempty"`  // and the duration too: answers under way are waited for
	Attempted uint64 `json:"attempted"`
	Accepted  uint64 `json:"accepted"`
	Refused   uint64 `json:"refused"`
	Failed    uint64 `json:"failed"`
}
