package bench

import (
	"context"
	"fmt"
	"time"

	"github.com/harepost/harepost/bench/report"
)

// ManyHosts is the scenario "many-hosts": as many destinations as a busy service
// has, each of which gets a delivery now and then.
type ManyHosts struct {
	Options
	Hosts       int  // Default: 100,000; quick: 2,000
	HTTPS       bool // instead of http
	Addresses   bool // the hosts have addresses and no names
	Connections int  // of the generator, a closed loop. Default: 256; quick: 64
}

func (m *ManyHosts) name() string { return "many-hosts" }

func (m *ManyHosts) complete() error {
	setDefault(&m.Hosts, sized(&m.Options, 2000, 100_000))
	setDefault(&m.Connections, sized(&m.Options, 64, 256))
	setDefault(&m.Duration, sized(&m.Options, 4*time.Second, time.Minute))
	if m.Hosts < 1 || m.Hosts > maxReceiverHosts {
		return fmt.Errorf("bench: %d hosts, want 1 to %d", m.Hosts, maxReceiverHosts)
	}
	if err := checkConnections(m.Connections); err != nil {
		return err
	}
	if err := engineOnly(&m.Options); err != nil {
		return err
	}
	return m.Options.complete()
}

func (m *ManyHosts) play(ctx context.Context, s *session) error {
	receiver, scheme := ReceiverOptions{Hosts: m.Hosts, Names: !m.Addresses}, "http"
	if m.HTTPS {
		receiver.TLSTargets, scheme = 1, "https"
	}
	known := fmt.Sprintf("by names that a name server of the harness tells, each for %d s", nameTTL)
	if m.Addresses {
		known = "by addresses"
	}
	s.set("hosts", fmt.Sprintf("%d, %s, %s", m.Hosts, scheme, known))
	s.set("loop", fmt.Sprintf("closed, %d connections", m.Connections))
	at := report.Load{Axis: "hosts", Value: float64(m.Hosts)}
	err := s.interleave(ctx, plan{
		system: report.Engine, load: at, accounts: 1, receiver: receiver,
		generator: GeneratorOptions{
			Connections: m.Connections, Payload: FixedSize(300),
			Warmup: m.Warmup, Duration: m.Duration,
		},
	})
	if err != nil {
		return err
	}
	rounds := s.rounds(report.Engine, at)
	number := func(name string) float64 {
		return medianOf(rounds, func(r report.Round) float64 { return r.Values[name] })
	}
	s.find("deliveries to each host", number(report.Arrived)/float64(m.Hosts), "", report.Neither)
	most := func(name string) float64 {
		return medianOf(rounds, func(r report.Round) float64 { return mostOf(r.Timeline, name) })
	}
	s.find("most open connections", most(report.Open), "", report.Neither)
	s.find("most goroutines", most(report.Goroutines), "", report.Lower)
	s.find("most file descriptors", most(report.Descriptors), "", report.Lower)
	if !m.Addresses {
		s.find("most DNS questions/s", most(report.LookupRate), "", report.Lower)
		s.find("DNS questions to each host", number(report.Lookups)/float64(m.Hosts), "", report.Lower)
	}
	s.find("peak RSS per host", number(report.PeakRSS)/float64(m.Hosts), "B", report.Lower)
	return nil
}
