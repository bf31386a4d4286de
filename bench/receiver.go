package bench

import (
	"sync/atomic"

	"github.com/valyala/fasthttp"

	"github.com/harepost/harepost/bench/report"
)

// ReceiverOptions configure a Receiver.
type ReceiverOptions struct {
	// Run is the run whose marks are counted; all others are strangers.
	Run uint32
	// Targets is the number of listeners: each is a destination of its own to
	// the engine. Default 1.
	Targets int
	// Listen is the host, or host:port, to listen on. Default 127.0.0.1.
	Listen string
}

// A Receiver answers every request with 200 and counts the marks in the
// payloads: how many sends arrived, how many of them again.
type Receiver struct {
	run    uint32
	server *server

	seen    *sequenceSet
	latency atomic.Pointer[latencyRecorder] // replaced when measuring begins

	arrived    atomic.Uint64 // distinct marks of this run
	duplicates atomic.Uint64 // arrivals of a mark that had arrived before
	strangers  atomic.Uint64 // payloads without a mark of this run
	last       atomic.Int64  // moment of the newest first arrival
}

// ReceiverCounts is what has arrived up to the moment At.
type ReceiverCounts struct {
	At         moment `json:"at"`
	Arrived    uint64 `json:"arrived"`
	Duplicates uint64 `json:"duplicates"`
	Strangers  uint64 `json:"strangers"`
}

// receiverReport is the end of a round: everything a Receiver knows.
type receiverReport struct {
	ReceiverCounts
	Seen        sequences           `json:"seen"`
	LastArrival moment              `json:"last_arrival"`
	Latency     report.Distribution `json:"latency"`
}

// NewReceiver listens on free ports of 127.0.0.1 and serves until Close.
func NewReceiver(o ReceiverOptions) (*Receiver, error) {
	r := &Receiver{run: o.Run, seen: newSequenceSet()}
	r.latency.Store(newLatencyRecorder())
	var err error
	if r.server, err = serveOn("receiver", o.Listen, max(o.Targets, 1), r.handle); err != nil {
		return nil, err
	}
	return r, nil
}

// Targets returns the URLs that deliveries may go to.
func (r *Receiver) Targets() []string {
	var urls []string
	for _, l := range r.server.listeners {
		urls = append(urls, "http://"+l.Addr().String()+"/")
	}
	return urls
}

func (r *Receiver) handle(ctx *fasthttp.RequestCtx) {
	m, ok := readMark(ctx.PostBody())
	if !ok || m.Run != r.run || m.Sequence >= maxSends {
		r.strangers.Add(1)
		return
	}
	if !r.seen.add(m.Sequence) {
		r.duplicates.Add(1)
		return
	}
	at := now()
	r.last.Store(int64(at)) // a race may leave the second newest: microseconds
	r.arrived.Add(1)
	r.latency.Load().record(m.Sequence, at.sub(m.SentAt))
}

// Counts returns what has arrived so far.
func (r *Receiver) Counts() ReceiverCounts {
	return ReceiverCounts{
		At:         now(),
		Arrived:    r.arrived.Load(),
		Duplicates: r.duplicates.Load(),
		Strangers:  r.strangers.Load(),
	}
}

// Measure forgets the latencies recorded so far, those of the warm-up.
func (r *Receiver) Measure() { r.latency.Store(newLatencyRecorder()) }

func (r *Receiver) report() receiverReport {
	return receiverReport{
		ReceiverCounts: r.Counts(),
		Seen:           r.seen.export(),
		LastArrival:    moment(r.last.Load()),
		Latency:        r.latency.Load().distribution(),
	}
}

// Close stops listening and closes the connections once their requests are
// answered. It may be called twice.
func (r *Receiver) Close() error {
	return r.server.close()
}
