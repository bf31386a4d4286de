package engine

import (
	"context"
	"errors"
	"net/http"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/harepost/harepost/engine/delivery"
	"github.com/harepost/harepost/engine/lane"
	"github.com/harepost/harepost/engine/state"
)

// inFlow is a send that goes into a flow.
func inFlow(t Target, f Flow) *Send {
	s := sendTo(t, "x")
	s.Flow = f
	return s
}

// setFor is what is set for a flow.
func setFor(e *Engine, a AccountID, key string) lane.Setting {
	s, _ := e.state().Directory().Setting(state.Lane{Account: a, Destination: delivery.FlowDestination(key)})
	return s
}

// Of what sends say of their flow the latest counts, and what they do not say, or
// an operator has set, stays. It survives a restart.
func TestTheLatestSendLimitsItsFlow(t *testing.T) {
	fs := vfs.NewMem()
	o := testOptions(t, fs)
	e := openEngine(t, o)
	a := newAccount(t, e)
	ctx := context.Background()
	one := receiver(t, func(http.ResponseWriter, *http.Request) {})
	other := receiver(t, func(http.ResponseWriter, *http.Request) {})
	send := func(target Target, f Flow) Delivery {
		t.Helper()
		r, err := e.Send(ctx, a, inFlow(target, f))
		if err != nil {
			t.Fatal(err)
		}
		d, err := e.Delivery(ctx, a, r.ID, ReadOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	x, y := send(one, Flow{Key: "k", Rate: 1000}), send(other, Flow{Key: "k", Parallelism: 3})
	if x.Lane != y.Lane || x.FlowKey != "k" {
		t.Errorf("two targets with one flow key are in lanes %x and %x, key %q", x.Lane, y.Lane, x.FlowKey)
	}
	if z := send(one, Flow{}); z.Lane != one.Destination() || z.FlowKey != "" {
		t.Errorf("without a flow key the lane is %x, key %q, want that of the target", z.Lane, z.FlowKey)
	}
	want := lane.Setting{
		Account: a, Destination: x.Lane, Name: lane.Name{Kind: lane.Flow, Text: "k"}, Rate: 1000, Parallelism: 3,
	}
	check := func() {
		t.Helper()
		if got := setFor(e, a, "k"); got != want {
			t.Errorf("set is %+v, want %+v", got, want)
		}
	}
	check()
	results := make([]SendResult, 3)
	e.SendBatch(ctx, a, []*Send{
		inFlow(one, Flow{Key: "k", Rate: 500}), inFlow(one, Flow{Key: "k", Rate: 700, Parallelism: 9}), inFlow(one, Flow{Key: "k"}),
	}, results)
	want.Rate, want.Parallelism = 700, 9
	check()

	want.PinnedRate, want.Rate = true, 50
	if err := e.putLanes(ctx, 1, []lane.Setting{want}); err != nil {
		t.Fatal(err)
	}
	send(one, Flow{Key: "k", Rate: 900, Parallelism: 4})
	want.Parallelism = 4
	check()

	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	e = openEngine(t, o)
	check()
}

// A send that was accepted before is not the latest: a sender who tries again says
// nothing new of the flow.
func TestARepeatedSendDoesNotLimitItsFlow(t *testing.T) {
	e := openEngine(t, testOptions(t, vfs.NewMem()))
	a := newAccount(t, e)
	ctx := context.Background()
	target := receiver(t, func(http.ResponseWriter, *http.Request) {})
	keyed := func(key string, rate float64) *Send {
		s := inFlow(target, Flow{Key: "k", Rate: rate})
		s.IdempotencyKey = key
		return s
	}
	for _, s := range []*Send{keyed("first", 1000), keyed("second", 2000)} {
		if _, err := e.Send(ctx, a, s); err != nil {
			t.Fatal(err)
		}
	}
	if r, err := e.Send(ctx, a, keyed("first", 1000)); err != nil || !r.Duplicate {
		t.Fatalf("%+v, %v, want a duplicate", r, err)
	}
	if got := setFor(e, a, "k").Rate; got != 2000 {
		t.Errorf("after a repeated send the rate is %v, want 2000", got)
	}
	results := make([]SendResult, 2)
	e.SendBatch(ctx, a, []*Send{keyed("first", 1000), keyed("third", 3000)}, results)
	e.SendBatch(ctx, a, []*Send{keyed("second", 2000)}, results)
	if got := setFor(e, a, "k").Rate; got != 3000 || !results[0].Receipt.Duplicate {
		t.Errorf("after a batch of repeated sends the rate is %v, want 3000; %+v", got, results[0])
	}
}

// A send that says what is so already costs no command.
func TestOnlyAChangeOfAFlowIsACommand(t *testing.T) {
	for _, c := range []struct {
		flow    Flow
		setting lane.Setting
		changes bool
	}{
		{Flow{Rate: 5}, lane.Setting{}, true},
		{Flow{Rate: 5}, lane.Setting{Rate: 5, Parallelism: 2}, false},
		{Flow{Rate: 5, Parallelism: 3}, lane.Setting{Rate: 5, Parallelism: 2}, true},
		{Flow{Rate: 6, Parallelism: 3}, lane.Setting{Rate: 5, PinnedRate: true, Parallelism: 3}, false},
		{Flow{Rate: 6, Parallelism: 3}, lane.Setting{PinnedRate: true, PinnedParallelism: true}, false},
	} {
		if s := c.setting; c.flow.change(&s) != c.changes {
			t.Errorf("%+v of %+v: changes %t, want %t", c.flow, c.setting, !c.changes, c.changes)
		}
	}
}

func TestSettingsOfAnAccountAreBounded(t *testing.T) {
	o := testOptions(t, vfs.NewMem())
	o.SettingsPerAccount = 2
	e := openEngine(t, o)
	a := newAccount(t, e)
	ctx := context.Background()
	target := receiver(t, func(http.ResponseWriter, *http.Request) {})
	results := make([]SendResult, 4)
	e.SendBatch(ctx, a, []*Send{
		inFlow(target, Flow{Key: "a", Rate: 1000}), inFlow(target, Flow{Key: "b", Rate: 1000}),
		inFlow(target, Flow{Key: "c", Rate: 1000}), inFlow(target, Flow{Key: "c"}),
	}, results)
	for i, want := range []error{nil, nil, ErrTooMany, nil} {
		if !errors.Is(results[i].Err, want) {
			t.Errorf("send %d of the batch: %v, want %v", i, results[i].Err, want)
		}
	}
	if _, err := e.Send(ctx, a, inFlow(target, Flow{Key: "c", Rate: 1000})); !errors.Is(err, ErrTooMany) {
		t.Errorf("a third flow with a rate: %v, want ErrTooMany", err)
	}
	if _, err := e.Send(ctx, a, inFlow(target, Flow{Key: "a", Rate: 2000})); err != nil {
		t.Errorf("a change at the bound: %v", err)
	}
	other := newAccount(t, e)
	if _, err := e.Send(ctx, other, inFlow(target, Flow{Key: "c", Rate: 1000})); err != nil {
		t.Errorf("another account's: %v", err)
	}
}
