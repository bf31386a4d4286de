package bench

import (
	"context"
	"fmt"
	"time"

	"github.com/harepost/harepost/bench/report"
)

// Soak is the scenario "soak": a mixed load for a long time. What grows?
type Soak struct {
	Options
	Rate        float64 // sends a second. Default: 1,000; quick: 300
	Hosts       int     // Default: 100
	Accounts    int     // Default: 10
	Connections int     // of the generator. Default: 64
	Payload     Sizes   // Default: lognormal, 300 bytes in the middle and up to 64 KiB
	Seed        uint64  // Default: 1
}

func (k *Soak) name() string { return "soak" }

func (k *Soak) complete() error {
	setDefault(&k.Rate, sized(&k.Options, 300.0, 1000))
	setDefault(&k.Hosts, 100)
	setDefault(&k.Accounts, 10)
	setDefault(&k.Connections, 64)
	setDefault(&k.Seed, 1)
	setDefault(&k.Duration, sized(&k.Options, 15*time.Second, time.Hour))
	setDefault(&k.Rounds, 1)
	if k.Payload.at == nil {
		var err error
		if k.Payload, err = ParseSizes("lognormal:300,p99=16KiB"); err != nil {
			return err
		}
	}
	if err := atLeast(1, map[string]float64{"the rate": k.Rate, "hosts": float64(k.Hosts), "accounts": float64(k.Accounts)}); err != nil {
		return err
	}
	if err := checkConnections(k.Connections); err != nil {
		return err
	}
	if err := engineOnly(&k.Options); err != nil {
		return err
	}
	return k.Options.complete()
}

// soakMix are the behaviours of a soak's targets, each with its weight.
var soakMix = []struct {
	behaviour string
	weight    int
}{
	{"", 14},
	{"group=1,delay=exp:50ms", 3},
	{"group=2,fail=0.2:503", 1},
	{"group=3,fail=0.2:reset", 1},
	{"group=4,drip=10:5ms", 1},
}

func (k *Soak) play(ctx context.Context, s *session) error {
	s.set("load", fmt.Sprintf("%g sends/s, Poisson, of %d accounts to %d hosts", k.Rate, k.Accounts, k.Hosts))
	s.set("payload", k.Payload)
	s.set("targets", "of 20: 14 healthy, 3 slow (exponential, 50 ms), 1 failing a fifth with 503, 1 resetting a fifth, 1 dripping its answers")
	s.set("measured", k.Duration)
	if k.Duration < 10*time.Minute {
		s.note("Within %s caches fill: what grows then says nothing about an hour.", k.Duration)
	}
	f := flow{
		at: report.Load{Axis: "rate", Value: k.Rate, Unit: "/s"}, receiver: ReceiverOptions{Hosts: k.Hosts, Seed: k.Seed},
		accounts: k.Accounts, generator: openLoop(k.Rate, k.Connections), targets: mixTargets,
	}
	f.generator.Payload, f.generator.Poisson, f.generator.Seed = k.Payload, true, k.Seed
	f.generator.Delivery = `{"max_attempts":25,"max_delay_ms":5000}`
	var descriptors series
	for number := 1; number <= k.Rounds; number++ {
		all, err := s.together(ctx, number, []flow{f}, func(ctx context.Context, all []*flowing) (err error) {
			descriptors, err = countDescriptors(ctx, all[0].stage.system.pid, k.Warmup+k.Duration)
			return err
		})
		if err != nil {
			return err
		}
		k.trends(s, all[0].round.Timeline, descriptors)
	}
	return nil
}

// mixTargets gives every host each behaviour, as often as its weight says. Hosts
// and behaviours both take turns, so that any stretch of them has the mix.
func mixTargets(hosts []string) (targets []string) {
	var behaviours []string
	for _, b := range soakMix {
		for range b.weight {
			behaviours = append(behaviours, b.behaviour)
		}
	}
	for turn := range behaviours {
		for i, h := range hosts {
			if b := behaviours[(turn+i)%len(behaviours)]; b != "" {
				h += behaviourPrefix[1:] + b + "/"
			}
			targets = append(targets, h)
		}
	}
	return targets
}

// trends finds how fast the process grows. The first quarter does not count:
// caches fill in it.
func (k *Soak) trends(s *session, timeline []report.Sample, descriptors series) {
	for _, of := range []struct {
		name, metric, unit string
	}{
		{"RSS", report.RSS, "B"},
		{"Go heap", report.HeapBytes, "B"},
		{"CPU per delivery", report.CPU, "µs"},
	} {
		var v series
		for _, sample := range timeline {
			if n, ok := sample.Values[of.metric]; ok {
				v.add(time.Duration(sample.AtMS)*time.Millisecond, n)
			}
		}
		s.find(of.name+", growth an hour", v.slope()*3600, of.unit, report.Lower)
		s.find(of.name+" at the end", v.last(), of.unit, report.Lower)
	}
	s.find("file descriptors, growth an hour", descriptors.slope()*3600, "", report.Lower)
	s.find("file descriptors at most", descriptors.most(), "", report.Lower)
}
