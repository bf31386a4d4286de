package engine

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/harepost/harepost/engine/delivery"
	"github.com/harepost/harepost/engine/lane"
	"github.com/harepost/harepost/engine/state"
)

func refTo(t Target) DestinationRef {
	return DestinationRef{Scheme: t.Scheme, Host: t.Host, Port: t.Port}
}

// A pause and limits survive a restart: nothing is started in between, and what
// waits is seen before and after.
func TestSettingsSurviveARestart(t *testing.T) {
	fs := vfs.NewMem()
	o := testOptions(t, fs)
	e := openEngine(t, o)
	a := newAccount(t, e)
	ctx := context.Background()
	asked := make(chan struct{}, 10)
	target := receiver(t, func(http.ResponseWriter, *http.Request) { asked <- struct{}{} })
	yes, no, rate := true, false, 2000.0
	if _, err := e.ChangeDestinations(ctx, a, refTo(target), DestinationChange{Paused: &yes, Rate: &rate}); err != nil {
		t.Fatal(err)
	}
	r, err := e.Send(ctx, a, sendTo(target, "x"))
	if err != nil {
		t.Fatal(err)
	}
	look := func() {
		t.Helper()
		list, err := e.DestinationsOf(ctx, a, refTo(target))
		if err != nil || len(list) != 1 {
			t.Fatalf("%v, %v", list, err)
		}
		d := list[0]
		if d.Pending != 1 || d.InFlight != 0 || !d.Paused || d.Rate != rate || d.WaitingFor != "paused" || d.Name != lane.HostName(&target) {
			t.Errorf("the paused destination is %+v", d)
		}
		got, err := e.Delivery(ctx, a, r.ID, ReadOptions{})
		if err != nil || got.WaitingFor != "paused" {
			t.Errorf("the delivery waits for %q, %v", got.WaitingFor, err)
		}
	}
	look()
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	e = openEngine(t, o)
	look()
	if len(asked) > 0 {
		t.Error("an attempt was made of a paused destination")
	}
	if _, err := e.ChangeDestinations(ctx, a, refTo(target), DestinationChange{Paused: &no}); err != nil {
		t.Fatal(err)
	}
	if d := await(t, e, a, r.ID); d.Status != StatusDelivered || d.WaitingFor != "" {
		t.Errorf("resumed: %s, waits for %q", d.Status, d.WaitingFor)
	}
}

// A deleted account's settings are gone with it.
func TestSettingsEndWithTheirAccount(t *testing.T) {
	e := openEngine(t, testOptions(t, vfs.NewMem()))
	a := newAccount(t, e)
	ctx := context.Background()
	yes := true
	ref := DestinationRef{FlowKey: "k"}
	if _, err := e.ChangeDestinations(ctx, a, ref, DestinationChange{Paused: &yes}); err != nil {
		t.Fatal(err)
	}
	if err := e.DeleteAccount(ctx, a); err != nil {
		t.Fatal(err)
	}
	if list, err := e.DestinationsOf(ctx, a, ref); err == nil {
		t.Errorf("still there: %+v", list)
	}
	if _, err := e.ChangeDestinations(ctx, a, ref, DestinationChange{Paused: &yes}); err != ErrUnauthorized {
		t.Errorf("a change: %v, want ErrUnauthorized", err)
	}
}

// What is pending in a lane is counted in memory and on disk.
func TestPendingIsWhatIsInMemoryAndOnDisk(t *testing.T) {
	o := testOptions(t, vfs.NewMem())
	o.State.YoungDeliveries = 5 // the others go into the disk queue
	e := openEngine(t, o)
	a := newAccount(t, e)
	ctx := context.Background()
	target := receiver(t, func(http.ResponseWriter, *http.Request) {})
	yes := true
	if _, err := e.ChangeDestinations(ctx, a, refTo(target), DestinationChange{Paused: &yes}); err != nil {
		t.Fatal(err)
	}
	sends := make([]*Send, 50)
	for i := range sends {
		sends[i] = sendTo(target, fmt.Sprint(i))
	}
	for _, r := range sendBatch(e, a, sends...) {
		if r.Err != nil {
			t.Fatal(r.Err)
		}
	}
	awaitCondition(t, "50 pending", func() bool {
		list, err := e.DestinationsOf(ctx, a, refTo(target))
		return err == nil && len(list) == 1 && list[0].Pending == 50
	})
	awaitCondition(t, "some of them on disk", func() bool { // the senders are answered before
		b, ok := e.state().Backlog(state.Lane{Account: a, Destination: target.Destination()})
		return ok && b.Pending > 0
	})
}

// Metrics tell the lanes with the most pending apart, and count the others.
func TestMetricsOfLanes(t *testing.T) {
	e := openEngine(t, testOptions(t, vfs.NewMem()))
	a := newAccount(t, e)
	ctx := context.Background()
	yes := true
	const lanes = topLanes + 5
	for i := range lanes {
		f := Flow{Key: fmt.Sprintf("flow-%02d", i)}
		if _, err := e.ChangeDestinations(ctx, a, DestinationRef{FlowKey: f.Key}, DestinationChange{Paused: &yes}); err != nil {
			t.Fatal(err)
		}
		target := Target{URL: "http://127.0.0.1:9/", Scheme: "http", Host: "127.0.0.1", Port: 9, URI: "/"}
		for range i + 1 {
			if _, err := e.Send(ctx, a, inFlow(target, f)); err != nil {
				t.Fatal(err)
			}
		}
	}
	e.lookAtLanes()
	var b bytes.Buffer
	e.WriteMetrics(&b)
	text := b.String()
	for i := range lanes {
		line := fmt.Sprintf("harepost_lane_pending{account=%q,destination=\"flow:flow-%02d\"} %d\n", a.String(), i, i+1)
		if strings.Contains(text, line) != (i >= lanes-topLanes) {
			t.Errorf("metrics have %q: %t", line, !(i >= lanes-topLanes))
		}
	}
	for _, name := range []string{"harepost_lane_in_flight", "harepost_lane_oldest_due_age_seconds"} {
		if n := strings.Count(text, name+"{account="); n != topLanes {
			t.Errorf("%s is there %d times, want %d", name, n, topLanes)
		}
	}
	if want := fmt.Sprintf("harepost_lanes_paused %d\n", lanes); !strings.Contains(text, want) {
		t.Errorf("metrics do not have %q", want)
	}
}

// The memory of lanes is bounded, and keeps what is used.
func TestLaneMemoryIsBounded(t *testing.T) {
	var m laneMemory
	rec := delivery.Record{Method: "POST", Target: Target{URL: "https://a.example/", Scheme: "https", Host: "a.example", Port: 443, URI: "/"}}
	record := delivery.AppendRecord(nil, &rec)
	used := state.Lane{Account: 1, Destination: 1}
	m.failed(used, &rec, &Attempt{Error: "timeout: of 10s", CreatedAt: time.UnixMilli(5)})
	for i := range uint64(3 * laneGeneration) {
		m.learn(state.Lane{Account: 2, Destination: i}, record)
		if i%1000 == 0 {
			m.learn(used, nil)
		}
	}
	if n := len(m.young) + len(m.old); n > 2*laneGeneration {
		t.Errorf("%d lanes are remembered, want at most %d", n, 2*laneGeneration)
	}
	note, ok := m.of(used)
	if !ok || note.name != lane.HostName(&rec.Target) || note.error.Code != "timeout" {
		t.Errorf("a lane in use is remembered as %+v", note)
	}
	if _, ok := m.of(state.Lane{Account: 2, Destination: 0}); ok {
		t.Error("the first of the others is still remembered")
	}
}

// A page has what sorting all of them would put there, in whatever order they come.
func TestPageOfDestinations(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	rnd := rand.New(rand.NewPCG(seed, 0))
	for range 200 {
		p := destinationPage{query: DestinationQuery{ByPending: rnd.IntN(2) == 0, Limit: 1 + rnd.IntN(5)}}
		var all []Destination
		for id := range rnd.IntN(40) {
			all = append(all, Destination{ID: uint64(id + 1), Pending: rnd.Int64N(4), OldestDue: time.UnixMilli(rnd.Int64N(3))})
		}
		rnd.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		for i := range all {
			p.take(&all[i])
		}
		got, next := p.done()
		slices.SortFunc(all, func(x, y Destination) int { return p.compare(&x, &y) })
		want := all[:min(p.query.Limit, len(all))]
		if !slices.Equal(got, want) || (next != 0) != (len(want) < len(all) && !p.query.ByPending) {
			t.Fatalf("seed %d: page %v, next %d of %v", seed, got, next, all)
		}
	}
}
