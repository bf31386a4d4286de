package bench

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/harepost/harepost/client"
)

// A hesitant server refuses the first batches whole, and of each further one the
// send that it has not seen before and whose number ends with 7.
type hesitant struct {
	mu       sync.Mutex
	refusals int // of whole batches, left
	seen     map[uint32]int
	taken    map[uint32]int
}

func (h *hesitant) RoundTrip(r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.refusals > 0 {
		h.refusals--
		return answered(http.StatusServiceUnavailable, `{"error":"overloaded"}`, "Retry-After", "3"), nil
	}
	var results []string
	for line := range bytes.Lines(body) {
		e, err := readEnvelope(bytes.TrimSpace(line))
		if err != nil {
			return nil, err
		}
		m, _ := readMark(e.Body)
		if h.seen[m.Sequence]++; h.seen[m.Sequence] == 1 && m.Sequence%10 == 7 {
			results = append(results, `{"error":"overloaded","status":503,"retry_after":2}`)
			continue
		}
		h.taken[m.Sequence]++
		results = append(results, `{"queue_id":"hr_1","status":"queued"}`)
	}
	return answered(http.StatusAccepted, `{"results":[`+strings.Join(results, ",")+`]}`), nil
}

func answered(status int, body string, header ...string) *http.Response {
	r := &http.Response{StatusCode: status, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body))}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	return r
}

func fillerOf(t *testing.T, server http.RoundTripper, count int) *filler {
	c, err := client.New("http://hesitant.test", "key", client.Options{HTTPClient: &http.Client{Transport: server}})
	if err != nil {
		t.Fatal(err)
	}
	return newFiller(c, 7, "http://target.test/", count)
}

// What is refused for now is sent again, once the server's advice is kept, and
// nothing is taken twice.
func TestAFillerComesBackWhenItIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const count = 2500
		server := &hesitant{refusals: 3, seen: map[uint32]int{}, taken: map[uint32]int{}}
		f := fillerOf(t, server, count)
		began := time.Now()
		if err := f.fill(t.Context()); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took != 5*time.Second { // 3 s for the batch, 2 s for some of it
			t.Errorf("filled in %s, want 5 s", took)
		}
		for n := range uint32(count) {
			if server.taken[n] != 1 {
				t.Errorf("send %d was taken %d times", n, server.taken[n])
			}
		}
		g := f.generated()
		if g.Accepted != count || g.Refused != count+count/10 || f.half.Load() == nil {
			t.Errorf("%d accepted and %d refused, want %d and %d; half of them at %v", g.Accepted, g.Refused, count, count+count/10, f.half.Load())
		}
		if missing := g.AcceptedMarks.minus(nil); missing != count {
			t.Errorf("%d marks of %d", missing, count)
		}
	})
}

type refusing int

func (r refusing) RoundTrip(*http.Request) (*http.Response, error) {
	return answered(int(r), `{"error":"no"}`), nil
}

// What will not pass ends the fill.
func TestAFillerGivesUpOnOtherErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, status := range []int{http.StatusUnauthorized, http.StatusInsufficientStorage} {
			err := fillerOf(t, refusing(status), 10).fill(t.Context())
			if err == nil || !strings.Contains(err.Error(), fmt.Sprint(status)) {
				t.Errorf("status %d: %v", status, err)
			}
		}
	})
}

func TestStoreSizeRefusesWhatContradicts(t *testing.T) {
	check := func(z *StoreSize, want string) {
		t.Helper()
		if err := z.complete(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want an error with %q", err, want)
		}
	}
	check(&StoreSize{Options: smallOptions(t), Count: 10}, "finished deliveries")
	check(&StoreSize{Options: smallOptions(t), Connections: -1}, "connections")
	check(&StoreSize{Options: Options{URL: "http://127.0.0.1:1"}}, "starts itself")
}
