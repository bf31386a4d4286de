package bench

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/harepost/harepost/bench/report"
)

// besides sends at the constant rate while work goes on, and makes a round of it.
func (a *aftermath) besides(ctx context.Context, load report.Load, work func(context.Context) error) error {
	a.arrival.Store(newLatencyRecorder())
	answer := newLatencyRecorder()
	h := &fasthttp.HostClient{Addr: strings.TrimPrefix(a.engine.url, "http://"), MaxConns: freshSenders, MaxIdemponentCallAttempts: 1}
	defer h.CloseIdleConnections()
	stop := make(chan struct{})
	due := make(chan moment, 1<<16)
	var sending sync.WaitGroup
	var failed atomic.Int64
	for range freshSenders {
		sending.Go(func() {
			for at := range due {
				if !a.sendFresh(h, at) {
					failed.Add(1)
				}
				answer.record(uint32(at), now().sub(at))
			}
		})
	}
	var pacing sync.WaitGroup
	var sent int64
	pacing.Go(func() { sent = pace(a.o.FreshRate, due, stop) })
	err := work(ctx)
	close(stop)
	pacing.Wait()
	close(due)
	sending.Wait()
	// What is on its way belongs to this phase.
	cameBefore := a.freshSent
	a.freshSent += sent - failed.Load()
	underway, cancel := context.WithTimeout(ctx, arrivalWait)
	defer cancel()
	_ = a.until(underway, "fresh sends have arrived", func() (bool, error) { // what has not is lost
		return a.freshCame.Load() >= a.freshSent, nil
	})
	arrived := a.freshCame.Load() - cameBefore
	r := report.Round{
		System: report.Engine, Load: load, Number: 1,
		Values: map[string]float64{
			report.Accepted: float64(sent - failed.Load()),
			report.Failed:   float64(failed.Load()),
			report.Arrived:  float64(arrived),
			report.Lost:     float64(a.freshSent - cameBefore - arrived),
		},
		Latencies: map[string]report.Distribution{latencyAnswer: answer.distribution(), latencyArrival: a.arrival.Load().distribution()},
	}
	a.session.report.Rounds = append(a.session.report.Rounds, r)
	a.session.progress.round(r)
	return errors.Join(err, ctx.Err())
}

// arrivalWait is for how long an accepted send is waited for before it is lost.
const arrivalWait = time.Minute

// freshSenders is how many fresh sends may be on their way at once.
const freshSenders = 64

// pace says when each send is due, at the rate and whatever became of those before
// it, until stop; how many.
func pace(rate int, due chan<- moment, stop <-chan struct{}) (n int64) {
	begin, gap := now(), time.Second/time.Duration(rate)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-stop:
			return n
		case <-tick.C:
		}
		for at := begin + moment(time.Duration(n)*gap); at <= now(); at = begin + moment(time.Duration(n)*gap) {
			select {
			case due <- at:
				n++
			case <-stop:
				return n
			}
		}
	}
}

func (a *aftermath) sendFresh(h *fasthttp.HostClient, at moment) bool {
	req, resp := fasthttp.AcquireRequest(), fasthttp.AcquireResponse()
	defer fasthttp.ReleaseRequest(req)
	defer fasthttp.ReleaseResponse(resp)
	req.SetRequestURI(a.engine.url + "/v1/send")
	req.Header.SetMethod(fasthttp.MethodPost)
	req.Header.Set(fasthttp.HeaderAuthorization, "Bearer "+a.engine.keys[0])
	req.SetBodyString(fmt.Sprintf(`{"target":"http://%s/fresh","body":"%d"}`, a.target.listeners[1].Addr(), int64(at)))
	return h.Do(req, resp) == nil && resp.StatusCode() == fasthttp.StatusAccepted
}
