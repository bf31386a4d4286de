package bench

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
)

// The bounds of an answer, and of its head alone. Answers to large batches are
// the largest.
const (
	answerBytes     = 8 << 20
	answerHeadBytes = 16 << 10
)

// An answer is what the generator needs of one.
type answer struct {
	status  int
	closing bool   // the connection ends with it
	advises bool   // it says when to try again
	body    []byte // valid until the next answer
}

// readAnswer reads one answer into buffer, and is usually done after one read.
// The buffer comes back, larger if it had to grow.
func readAnswer(conn io.Reader, buffer []byte) (answer, []byte, error) {
	have, head := 0, -1
	var a answer
	length := 0
	for {
		n, err := conn.Read(buffer[have:])
		have += n
		if n == 0 && err != nil {
			return answer{closing: true}, buffer, err
		}
		if head < 0 {
			if head = bytes.Index(buffer[:have], []byte("\r\n\r\n")); head >= 0 {
				head += len("\r\n\r\n")
				if a, length, err = parseHead(buffer[:head]); err != nil {
					return a, buffer, err
				}
			} else if have >= answerHeadBytes {
				return answer{closing: true}, buffer, fmt.Errorf("an answer with a head of more than %d bytes", answerHeadBytes)
			}
		}
		if head >= 0 && have >= head+length {
			if have > head+length {
				return answer{closing: true}, buffer, fmt.Errorf("%d bytes after an answer", have-head-length)
			}
			a.body = buffer[head:have]
			return a, buffer, nil
		}
		if have == len(buffer) {
			if have >= answerBytes {
				return answer{closing: true}, buffer, fmt.Errorf("an answer of more than %d bytes", answerBytes)
			}
			buffer = append(buffer, make([]byte, len(buffer))...)
		}
	}
}

// parseHead reads an answer's head: its status, the length of its body and
// whether the connection ends with it.
func parseHead(head []byte) (a answer, length int, err error) {
	broken := answer{closing: true}
	line, rest, _ := bytes.Cut(head, []byte("\r\n"))
	if len(line) < len("HTTP/1.1 200") || string(line[:8]) != "HTTP/1.1" {
		return broken, 0, fmt.Errorf("not an HTTP/1.1 answer: %.40q", line)
	}
	if a.status, err = strconv.Atoi(string(line[9:12])); err != nil {
		return broken, 0, fmt.Errorf("status of an answer: %w", err)
	}
	for len(rest) > 0 {
		line, rest, _ = bytes.Cut(rest, []byte("\r\n"))
		name, value, _ := bytes.Cut(line, []byte(":"))
		value = bytes.TrimSpace(value)
		switch {
		case bytes.EqualFold(name, []byte("Content-Length")):
			if length, err = strconv.Atoi(string(value)); err != nil || length < 0 {
				return broken, 0, fmt.Errorf("length of an answer: %.40q", value)
			}
		case bytes.EqualFold(name, []byte("Connection")):
			a.closing = bytes.EqualFold(value, []byte("close"))
		case bytes.EqualFold(name, []byte("Retry-After")):
			a.advises = len(value) > 0
		case bytes.EqualFold(name, []byte("Transfer-Encoding")):
			return broken, 0, errors.New("a chunked answer, which the generator does not read")
		}
	}
	return a, length, nil
}

// refusal tells the statuses by which a system says "not now".
func refusal(status int) bool {
	return status == http.StatusTooManyRequests || status == http.StatusServiceUnavailable
}

// eachResult calls result with the status of every send of a batch, in order:
// 202 for one that was taken.
func eachResult(body []byte, result func(i, status int)) error {
	var results []byte
	err := eachMember(body, func(name, value []byte) error {
		if string(name) == `"results"` {
			results = value
		}
		return nil
	})
	if err != nil {
		return err
	}
	s := scanner{data: results}
	if err := s.expect('['); err != nil {
		return errors.New("the answer to a batch has no results")
	}
	for i := 0; ; i++ {
		if c, err := s.peek(); err != nil || c == ']' {
			return err
		}
		if i > 0 {
			if err := s.expect(','); err != nil {
				return err
			}
		}
		item, err := s.value()
		if err != nil {
			return err
		}
		status, err := statusOfResult(item)
		if err != nil {
			return err
		}
		result(i, status)
	}
}

// statusOfResult reads one result: its status is a number only where the send
// was refused, and the word for the delivery's status where it was taken.
func statusOfResult(item []byte) (status int, err error) {
	status = http.StatusAccepted
	err = eachMember(item, func(name, value []byte) error {
		if string(name) == `"error"` && status == http.StatusAccepted {
			status = 0 // until the number is read
		}
		if string(name) == `"status"` && value[0] != '"' {
			status, err = strconv.Atoi(string(value))
			return err
		}
		return nil
	})
	return status, err
}
