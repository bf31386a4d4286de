package torture

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// A load sends at a rate, whatever becomes of it: a send that waits does not hold
// the next one back, until mostUnderWay do. The nodes take turns. Three of four
// sends have an idempotency key and are repeated, at the next node, until their
// outcome is known, as a careful client does; the others are made once.
type load struct {
	ledger *ledger
	client *http.Client
	urls   []string // of the nodes
	target string
	key    string // of the account
	rate   int

	turn   atomic.Int64
	large  atomic.Bool // every largeEvery-th send is large
	rests  atomic.Bool
	ending chan struct{} // closed: what is not known is given up
	ended  sync.WaitGroup
	under  chan struct{} // one for each send under way

	mu      sync.Mutex
	strange map[string]int // answers that are neither yes nor no, in words
}

const (
	mostUnderWay = 512
	// sendPatience is how long a client waits for an answer.
	sendPatience = 3 * time.Second
	retryAfter   = 50 * time.Millisecond
	largeBytes   = 256 << 10
	largeEvery   = 8
	mostStrange  = 20
)

func newLoad(l *ledger, urls []string, target, key string, rate int) *load {
	return &load{
		ledger: l, urls: urls, target: target, key: key, rate: rate,
		client: &http.Client{
			Timeout: sendPatience,
			Transport: &http.Transport{
				DialContext:         (&net.Dialer{Timeout: time.Second}).DialContext,
				MaxIdleConnsPerHost: 64,
				IdleConnTimeout:     10 * time.Second,
			},
		},
		ending: make(chan struct{}), under: make(chan struct{}, mostUnderWay),
		strange: map[string]int{},
	}
}

// run sends until ctx is done.
func (l *load) run(ctx context.Context) {
	const beat = 10 * time.Millisecond
	tick := time.NewTicker(beat)
	defer tick.Stop()
	for owed := 0.0; ; {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		if l.rests.Load() {
			owed = 0
			continue
		}
		for owed += float64(l.rate) * beat.Seconds(); owed >= 1; owed-- {
			select {
			case l.under <- struct{}{}:
				l.ended.Go(func() {
					l.send()
					<-l.under
				})
			default:
				l.ledger.hold()
			}
		}
	}
}

// rest ends the load for a while and reports whether all that was under way has an
// outcome by the deadline.
func (l *load) rest(ctx context.Context) bool {
	l.rests.Store(true)
	for range mostUnderWay {
		select {
		case l.under <- struct{}{}:
			defer func() { <-l.under }()
		case <-ctx.Done():
			return false
		}
	}
	return true
}

func (l *load) resume() { l.rests.Store(false) }

// stop gives up what has no outcome yet, and waits for it.
func (l *load) stop() {
	close(l.ending)
	l.ended.Wait()
	l.client.CloseIdleConnections()
}

// send makes one send, to its end.
func (l *load) send() {
	number, ok := l.ledger.send()
	if !ok {
		l.ledger.hold()
		return
	}
	keyed := number%4 != 3
	text := bodyOf(number)
	if l.large.Load() && number%largeEvery == 0 {
		text = largeBody(number, largeBytes)
	}
	body := l.request(number, keyed, text)
	for tries := 0; ; tries++ {
		began := l.ledger.asking(tries > 0)
		node := int(l.turn.Add(1)) % len(l.urls)
		outcome, id := l.ask(node, body)
		switch {
		case outcome == acknowledged:
			l.ledger.acknowledge(number, id, node, began)
			if keyed && number%16 == 0 {
				l.recheck(number, body)
			}
			return
		case !keyed && outcome != underWay:
			l.ledger.end(number, outcome)
			return
		}
		l.ledger.failed(number)
		select {
		case <-time.After(retryAfter + time.Duration(rand.Int64N(int64(retryAfter)))):
		case <-l.ending:
			l.ledger.end(number, unknown)
			return
		}
	}
}

// recheck makes a send once more that was acknowledged: it must have the same id.
func (l *load) recheck(number int, body []byte) {
	began := l.ledger.asking(true)
	node := int(l.turn.Add(1)) % len(l.urls)
	if outcome, id := l.ask(node, body); outcome == acknowledged {
		l.ledger.acknowledge(number, id, node, began)
	}
}

func (l *load) request(number int, keyed bool, body string) []byte {
	fields := map[string]any{
		"target":   l.target,
		"body":     body,
		"delivery": map[string]any{"base_delay_ms": 100, "max_delay_ms": 2000, "max_attempts": 25, "timeout_ms": 2000},
	}
	if keyed {
		fields["idempotency_key"] = strconv.Itoa(number)
	}
	text, err := json.Marshal(fields)
	if err != nil {
		panic(err) // of strings and numbers
	}
	return text
}

// largeBody is a body of at least that size, that compresses to about three quarters.
func largeBody(number, size int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d large ", number)
	r := rand.New(rand.NewPCG(uint64(number), 0))
	for b.Len() < size {
		b.WriteString(strconv.FormatUint(r.Uint64(), 36))
	}
	return b.String()
}

func isLarge(body string) bool {
	number, rest, _ := strings.Cut(body, " ")
	if !strings.HasPrefix(rest, "large ") {
		return false
	}
	n, err := strconv.Atoi(number)
	return err == nil && body == largeBody(n, len(body))
}

// ask makes one request. The outcome is underWay where it may be asked again: that
// nothing was accepted is certain.
func (l *load) ask(node int, body []byte) (o outcome, id string) {
	resp, err := l.post(node, "/v1/send", body)
	if err != nil {
		if op, is := errors.AsType[*net.OpError](err); is && op.Op == "dial" {
			return underWay, "" // there was nobody to send it to
		}
		return unknown, ""
	}
	defer resp.Body.Close()
	var answer struct {
		QueueID string `json:"queue_id"`
		Error   string `json:"error"`
		Detail  string `json:"detail"`
	}
	text, err := io.ReadAll(resp.Body)
	if err != nil || json.Unmarshal(text, &answer) != nil {
		return unknown, "" // ended while it answered
	}
	switch {
	case resp.StatusCode == http.StatusAccepted && answer.QueueID != "":
		return acknowledged, answer.QueueID
	case resp.StatusCode == http.StatusServiceUnavailable && answer.Error == "outcome unknown":
		return unknown, ""
	case resp.StatusCode != http.StatusServiceUnavailable && resp.StatusCode != http.StatusInsufficientStorage:
		l.wonder(fmt.Sprintf("%d %s", resp.StatusCode, text))
	}
	return refused, ""
}

func (l *load) post(node int, path string, body []byte) (*http.Response, error) {
	req, err := http.NewRequest(http.MethodPost, l.urls[node]+path, bytes.NewReader(body))
	if err != nil {
		panic(err) // of constant parts
	}
	req.Header.Set("Authorization", "Bearer "+l.key)
	req.Header.Set("Content-Type", "application/json")
	return l.client.Do(req)
}

// wonder notes an answer that a send should not get here.
func (l *load) wonder(answer string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.strange) < mostStrange || l.strange[answer] > 0 {
		l.strange[answer]++
	}
}
