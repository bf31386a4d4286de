package main

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// A batchBook is what is known of the items of many batches, by the mark that
// each carries in its body.
type batchBook struct {
	t  *testing.T
	mu sync.Mutex

	ids        map[string]string // that a mark was answered with
	unanswered map[string]bool   // batches whose outcome nobody knows
	took       time.Duration     // until the last answer that was waited for came
}

func batchMark(batch string, i int) string { return fmt.Sprintf("%s/%d", batch, i) }

// answered notes the ids of a batch. None may be another than before.
func (b *batchBook) answered(batch string, ids []string, took time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if took > 0 {
		b.took = took
	}
	delete(b.unanswered, batch)
	for i, id := range ids {
		mark := batchMark(batch, i)
		if known := b.ids[mark]; known != "" && known != id {
			b.t.Errorf("%s was answered with %s, and then with %s", mark, known, id)
		}
		b.ids[mark] = id
	}
}

func (b *batchBook) lost(batch string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.unanswered[batch] = true
}

// A kill in the middle of batches: every item that was acknowledged is delivered,
// and a batch that is sent again, because nobody knows what became of it, makes
// no item twice.
func TestKillDuringBatches(t *testing.T) {
	t.Parallel()
	w := startCasualty(t)
	const batches, items = 8, 200
	book := &batchBook{t: t, ids: map[string]string{}, unanswered: map[string]bool{}}
	// Half of the batches have idempotency keys, and are sent until they are
	// answered twice. Nobody knows what became of the others, and nobody asks.
	lines := func(batch string, keyed bool) string {
		return batchOf(items, w.target("/in"), func(i int) string {
			fields := fmt.Sprintf(`"body":%q,"delivery":{"max_attempts":1}`, batchMark(batch, i))
			if keyed {
				fields += fmt.Sprintf(`,"idempotency_key":%q`, batchMark(batch, i))
			}
			return fields
		})
	}
	took := 10 * time.Millisecond // by a batch; a guess at first
	w.kills("a batch", 6, func(round int) bool {
		stop := w.watch()
		defer stop()
		var load sync.WaitGroup
		cut := make(chan string, batches)
		up := make(chan struct{})
		for b := range batches {
			batch, keyed := fmt.Sprintf("r%d-b%d", round, b), b%2 == 0
			begin := time.Duration(w.random.Int64N(int64(took)))
			load.Go(func() {
				<-time.After(begin)
				began := time.Now()
				c := w.trace("POST", "/v1/send/batch", w.key, lines(batch, keyed), nil)
				switch {
				case c.status == http.StatusAccepted:
					book.answered(batch, idsOf(c.answer), time.Since(began))
				case c.status != 0:
					t.Errorf("%s: %d %v", batch, c.status, c.answer)
				default:
					book.lost(batch)
					if c.wrote {
						cut <- batch
					}
				}
				<-up
				for range 2 {
					if keyed {
						book.answered(batch, w.sent(lines(batch, true)), 0)
					}
				}
			})
		}
		w.moment(2 * took)
		w.kill()
		w.start()
		close(up)
		stop()
		load.Wait()
		took = min(max(book.took, time.Millisecond), time.Second)
		return len(cut) > 0
	})
	w.drained()
	w.checkRepeats(t)
	w.mu.Lock()
	defer w.mu.Unlock()
	for mark, id := range book.ids {
		if len(w.seen[id]) == 0 {
			t.Errorf("%s, acknowledged as %s, never arrived", mark, id)
		}
	}
	made, unasked := map[string]string{}, map[string]int{}
	for id, all := range w.seen {
		mark := all[0].mark
		batch, _, _ := strings.Cut(mark, "/")
		switch {
		case made[mark] != "":
			t.Errorf("%s was made twice, as %s and %s", mark, made[mark], id)
		case book.ids[mark] != "" && book.ids[mark] != id:
			t.Errorf("%s was answered with %s and arrived as %s", mark, book.ids[mark], id)
		case book.ids[mark] == "" && !book.unanswered[batch]:
			t.Errorf("%s arrived as %s, of a batch that was answered without it", mark, id)
		case book.ids[mark] == "":
			unasked[batch]++
		}
		made[mark] = id
	}
	t.Logf("%d items were acknowledged; of the %d batches that nobody asked about again these were kept: %v", len(book.ids), len(book.unanswered), unasked)
}
