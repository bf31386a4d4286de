package bench

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// A sender is one connection of the generator. It speaks just enough HTTP/1.1,
// because the generator's CPU is taken from the system it measures: the request
// is put together by hand, and the answer is read for its status and its end.
type sender struct {
	load   *load
	target int    // of a direct POST
	url    string // of what it connects to

	request, buffer []byte // the request under way, and what it is made in
	payloadBytes    int    // in it
	first           uint32 // sequence number of its first send
	sent            bool   // there was one, and it was accepted: it may be repeated
	answer          []byte // read buffer

	latency *hdrhistogram.Histogram
	lateMax time.Duration
	draws   uint32 // choices of whether to repeat

	// Read by the progress while the load runs.
	accepted, refused, failed atomic.Uint64
	measured, payload         uint64
	repeated, unadvised       uint64

	mu          sync.Mutex // conn is replaced by run, interrupted by another
	conn        net.Conn
	interrupted bool
}

func newSender(l *load, number int) *sender {
	s := &sender{
		load:    l,
		target:  number % len(l.options.Targets),
		url:     l.options.URL,
		answer:  make([]byte, 4<<10),
		latency: newHistogram(l.digits()),
		draws:   uint32(number) << 20,
	}
	if l.options.Direct {
		s.url = l.options.Targets[s.target]
	}
	return s
}

var errInterrupted = errors.New("interrupted")

// dial replaces the connection. One deadline covers its whole life: a timer per
// request would cost more than it shows.
func (s *sender) dial(ctx context.Context) error {
	u, err := url.Parse(s.url)
	if err != nil {
		return err
	}
	d := net.Dialer{Timeout: answerWait}
	conn, err := d.DialContext(ctx, "tcp", hostPort(u))
	if err != nil {
		return err
	}
	if u.Scheme == "https" {
		conn = tls.Client(conn, &tls.Config{ServerName: u.Hostname(), RootCAs: s.load.roots, NextProtos: []string{"http/1.1"}})
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.interrupted {
		return errors.Join(errInterrupted, conn.Close())
	}
	s.conn = conn
	o := s.load.options
	return conn.SetDeadline(time.Now().Add(o.Warmup + o.Duration + 2*answerWait))
}

// hostPort is where to connect to for a URL.
func hostPort(u *url.URL) string {
	if u.Port() != "" {
		return u.Host
	}
	port := "80"
	if u.Scheme == "https" {
		port = "443"
	}
	return net.JoinHostPort(u.Hostname(), port)
}

// interrupt makes the request under way fail, and every later one.
func (s *sender) interrupt() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.interrupted = true
	s.conn.Close()
}

func (s *sender) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conn.Close()
}

// run makes one request after the other until the load ends. It owns the
// connection and closes it.
func (s *sender) run() error {
	defer s.close()
	failures := 0
	for {
		due, waited, ok := s.load.take()
		if !ok {
			return nil
		}
		if waited && s.load.measures(due) {
			s.lateMax = max(s.lateMax, now().sub(due))
		}
		if err := s.write(due); err != nil {
			return err
		}
		a, err := s.exchange(due)
		if err == nil {
			failures = 0
		} else if failures++; failures == failuresInRow {
			return fmt.Errorf("bench: %d requests failed in a row: %w", failures, err)
		}
		if err != nil || a.closing {
			if err := s.redial(); err != nil {
				return err
			}
		}
		if s.load.due == nil && refusal(a.status) {
			s.pause()
		}
	}
}

func (s *sender) redial() error {
	s.close()
	if s.load.ending() {
		return nil
	}
	err := s.dial(context.Background())
	if errors.Is(err, errInterrupted) {
		return nil // the load is being stopped
	}
	if err != nil {
		return fmt.Errorf("bench: reconnect: %w", err)
	}
	return nil
}

func (s *sender) pause() {
	timer := time.NewTimer(refusedPause)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-s.load.stop:
	case <-s.load.abort:
	}
}

// write makes the next request: that of new sends, or again that of the last
// ones, byte by byte, which is what makes it a repetition to the API.
func (s *sender) write(due moment) error {
	if s.sent && s.load.options.Repeat > 0 {
		if s.draws++; fraction(s.draws) < s.load.options.Repeat {
			s.repeated += uint64(s.load.each())
			return nil
		}
	}
	s.sent = false
	each := s.load.each()
	first := s.load.next.Add(uint64(each)) - uint64(each)
	if first+uint64(each) > maxSends {
		return fmt.Errorf("bench: more than %d sends in one round", maxSends)
	}
	s.first = uint32(first)
	s.request, s.buffer, s.payloadBytes = s.load.writer.write(s.buffer, s.first, each, due, s.target)
	return nil
}

// exchange makes one request, reads its answer and counts it.
func (s *sender) exchange(due moment) (answer, error) {
	if _, err := s.conn.Write(s.request); err != nil {
		s.fail(s.load.each(), err)
		return answer{closing: true}, err
	}
	a, buffer, err := readAnswer(s.conn, s.answer)
	s.answer = buffer
	if err != nil {
		s.fail(s.load.each(), err)
		return a, err
	}
	at := now()
	if accepted := s.count(a); accepted > 0 {
		s.sent = true
		if s.load.measures(due) {
			recordLatency(s.latency, at.sub(due))
		}
		if s.load.measuring.Load() {
			s.measured += uint64(accepted)
		}
	}
	return a, nil
}

// count files an answer, and returns how many sends it accepts.
func (s *sender) count(a answer) (accepted int) {
	each := s.load.each()
	taken := a.status == http.StatusAccepted || s.load.options.Direct && a.status == http.StatusOK
	switch {
	case taken && s.load.options.Batch > 0:
		return s.countBatch(a)
	case taken:
		s.accept(s.first, s.payloadBytes)
		return 1
	case refusal(a.status):
		s.refused.Add(uint64(each))
		if !a.advises {
			s.unadvised += uint64(each)
		}
	default:
		s.fail(each, fmt.Errorf("answered %d: %.200q", a.status, a.body))
	}
	return 0
}

func (s *sender) accept(sequence uint32, payload int) {
	if s.load.accepted.add(sequence) { // a repetition is not another send
		s.accepted.Add(1)
		s.payload += uint64(payload)
	}
}

func (s *sender) countBatch(a answer) (accepted int) {
	each := s.load.each()
	seen := 0
	err := eachResult(a.body, func(i, status int) {
		seen++
		switch {
		case i >= each:
		case status == http.StatusAccepted:
			accepted++
			s.accept(s.first+uint32(i), s.payloadBytes/each)
		case refusal(status):
			s.refused.Add(1)
		default:
			s.fail(1, fmt.Errorf("a send of a batch was answered %d", status))
		}
	})
	if err == nil && seen != each {
		err = fmt.Errorf("%d results for a batch of %d", seen, each)
	}
	if err != nil {
		s.fail(max(each-seen, 0), fmt.Errorf("the answer to a batch: %w", err))
	}
	return accepted
}

func (s *sender) fail(sends int, err error) {
	s.failed.Add(uint64(sends))
	s.load.failure.Do(func() { s.load.firstFailed = err })
}
