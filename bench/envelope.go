package bench

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/go-json-experiment/json/jsontext"
)

// An envelope is what the forwarder needs of a send request. Its slices point
// into the request.
type envelope struct {
	Target []byte // as written between the quotes
	Method []byte // empty: POST
	Body   []byte // raw JSON, or the content of a JSON string
}

var errNoTarget = errors.New("no target")

// readEnvelope finds the top-level fields of a send request. It is as cheap as
// it can be, since the forwarder is to be the cheapest thing that delivers: it
// finds where values end and validates nothing else. An escaped target or method
// is refused, an escaped body is unescaped.
func readEnvelope(request []byte) (envelope, error) {
	var e envelope
	if err := eachMember(request, e.set); err != nil {
		return e, err
	}
	if len(e.Target) == 0 {
		return e, errNoTarget
	}
	return e, nil
}

// eachMember calls member with the name, in its quotes, and the value of every
// member of an object.
func eachMember(object []byte, member func(name, value []byte) error) error {
	s := scanner{data: object}
	if err := s.expect('{'); err != nil {
		return err
	}
	for first := true; ; first = false {
		c, err := s.peek()
		if err != nil || c == '}' {
			return err
		}
		if !first {
			if err := s.expect(','); err != nil {
				return err
			}
		}
		name, err := s.value()
		if err != nil {
			return err
		}
		if err := s.expect(':'); err != nil {
			return err
		}
		value, err := s.value()
		if err != nil {
			return err
		}
		if err := member(name, value); err != nil {
			return err
		}
	}
}

func (e *envelope) set(name, value []byte) (err error) {
	switch string(name) {
	case `"target"`:
		e.Target, err = plainString(value)
	case `"method"`:
		e.Method, err = plainString(value)
	case `"body"`:
		e.Body, err = bodyBytes(value)
	}
	return err
}

func plainString(value []byte) ([]byte, error) {
	if len(value) < 2 || value[0] != '"' || bytes.IndexByte(value, '\\') >= 0 {
		return nil, fmt.Errorf("not a plain string: %.40q", value)
	}
	return value[1 : len(value)-1], nil
}

// bodyBytes returns what the API sends for a body: the content of a string, the
// bytes of anything else as they came, nothing for null.
func bodyBytes(value []byte) ([]byte, error) {
	switch {
	case string(value) == "null":
		return nil, nil
	case value[0] != '"':
		return value, nil
	case bytes.IndexByte(value, '\\') < 0:
		return value[1 : len(value)-1], nil
	default:
		return jsontext.AppendUnquote(nil, value)
	}
}

// A scanner walks over JSON values without reading them.
type scanner struct {
	data []byte
	at   int
}

func (s *scanner) fault() error {
	return fmt.Errorf("no JSON at byte %d", s.at)
}

// peek skips white space and returns the next byte without taking it.
func (s *scanner) peek() (byte, error) {
	for ; s.at < len(s.data); s.at++ {
		switch c := s.data[s.at]; c {
		case ' ', '\t', '\n', '\r':
		default:
			return c, nil
		}
	}
	return 0, s.fault()
}

func (s *scanner) expect(want byte) error {
	if c, err := s.peek(); err != nil || c != want {
		return s.fault()
	}
	s.at++
	return nil
}

// value takes one value and returns its bytes.
func (s *scanner) value() ([]byte, error) {
	c, err := s.peek()
	if err != nil {
		return nil, err
	}
	start := s.at
	switch c {
	case '"':
		err = s.skipString()
	case '{', '[':
		err = s.skipNested()
	default:
		err = s.skipWord()
	}
	return s.data[start:s.at], err
}

func (s *scanner) skipString() error {
	for s.at++; s.at < len(s.data); s.at++ {
		switch s.data[s.at] {
		case '"':
			s.at++
			return nil
		case '\\':
			s.at++
		}
	}
	return s.fault()
}

// skipNested takes an object or array by counting brackets outside of strings.
func (s *scanner) skipNested() error {
	depth := 0
	for s.at < len(s.data) {
		switch s.data[s.at] {
		case '"':
			if err := s.skipString(); err != nil {
				return err
			}
			continue
		case '{', '[':
			depth++
		case '}', ']':
			depth--
		}
		s.at++
		if depth == 0 {
			return nil
		}
	}
	return s.fault()
}

// skipWord takes a number, true, false or null.
func (s *scanner) skipWord() error {
	start := s.at
	for s.at < len(s.data) && bytes.IndexByte([]byte(",:{}[]\" \t\r\n"), s.data[s.at]) < 0 {
		s.at++
	}
	if s.at == start {
		return s.fault()
	}
	return nil
}
