package bench

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"testing"
)

// requestOf reads a request as a server would.
func requestOf(t *testing.T, raw []byte) (*http.Request, []byte) {
	t.Helper()
	left := bytes.NewReader(raw)
	buffered := bufio.NewReader(left)
	r, err := http.ReadRequest(buffered)
	if err != nil {
		t.Fatalf("%.300q: %v", raw, err)
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatalf("%.300q: %v", raw, err)
	}
	if buffered.Buffered()+left.Len() > 0 {
		t.Fatalf("%.300q: bytes after the request", raw)
	}
	return r, body
}

func writerOf(t *testing.T, o GeneratorOptions) *requestWriter {
	t.Helper()
	if o.Payload.at == nil {
		o.Payload = FixedSize(200)
	}
	w, err := newRequestWriter(o)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

type sendItem struct {
	Target   string          `json:"target"`
	Body     json.RawMessage `json:"body"`
	Key      string          `json:"idempotency_key"`
	Delivery json.RawMessage `json:"delivery"`
}

func TestSingleSendsAreRequestsOfTheAPI(t *testing.T) {
	w := writerOf(t, GeneratorOptions{
		URL: "http://127.0.0.1:9", Keys: []string{"k0", "k1"}, Targets: []string{"http://a/x", "http://b/", "http://c/"},
		Run: 7, Repeat: 0.5, Delivery: `{"max_attempts":3}`,
	})
	lanes := map[string]int{}
	keys := map[string]bool{}
	var buffer []byte
	for n := range uint32(12) {
		var raw []byte
		var payload int
		raw, buffer, payload = w.write(buffer, n, 1, 99, 0)
		r, body := requestOf(t, raw)
		var item sendItem
		if err := json.Unmarshal(body, &item); err != nil {
			t.Fatalf("%s: %v", body, err)
		}
		m, ok := readMark(item.Body)
		if !ok || m != (mark{Run: 7, Sequence: n, SentAt: 99}) || len(item.Body) != 200 || payload != 200 {
			t.Errorf("send %d: mark %+v in %d bytes, %d counted", n, m, len(item.Body), payload)
		}
		if r.URL.Path != "/v1/send" || r.Host != "127.0.0.1:9" || string(item.Delivery) != `{"max_attempts":3}` {
			t.Errorf("send %d: %s %s, delivery %s", n, r.Host, r.URL, item.Delivery)
		}
		lanes[r.Header.Get("Authorization")+" "+item.Target]++
		keys[item.Key] = true
	}
	if len(lanes) != 6 || lanes["Bearer k1 http://c/"] != 2 {
		t.Errorf("12 sends of 2 accounts to 3 targets went to %v, want 2 to each lane", lanes)
	}
	if len(keys) != 12 {
		t.Errorf("12 sends have %d idempotency keys", len(keys))
	}
}

func TestBatchesAreOfOneAccount(t *testing.T) {
	w := writerOf(t, GeneratorOptions{
		URL: "https://example.com", Keys: []string{"k0", "k1"}, Targets: []string{"http://a/", "http://b/"}, Batch: 50, Run: 7,
	})
	targets := map[string]int{}
	senders := map[string]int{}
	for first := uint32(0); first < 200; first += 50 {
		raw, _, payload := w.write(nil, first, 50, 99, 0)
		r, body := requestOf(t, raw)
		var items []sendItem
		if err := json.Unmarshal(body, &items); err != nil {
			t.Fatalf("%.200s: %v", body, err)
		}
		if len(items) != 50 || payload != 50*200 || r.URL.Path != "/v1/send/batch" {
			t.Errorf("%d sends with %d bytes to %s", len(items), payload, r.URL.Path)
		}
		for i, item := range items {
			if m, ok := readMark(item.Body); !ok || m.Sequence != first+uint32(i) {
				t.Fatalf("send %d of the batch at %d has mark %+v", i, first, m)
			}
			targets[item.Target]++
		}
		senders[r.Header.Get("Authorization")]++
	}
	if targets["http://a/"] != 100 || targets["http://b/"] != 100 || senders["Bearer k0"] != 2 || senders["Bearer k1"] != 2 {
		t.Errorf("batches went to %v from %v", targets, senders)
	}
}

// A direct POST is what the engine would send: the payload, to the target.
func TestADirectPostIsThePayload(t *testing.T) {
	w := writerOf(t, GeneratorOptions{Direct: true, Targets: []string{"http://a:1/x?y=1", "http://b:2/"}, Run: 7})
	raw, _, payload := w.write(nil, 5, 1, 99, 1)
	r, body := requestOf(t, raw)
	if m, ok := readMark(body); !ok || m.Sequence != 5 || len(body) != 200 || payload != 200 || r.Host != "b:2" || r.URL.String() != "/" {
		t.Errorf("%+v in %d bytes to %s%s", m, len(body), r.Host, r.URL)
	}
	raw, _, _ = w.write(nil, 6, 1, 99, 0)
	if r, _ := requestOf(t, raw); r.Host != "a:1" || r.URL.String() != "/x?y=1" || r.Header.Get("Authorization") != "" {
		t.Errorf("to %s%s", r.Host, r.URL)
	}
}
