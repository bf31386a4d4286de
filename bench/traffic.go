package bench

import (
	"errors"
	"fmt"

	"github.com/harepost/harepost/bench/report"
)

// A Traffic is what the sends of a scenario are like.
type Traffic struct {
	Payload  Sizes   // default: 300 bytes
	Accounts int     // default: 1
	Hosts    int     // destinations, each a port of the receiver. Default: 1
	Rate     Rate    // zero: a closed loop
	Poisson  bool    // with a Rate
	Repeat   float64 // share of requests that repeat the last one with its idempotency key
	Ordered  int     // ordering keys, which the sends have in turns. Default: none
	Seed     uint64  // default: 1
}

func (t *Traffic) defaultPayload() {
	if t.Payload.at == nil {
		t.Payload = FixedSize(300)
	}
}

func (t *Traffic) complete() error {
	setDefault(&t.Accounts, 1)
	setDefault(&t.Hosts, 1)
	setDefault(&t.Seed, 1)
	if t.Accounts < 1 || t.Accounts > 10_000 || t.Hosts < 1 || t.Hosts > maxHosts {
		return fmt.Errorf("bench: %d accounts and %d hosts, want 1 to 10,000 and 1 to %d", t.Accounts, t.Hosts, maxHosts)
	}
	if t.Poisson && t.Rate.IsZero() {
		return errors.New("bench: Poisson arrivals need a rate")
	}
	return nil
}

// plan is a round of a system under this load.
func (t *Traffic) plan(o *Options, system string, at report.Load, connections int) plan {
	hosts := t.Hosts
	if system == report.Direct {
		hosts = min(hosts, connections) // each of which goes to one
	}
	return plan{
		system: system, load: at, accounts: t.Accounts,
		receiver: ReceiverOptions{Targets: hosts},
		generator: GeneratorOptions{
			Connections: connections, Payload: t.Payload, Rate: t.Rate, Poisson: t.Poisson, Repeat: t.Repeat, OrderingKeys: t.Ordered,
			Warmup: o.Warmup, Duration: o.Duration, Seed: t.Seed,
		},
	}
}

// describe adds the load to the report's settings.
func (t *Traffic) describe(s *session) {
	loop := "closed"
	if !t.Rate.IsZero() {
		loop = "open, " + t.Rate.String() + " sends/s, evenly"
		if t.Poisson {
			loop = "open, " + t.Rate.String() + " sends/s, Poisson"
		}
	}
	s.set("loop", loop)
	if t.Payload.at != nil {
		s.set("payload", t.Payload)
	}
	s.set("accounts", t.Accounts)
	s.set("hosts", t.Hosts)
	if t.Repeat > 0 {
		s.set("repeated keys", t.Repeat)
	}
	if t.Ordered > 0 {
		s.set("ordering keys", t.Ordered)
	}
	s.set("warm-up", s.options.Warmup)
	s.set("measured", s.options.Duration)
}
