package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"testing"
	"time"
)

// A listPage is one page of GET /v1/deliveries.
type listPage struct {
	Data []struct {
		QueueID   string          `json:"queue_id"`
		Status    string          `json:"status"`
		CreatedAt time.Time       `json:"created_at"`
		Attempts  json.RawMessage `json:"attempts"`
	} `json:"data"`
	Next *string `json:"next_cursor"`
}

func (c *tenant) page(t testing.TB, query url.Values) (p listPage) {
	t.Helper()
	r := c.call(t, "GET", "/v1/deliveries?"+query.Encode(), "")
	object := r.want(http.StatusOK)
	if _, has := object["next_cursor"]; !has {
		t.Fatalf("no next_cursor, not even null: %s", r.body)
	}
	if err := json.Unmarshal(r.body, &p); err != nil {
		t.Fatalf("%v in %s", err, r.body)
	}
	return p
}

// ids of all pages, newest first. between is called before each next page.
func (c *tenant) list(t testing.TB, query url.Values, between func()) (ids []string) {
	t.Helper()
	query = maps.Clone(query)
	for {
		p := c.page(t, query)
		for _, d := range p.Data {
			ids = append(ids, d.QueueID)
		}
		if p.Next == nil {
			return ids
		}
		if len(p.Data) == 0 {
			t.Fatalf("a page with nothing on it and a next one: %v", query)
		}
		query.Set("cursor", *p.Next)
		between()
	}
}

func nothingBetween() {}

// queueMany queues n deliveries one after the other and returns their ids,
// newest first. fields says what the i-th has.
func (c *tenant) queueMany(t testing.TB, n int, target string, fields func(i int) string) []string {
	t.Helper()
	ids := make([]string, n)
	for i := range n {
		ids[n-1-i] = c.queue(t, target, fields(i))
	}
	return ids
}

// Pages of any size give the same list: everything once, newest first.
func TestPagesAreTheWholeListInOrder(t *testing.T) {
	t.Parallel()
	w := startWorld(t)
	acme := w.tenant(t, "acme").verified(t, "your-app.com")
	other := w.tenant(t, "other").verified(t, "your-app.com")
	in := w.inbox(t, "your-app.com", answers(200))
	if p := acme.page(t, nil); len(p.Data) != 0 || p.Next != nil {
		t.Errorf("the empty list: %+v", p)
	}
	other.queue(t, in.url, "")
	want := acme.queueMany(t, 250, in.url, func(int) string { return "" })
	other.queue(t, in.url, "")
	f := func(limit string, perPage int) {
		t.Helper()
		query := url.Values{}
		if limit != "" {
			query.Set("limit", limit)
		}
		if p := acme.page(t, query); len(p.Data) != perPage || p.Next == nil {
			t.Errorf("limit %q: the first page has %d, next is %v", limit, len(p.Data), p.Next)
		}
		if got := acme.list(t, query, nothingBetween); !slices.Equal(got, want) {
			t.Errorf("limit %q: %d deliveries, not the %d that were sent, newest first", limit, len(got), len(want))
		}
	}
	f("", 25)
	f("100", 100)
	f("50", 50) // the last page is full, and still says that it is the last
	f("99", 99)
	f("7", 7)
	f("101", 100)
	f("99999999999999999999", 100)
	if p := acme.page(t, url.Values{"limit": {"0"}}); len(p.Data) != 1 {
		t.Errorf("limit 0 gives %d", len(p.Data))
	}
	if p := acme.page(t, url.Values{"limit": {"-3"}}); len(p.Data) != 1 {
		t.Errorf("limit -3 gives %d", len(p.Data))
	}
	for _, d := range acme.page(t, nil).Data {
		var count int
		if err := json.Unmarshal(d.Attempts, &count); err != nil || count < 0 || count > 1 {
			t.Errorf("attempts of a list are a count, not %s", d.Attempts)
		}
	}
	acme.final(t, want[0])
	until(t, "the list counts the newest's attempt", func() (bool, string) {
		newest := acme.page(t, url.Values{"limit": {"1"}}).Data[0]
		return string(newest.Attempts) == "1" && newest.Status == "delivered", fmt.Sprintf("%+v", newest)
	})
}

// Who reads page after page while others send sees every older delivery once.
func TestPagesHoldStillWhileOthersSend(t *testing.T) {
	t.Parallel()
	w := startWorld(t)
	acme := w.tenant(t, "acme").verified(t, "your-app.com")
	in := w.inbox(t, "your-app.com", answers(200, 500)) // they also change ranges while they are listed
	want := acme.queueMany(t, 120, in.url, func(int) string { return `"delivery":{"max_attempts":1}` })
	newest := acme.list(t, url.Values{"limit": {"100"}}, nothingBetween)
	if !slices.Equal(newest, want) {
		t.Fatalf("%d deliveries before anybody else sends, want %d", len(newest), len(want))
	}
	stop := make(chan struct{})
	var senders sync.WaitGroup
	for range 3 {
		senders.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if r, err := w.try(t, "POST", "/v1/send", acme.key, sendBody(in.url, "")); err != nil || r.status != http.StatusAccepted {
					t.Errorf("send: %v %d %s", err, r.status, r.body)
					return
				}
			}
		})
	}
	for range 5 {
		grown := len(acme.page(t, url.Values{"limit": {"100"}}).Data)
		got := acme.list(t, url.Values{"limit": {"10"}}, func() {
			// Between two pages, something new is there.
			acme.queue(t, in.url, "")
		})
		first := slices.Index(got, want[0])
		if first < 0 || !slices.Equal(got[first:], want) {
			t.Errorf("of the %d that were there before, the pages had %d, or in another order (%d on the first page)", len(want), len(got)-first, grown)
		}
		seen := map[string]bool{}
		for _, id := range got {
			if seen[id] {
				t.Errorf("%s is on two pages", id)
			}
			seen[id] = true
		}
	}
	close(stop)
	senders.Wait()
}

// Each filter alone, and together.
func TestFilters(t *testing.T) {
	t.Parallel()
	w := startWorld(t)
	acme := w.tenant(t, "acme").verified(t, "your-app.com")
	good := w.inbox(t, "good.your-app.com", answers(200))
	bad := w.inbox(t, "bad.your-app.com", answers(404))
	down := w.inbox(t, "down.your-app.com", answers(503))

	const once, later = `"delivery":{"max_attempts":1}`, `"delivery":{"base_delay_ms":60000,"jitter":"none"}`
	red, blue := `"labels":["red","all"],`, `"labels":["blue","all"],`
	delivered := acme.queue(t, good.url+"/a/1", red+`"idempotency_key":"k1",`+once)
	delivered2 := acme.queue(t, good.url+"/a/2", blue+once)
	rejected := acme.queue(t, bad.url+"/a/1", red+once)
	dead := acme.queue(t, down.url+"/b/1", blue+once)
	retrying := acme.queue(t, down.url+"/b/2", red+later)
	queued := acme.queue(t, good.url+"/c/1", red+`"delay_ms":600000`)
	for _, id := range []string{delivered, delivered2, rejected, dead} {
		acme.final(t, id)
	}
	acme.attempted(t, retrying, 1)

	f := func(query string, want ...string) {
		t.Helper()
		values, err := url.ParseQuery(query)
		if err != nil {
			t.Fatal(err)
		}
		slices.Sort(want)
		slices.Reverse(want) // ids sort by time
		for _, limit := range []string{"100", "1"} {
			values.Set("limit", limit)
			if got := acme.list(t, values, nothingBetween); !slices.Equal(got, want) {
				t.Errorf("%s by %s: %q, want %q", query, limit, got, want)
			}
		}
	}
	f("", delivered, delivered2, rejected, dead, retrying, queued)
	f("status=delivered", delivered, delivered2)
	f("status=rejected", rejected)
	f("status=dead_letter", dead)
	f("status=retrying", retrying)
	f("status=queued", queued)
	f("status=canceled")
	f("label=red", delivered, rejected, retrying, queued)
	f("label=all", delivered, delivered2, rejected, dead, retrying, queued)
	f("label=re")
	f("host=down.your-app.com", dead, retrying)
	f("host=your-app.com")
	f("target="+url.QueryEscape(good.url+"/a/"), delivered, delivered2)
	f("idempotency_key=k1", delivered)
	f("since=2020-01-01T00:00:00Z", delivered, delivered2, rejected, dead, retrying, queued)
	f("until=2020-01-01T00:00:00Z")
	f("status=delivered&label=red", delivered)
	f("status=delivered&label=red&host=good.your-app.com&idempotency_key=k1&since=2020-01-01T00:00:00Z", delivered)
	f("status=delivered&host=bad.your-app.com")
	f("label=red&host=down.your-app.com", retrying)
}

// Dates bound what was created: since and what follows it, until and what was
// before it.
func TestDatesBoundTheList(t *testing.T) {
	t.Parallel()
	w := startWorld(t)
	acme := w.tenant(t, "acme").verified(t, "your-app.com")
	in := w.inbox(t, "your-app.com", answers(200))
	early := acme.post(t, in.url, "")
	first, err := time.Parse(time.RFC3339, early["created_at"].(string))
	if err != nil {
		t.Fatal(err)
	}
	// Until a delivery of a later second is there.
	var late string
	until(t, "a second has passed", func() (bool, string) {
		made := acme.post(t, in.url, "")
		late = made["queue_id"].(string)
		return made["created_at"] != early["created_at"], ""
	})
	border := first.Add(time.Second).Format(time.RFC3339)
	since := acme.list(t, url.Values{"since": {border}, "limit": {"100"}}, nothingBetween)
	before := acme.list(t, url.Values{"until": {border}, "limit": {"100"}}, nothingBetween)
	all := acme.list(t, url.Values{"limit": {"100"}}, nothingBetween)
	if !slices.Equal(slices.Concat(since, before), all) {
		t.Errorf("%d since the border and %d before it are not all %d", len(since), len(before), len(all))
	}
	if !slices.Contains(since, late) || !slices.Contains(before, early["queue_id"].(string)) {
		t.Error("the two sides are the wrong way round")
	}
}

func TestBadListQueries(t *testing.T) {
	t.Parallel()
	w := startWorld(t)
	acme := w.tenant(t, "acme").verified(t, "your-app.com")
	in := w.inbox(t, "your-app.com", answers(200))
	acme.queueMany(t, 2, in.url, func(int) string { return "" })
	cursor := *acme.page(t, url.Values{"limit": {"1"}}).Next
	f := func(query string, words ...string) {
		t.Helper()
		acme.call(t, "GET", "/v1/deliveries?"+query, "").refused(400, words...)
	}
	f("limit=ten", "limit", "ten")
	f("limit=1.5", "limit")
	f("status=done", "status", "done", "dead_letter")
	f("cursor=abc", "cursor")
	f("cursor="+url.QueryEscape(cursor[:len(cursor)-1]), "cursor")
	f("cursor="+url.QueryEscape(flipped(cursor)), "cursor")
	f("since=yesterday", "since", "RFC 3339")
	f("until=2026-13-01T00:00:00Z", "until")
}

// flipped is text with its middle character changed to another letter.
func flipped(text string) string {
	b := []byte(text)
	if m := len(b) / 2; b[m] == 'A' {
		b[m] = 'B'
	} else {
		b[m] = 'A'
	}
	return string(b)
}
