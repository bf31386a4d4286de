package api

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/harepost/harepost/engine"
)

// batchOf joins sends as an array or as lines.
func batchOf(ndjson bool, sends ...string) (body string, headers []string) {
	if ndjson {
		return strings.Join(sends, "\r\n\n") + "\n", []string{"Content-Type: application/x-ndjson; charset=utf-8"}
	}
	return "[" + strings.Join(sends, ",") + "]", []string{"Content-Type: application/json"}
}

func results(t *testing.T, answered map[string]any) (list []map[string]any) {
	t.Helper()
	for _, r := range answered["results"].([]any) {
		list = append(list, r.(map[string]any))
	}
	return list
}

// One bad item does not fail the rest, and results come in order.
func TestBatch(t *testing.T) {
	var got sync.Map
	target := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		got.Store(r.URL.Path, r.Header.Get("X-One")+r.Header.Get("X-Harepost-Idempotency-Key"))
	}))
	defer target.Close()
	s := startServer(t, Options{Dev: true}, nil)
	key := s.account()
	for _, ndjson := range []bool{false, true} {
		form := fmt.Sprintf("%s/%t", target.URL, ndjson)
		body, headers := batchOf(ndjson,
			`{"target":"`+form+`/0","headers":{"X-One":"\u0031"},"body":{"a": 1}}`,
			`{"target":"`+form+`/1","method":"BREW"}`,
			`{"target":"https://not-verified.example/"}`,
			`{"target":"`+form+`/3","idempotency_key":"k\u0033","typo":1}`,
			`[]`,
			`{"target":"`+form+`/3","idempotency_key":"k3"}`,
			`null`,
			`{"target":"`+form+`/7","labels":["seven"],"metadata":{"n":7}}`,
		)
		list := results(t, s.do("POST", "/v1/send/batch", key, body, headers...).want(202))
		if len(list) != 8 {
			t.Fatalf("%d results", len(list))
		}
		for i, status := range []float64{0, 400, 403, 0, 400, 0, 400, 0} {
			if got, _ := list[i]["status"].(float64); got != status {
				t.Errorf("send %d: %v", i, list[i])
			}
			if refused := status != 0; refused != (list[i]["error"] != nil) || refused == (list[i]["queue_id"] != nil) {
				t.Errorf("send %d: %v", i, list[i])
			}
		}
		if list[5]["duplicate"] != true || list[5]["queue_id"] != list[3]["queue_id"] || list[3]["duplicate"] != nil {
			t.Errorf("the same key twice: %v, %v", list[3], list[5])
		}
		if list[3]["idempotency_key"] != "k3" || list[3]["warnings"] == nil || list[0]["warnings"] != nil {
			t.Errorf("as a single send is answered: %v", list[3])
		}
		for _, i := range []int{0, 3, 7} {
			id := list[i]["queue_id"].(string)
			s.do("GET", "/v1/deliveries/"+id, key, "").want(200) // at once
			if d := s.settled(key, id); d["status"] != "delivered" {
				t.Errorf("send %d: %v", i, d)
			}
		}
		for path, want := range map[string]string{"/0": "1", "/3": "k3", "/7": ""} {
			if v, ok := got.Load(fmt.Sprintf("/%t%s", ndjson, path)); !ok || v != want {
				t.Errorf("%s: the target got %v, %v", path, v, ok)
			}
		}
	}
}

// What cannot be cut into sends is refused whole, and nothing of it is kept.
func TestBatchesThatAreRefusedWhole(t *testing.T) {
	s := startServer(t, Options{Dev: true, BatchSends: 3, BatchBytes: 64 << 10, RequestBytes: 32 << 10}, nil)
	key := s.account()
	send := `{"target":"http://localhost:9999/"}`
	const lines = "Content-Type: application/x-ndjson"
	f := func(status int, want, body string, headers ...string) {
		t.Helper()
		a := s.do("POST", "/v1/send/batch", key, body, headers...)
		if a.status != status || !strings.Contains(a.body, want) {
			t.Errorf("%.60q: %d %s", body, a.status, a.body)
		}
	}
	f(400, "request body is empty", "")
	f(400, "request body is empty", " \n\r\n", lines)
	f(400, "an array of sends", send)
	f(400, "an array of sends", "null")
	f(400, "malformed JSON", "["+send+",")
	f(400, "malformed JSON", "["+send+"]]")
	f(400, "after the array of the request body", "["+send+"]1")
	f(400, "malformed JSON", "["+send+` "x"]`)
	f(400, "Idempotency-Key", "["+send+"]", "Idempotency-Key: k")
	f(413, "it may have 3 sends", "["+send+","+send+","+send+","+send+"]")
	f(413, "it may have 3 sends", strings.Repeat(send+"\n", 4), lines)
	f(413, "65536 bytes", "["+strings.Repeat(" ", 64<<10)+"]")
	f(415, "encoded", "["+send+"]", "Content-Encoding: gzip")
	if a := s.do("POST", "/v1/send/batch", "", "["+send+"]"); a.status != 401 {
		t.Errorf("without a key: %d", a.status)
	}
	if a := s.do("GET", "/v1/send/batch", key, ""); a.status != 405 || !strings.Contains(a.header.Get("Allow"), "POST") {
		t.Errorf("GET: %d, Allow %q", a.status, a.header.Get("Allow"))
	}
	if list := s.do("GET", "/v1/deliveries", key, "").want(200)["data"].([]any); len(list) != 0 {
		t.Errorf("%d deliveries of batches that were refused", len(list))
	}

	f(202, `{"results":[]}`, "[]")
	big := `{"target":"http://localhost:9999/","body":"` + strings.Repeat("x", 32<<10) + `"}`
	list := results(t, s.do("POST", "/v1/send/batch", key, "["+big+","+send+"]").want(202))
	if list[0]["status"] != 413.0 || list[1]["queue_id"] == nil {
		t.Errorf("one send that is too large: %v", list)
	}
	list = results(t, s.do("POST", "/v1/send/batch", key, "{\n"+send+"\n}", lines).want(202))
	if len(list) != 3 || list[0]["status"] != 400.0 || list[1]["queue_id"] == nil || list[2]["status"] != 400.0 {
		t.Errorf("lines that are no JSON: %v", list)
	}
	list = results(t, s.do("POST", "/v1/send/batch", key, send+"\n7\n"+send+send+"\n", lines).want(202))
	for i, want := range map[int]string{1: "batch[1] is a number; it must be an object", 2: "there is more after the object of batch[2]"} {
		if list[i]["detail"] != want {
			t.Errorf("send %d: %v, want %q", i, list[i], want)
		}
	}
}

// The largest batch, and every send of it is found and delivered once.
func TestLargestBatch(t *testing.T) {
	var got sync.Map
	var twice atomic.Int64
	target := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if _, loaded := got.LoadOrStore(r.URL.Path, true); loaded {
			twice.Add(1)
		}
	}))
	defer target.Close()
	s := startServer(t, Options{Dev: true}, func(o *engine.Options) { o.LogSegmentBytes = 64 << 20 })
	key := s.account()
	var b strings.Builder
	const n = 10_000
	for i := range n {
		fmt.Fprintf(&b, "{\"target\":\"%s/%d\",\"body\":{\"n\":%d}}\n", target.URL, i, i)
	}
	a := s.do("POST", "/v1/send/batch", key, b.String(), "Content-Type: application/x-ndjson")
	var answered struct {
		Results []struct {
			QueueID string `json:"queue_id"`
		}
	}
	if err := json.Unmarshal([]byte(a.body), &answered); err != nil || a.status != 202 || len(answered.Results) != n {
		t.Fatalf("%d, %d results, %v", a.status, len(answered.Results), err)
	}
	ids := map[string]bool{}
	for _, r := range answered.Results {
		ids[r.QueueID] = true
	}
	if len(ids) != n || ids[""] {
		t.Errorf("%d ids", len(ids))
	}
	eventually(t, "all are delivered", func() bool {
		arrived := 0
		got.Range(func(any, any) bool { arrived++; return true })
		return arrived == n
	})
	if n := twice.Load(); n != 0 {
		t.Errorf("%d arrived twice", n)
	}
}

func TestBatchOverTheRateLimit(t *testing.T) {
	s := startServer(t, Options{Dev: true}, func(o *engine.Options) { o.RatePerMinute = 2 })
	key := s.account()
	send := `{"target":"http://localhost:9999/"}`
	list := results(t, s.do("POST", "/v1/send/batch", key, "["+send+",1,"+send+","+send+"]").want(202))
	for i, status := range []any{"queued", 400.0, "queued", 429.0} {
		if list[i]["status"] != status {
			t.Errorf("send %d: %v", i, list[i])
		}
	}
	if after, _ := list[3]["retry_after"].(float64); after < 1 || after > 30 {
		t.Errorf("retry after %v", list[3])
	}
}

func FuzzSplitBatch(f *testing.F) {
	for _, seed := range []string{"[]", `[{"a":1},2]`, "{}\n{}\r\n\n", "[[[[", "\"\\\n\"", "[1,]", "null", "\xff"} {
		f.Add([]byte(seed), true)
		f.Add([]byte(seed), false)
	}
	f.Fuzz(func(t *testing.T, body []byte, lines bool) {
		split := splitArray
		if lines {
			split = splitLines
		}
		const most = 5
		raw, err := split(body, most)
		if len(raw) > most {
			t.Errorf("%d sends", len(raw))
		}
		for _, r := range raw {
			if err == nil && !lines && !json.Valid(r) {
				// What jsontext takes, encoding/json takes too.
				t.Errorf("%q is no JSON", r)
			}
			if len(r) == 0 {
				t.Error("an empty send")
			}
		}
	})
}
