package bench

import (
	"context"
	"fmt"

	"github.com/harepost/harepost/bench/report"
)

// NoisyTenant is the scenario "noisy-tenant": one account sends a hundred times
// what each of some others does, and then as fast as it is answered. What do the
// quiet ones notice? The processors are everybody's: so the same noise goes
// through a forwarder beside the engine, too, and what is left between the two
// is what the noise does inside the engine.
type NoisyTenant struct {
	Options
	Accounts         int     // quiet ones. Default: 10
	Quiet            float64 // sends a second of each of them. Default: 50; quick: 20
	QuietConnections int     // of all of them. Default: 16
	Times            float64 // how many times as much the noisy account sends. Default: 100
	NoisyConnections int     // Default: 64
	Flood            int     // connections of the flood, a closed loop. Default: 256; quick: 64
}

func (n *NoisyTenant) name() string { return "noisy-tenant" }

func (n *NoisyTenant) complete() error {
	setDefault(&n.Accounts, 10)
	setDefault(&n.Quiet, sized(&n.Options, 20.0, 50))
	setDefault(&n.QuietConnections, 16)
	setDefault(&n.Times, 100)
	setDefault(&n.NoisyConnections, 64)
	setDefault(&n.Flood, sized(&n.Options, 64, 256))
	setDefault(&n.Rounds, sized(&n.Options, 1, 3))
	if n.Accounts < 1 || n.Accounts > maxQuietAccounts {
		return fmt.Errorf("bench: %d quiet accounts, want 1 to %d", n.Accounts, maxQuietAccounts)
	}
	if err := atLeast(1, map[string]float64{"the quiet rate": n.Quiet * float64(n.Accounts), "the noisy rate": n.Quiet * n.Times}); err != nil {
		return err
	}
	if err := checkConnections(n.QuietConnections, n.NoisyConnections, n.Flood); err != nil {
		return err
	}
	if err := engineOnly(&n.Options); err != nil {
		return err
	}
	return n.Options.complete()
}

// maxQuietAccounts bounds the accounts that are made for each round.
const maxQuietAccounts = 10_000

// quietBeside is the quiet accounts' load beside something.
func (n *NoisyTenant) quietBeside(what string) report.Load {
	return report.Load{Axis: "quiet", Value: n.Quiet * float64(n.Accounts), Unit: "/s", Variant: what}
}

// noises are what is heard beside the quiet accounts; the first is nothing.
func (n *NoisyTenant) noises() []noise {
	rate := n.Quiet * n.Times
	noisy := openLoop(rate, n.NoisyConnections)
	at := func(variant string) report.Load {
		return report.Load{Axis: "noisy", Value: rate, Unit: "/s", Variant: variant}
	}
	return []noise{
		{quiet: "alone"},
		{quiet: "beside noise elsewhere", flows: []flow{{
			at: at("through a forwarder"), account: n.Accounts, forwarded: true, generator: noisy,
		}}},
		{quiet: "beside the noisy account", flows: []flow{{
			at: at(""), account: n.Accounts, generator: noisy,
		}}},
		{quiet: "beside a flood", flows: []flow{{
			at: report.Load{Axis: "flood", Value: float64(n.Flood), Unit: " connections"}, account: n.Accounts,
			generator: GeneratorOptions{Connections: n.Flood, Payload: FixedSize(300)},
		}}},
	}
}

// A noise is the traffic beside that of the quiet accounts.
type noise struct {
	quiet string // what the quiet accounts' rounds are called
	flows []flow
}

func (n *NoisyTenant) play(ctx context.Context, s *session) error {
	s.set("quiet accounts", fmt.Sprintf("%d, %g sends/s each", n.Accounts, n.Quiet))
	s.set("noisy account", fmt.Sprintf("%g sends/s", n.Quiet*n.Times))
	s.set("flood", fmt.Sprintf("one account, a closed loop of %d connections", n.Flood))
	s.note("The noise elsewhere takes a forwarder as many sends as the noisy account gives the engine: what the quiet accounts notice of it is the processors and the disk they share with it, not the engine.")
	noises := n.noises()
	for number := 1; number <= n.Rounds; number++ {
		for _, noise := range noises {
			quiet := flow{at: n.quietBeside(noise.quiet), accounts: n.Accounts, generator: openLoop(n.Quiet*float64(n.Accounts), n.QuietConnections)}
			if _, err := s.together(ctx, number, append([]flow{quiet}, noise.flows...), nil); err != nil {
				return err
			}
		}
	}
	alone := n.quietBeside(noises[0].quiet)
	for _, noise := range noises[1:] {
		for _, latency := range []string{latencyAnswer, latencyArrival} {
			name := fmt.Sprintf("quiet %s p99, %s against alone", latency, noise.quiet)
			s.besideAlone(name, n.quietBeside(noise.quiet), alone, percentile(latency, 99))
		}
	}
	for _, latency := range []string{latencyAnswer, latencyArrival} {
		name := fmt.Sprintf("quiet %s p99, %s against %s", latency, noises[2].quiet, noises[1].quiet)
		s.besideAlone(name, n.quietBeside(noises[2].quiet), n.quietBeside(noises[1].quiet), percentile(latency, 99))
	}
	return nil
}
