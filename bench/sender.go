package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// A sender is one connection of the generator. It speaks just enough HTTP/1.1,
// because the generator's CPU is taken from the system it measures: the request
// is built once, only its mark changes, and the answer is read for its status
// and its end.
type sender struct {
	load    *load
	request []byte  // head and body
	payload payload // the part of request that holds the mark
	answer  []byte  // read buffer; an answer must fit

	mu          sync.Mutex // conn is replaced by run, interrupted by another
	conn        net.Conn
	interrupted bool
}

// answerBytes bounds one answer, head and body.
const answerBytes = 16 << 10

func newSender(l *load, target string) *sender {
	body := `{"target":` + strconv.Quote(target) + `,"body":`
	payload := newPayload(l.options.PayloadBytes)
	length := len(body) + len(payload) + len("}")

	var b bytes.Buffer
	fmt.Fprintf(&b, "POST /v1/send HTTP/1.1\r\nHost: %s\r\n", l.options.Addr)
	if l.options.Authorization != "" {
		fmt.Fprintf(&b, "Authorization: %s\r\n", l.options.Authorization)
	}
	fmt.Fprintf(&b, "Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", length, body)
	start := b.Len()
	b.Write(payload)
	b.WriteString("}")
	return &sender{
		load:    l,
		request: b.Bytes(),
		payload: b.Bytes()[start : start+len(payload)],
		answer:  make([]byte, answerBytes),
	}
}

var errInterrupted = errors.New("interrupted")

// dial replaces the connection. One deadline covers its whole life: a timer per
// request would cost more than it shows.
func (s *sender) dial(ctx context.Context) error {
	o := s.load.options
	d := net.Dialer{Timeout: answerWait}
	conn, err := d.DialContext(ctx, "tcp", o.Addr)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.interrupted {
		return errors.Join(errInterrupted, conn.Close())
	}
	s.conn = conn
	return conn.SetDeadline(time.Now().Add(o.Warmup + o.Duration + answerWait))
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

// run sends one request after the other until the load stops. It owns the
// connection and closes it.
func (s *sender) run() error {
	defer s.close()
	failures := 0
	for !s.load.stopping.Load() {
		sequence := s.load.next.Add(1) - 1
		if sequence >= maxSends {
			return fmt.Errorf("bench: more than %d sends in one round", maxSends)
		}
		status, closing, took, err := s.exchange(uint32(sequence))
		s.load.count(uint32(sequence), status, took, err)
		if err == nil {
			failures = 0
		} else if failures++; failures == failuresInRow {
			return fmt.Errorf("bench: %d requests failed in a row: %w", failures, err)
		}
		if err != nil || closing {
			if err := s.redial(); err != nil {
				return err
			}
		}
		if status == http.StatusTooManyRequests || status == http.StatusServiceUnavailable {
			s.pause()
		}
	}
	return nil
}

func (s *sender) redial() error {
	s.close()
	if s.load.stopping.Load() {
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
	}
}

// exchange sends one send and reads its answer.
func (s *sender) exchange(sequence uint32) (status int, closing bool, took time.Duration, err error) {
	start := now()
	s.payload.set(mark{Run: s.load.options.Run, Sequence: sequence, SentAt: start})
	if _, err := s.conn.Write(s.request); err != nil {
		return 0, true, 0, err
	}
	status, closing, err = s.readAnswer()
	return status, closing, now().sub(start), err
}

// readAnswer reads one answer, and is usually done after one read.
func (s *sender) readAnswer() (status int, closing bool, err error) {
	have := 0
	for {
		n, err := s.conn.Read(s.answer[have:])
		have += n
		if n == 0 && err != nil {
			return 0, true, err
		}
		head := bytes.Index(s.answer[:have], []byte("\r\n\r\n"))
		if head >= 0 {
			head += len("\r\n\r\n")
			status, body, closing, err := parseHead(s.answer[:head])
			if err != nil || head+body == have {
				return status, closing, err
			}
			if head+body < have {
				return 0, true, fmt.Errorf("%d bytes after an answer", have-head-body)
			}
		}
		if have == len(s.answer) {
			return 0, true, fmt.Errorf("an answer of more than %d bytes", len(s.answer))
		}
	}
}

// parseHead reads an answer's head: its status, the length of its body and
// whether the connection ends with it.
func parseHead(head []byte) (status, body int, closing bool, err error) {
	line, rest, _ := bytes.Cut(head, []byte("\r\n"))
	if len(line) < len("HTTP/1.1 200") || string(line[:8]) != "HTTP/1.1" {
		return 0, 0, true, fmt.Errorf("not an HTTP/1.1 answer: %.40q", line)
	}
	if status, err = strconv.Atoi(string(line[9:12])); err != nil {
		return 0, 0, true, fmt.Errorf("status of an answer: %w", err)
	}
	for len(rest) > 0 {
		line, rest, _ = bytes.Cut(rest, []byte("\r\n"))
		name, value, _ := bytes.Cut(line, []byte(":"))
		value = bytes.TrimSpace(value)
		switch {
		case bytes.EqualFold(name, []byte("Content-Length")):
			if body, err = strconv.Atoi(string(value)); err != nil || body < 0 {
				return 0, 0, true, fmt.Errorf("length of an answer: %.40q", value)
			}
		case bytes.EqualFold(name, []byte("Connection")):
			closing = bytes.EqualFold(value, []byte("close"))
		case bytes.EqualFold(name, []byte("Transfer-Encoding")):
			return 0, 0, true, errors.New("a chunked answer, which the generator does not read")
		}
	}
	return status, body, closing, nil
}
