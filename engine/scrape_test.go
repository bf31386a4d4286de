package engine

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// blocksLoaded is how many bytes of blocks the state's reads have loaded, from
// disk or cache; not those of flushes and compactions.
func blocksLoaded(e *Engine) (n uint64) {
	for _, c := range e.state().Metrics().CategoryStats {
		if c.Category == 0 {
			n += c.CategoryStats.BlockBytes
		}
	}
	return n
}

// A scrape of the metrics costs the same however many deliveries there are: it
// reads nothing of the state, and makes as many allocations beside 5,000 pending
// deliveries as beside none.
func TestAScrapeReadsNothing(t *testing.T) {
	e := openEngine(t, testOptions(t, vfs.NewMem()))
	a, ctx := newAccount(t, e), context.Background()
	target := receiver(t, func(http.ResponseWriter, *http.Request) {})
	scrape := func() { e.WriteMetrics(io.Discard) }
	scrape()
	none := testing.AllocsPerRun(50, scrape)
	for n := range 10 {
		sends := make([]*Send, 500)
		for i := range sends {
			sends[i] = sendTo(target, fmt.Sprint(n, " ", i))
			sends[i].NotBefore = time.Now().Add(time.Hour)
		}
		for _, r := range sendBatch(e, a, sends...) {
			if r.Err != nil {
				t.Fatal(r.Err)
			}
		}
	}
	if err := e.state().Flush(); err != nil { // rows in memory are not counted
		t.Fatal(err)
	}
	before := blocksLoaded(e)
	if _, err := e.Deliveries(ctx, a, Filter{}, DeliveryID{}, 25); err != nil || blocksLoaded(e) == before {
		t.Fatalf("a page loads no blocks: nothing is measured; %v", err)
	}
	// What else goes on after a flush ends by itself; what a scrape does would not.
	awaitCondition(t, "scrapes beside 5,000 deliveries that read nothing of the state and do no more than beside none", func() bool {
		before := blocksLoaded(e)
		many := testing.AllocsPerRun(10, scrape)
		return blocksLoaded(e) == before && many < 2*none
	})
}
