package bench

import (
	"fmt"
	"net/url"
	"strconv"
)

// A writer of requests knows the load's parts that do not change, and is shared
// by all senders.
type requestWriter struct {
	options GeneratorOptions
	heads   [][]byte // by account, or by target when direct: up to the length
	targets [][]byte // of an item: `{"target":"…","body":`
	tail    []byte   // of an item, without its key
}

// headRoom is what is left free before a body, for its head.
const headRoom = 1 << 10

func newRequestWriter(o GeneratorOptions) (*requestWriter, error) {
	w := &requestWriter{options: o}
	for _, t := range o.Targets {
		w.targets = append(w.targets, []byte(`{"target":`+strconv.Quote(t)+`,"body":`))
	}
	if o.Delivery != "" {
		w.tail = append(w.tail, `,"delivery":`+o.Delivery...)
	}
	w.tail = append(w.tail, '}')
	if o.Direct {
		for _, t := range o.Targets {
			u, err := url.Parse(t)
			if err != nil {
				return nil, fmt.Errorf("bench: target: %w", err)
			}
			w.heads = append(w.heads, requestHead(u.RequestURI(), u.Host, ""))
		}
		return w, nil
	}
	u, err := url.Parse(o.URL)
	if err != nil {
		return nil, fmt.Errorf("bench: url of the system: %w", err)
	}
	path := "/v1/send"
	if o.Batch > 0 {
		path = "/v1/send/batch"
	}
	if len(o.Keys) == 0 {
		w.heads = append(w.heads, requestHead(path, u.Host, ""))
	}
	for _, key := range o.Keys {
		w.heads = append(w.heads, requestHead(path, u.Host, key))
	}
	for _, h := range w.heads {
		if len(h) > headRoom-32 {
			return nil, fmt.Errorf("bench: an API key or target of %d bytes", len(h))
		}
	}
	return w, nil
}

func requestHead(path, host, key string) []byte {
	h := "POST " + path + " HTTP/1.1\r\nHost: " + host + "\r\n"
	if key != "" {
		h += "Authorization: Bearer " + key + "\r\n"
	}
	return []byte(h + "Content-Type: application/json\r\nContent-Length: ")
}

// write makes the request of count sends from first on in b, and returns it and
// how many bytes of payload are in it. target is the sender's, for a direct POST.
func (w *requestWriter) write(b []byte, first uint32, count int, due moment, target int) (request, buffer []byte, payload int) {
	if b == nil {
		b = make([]byte, 4*headRoom)
	}
	b = b[:headRoom]
	m := mark{Run: w.options.Run, Sequence: first, SentAt: due}
	head := w.heads[target%len(w.heads)]
	switch {
	case w.options.Direct:
		payload = w.options.Payload.of(first)
		b = appendPayload(b, payload, m)
	case w.options.Batch > 0:
		// One batch is one account's.
		head = w.heads[int(first)/w.options.Batch%len(w.heads)]
		b = append(b, '[')
		for i := range count {
			if i > 0 {
				b = append(b, ',')
			}
			m.Sequence = first + uint32(i)
			var size int
			b, size = w.appendItem(b, m)
			payload += size
		}
		b = append(b, ']')
	default:
		head = w.heads[int(first)%len(w.heads)]
		b, payload = w.appendItem(b, m)
	}
	length := len(b) - headRoom
	var number [24]byte
	digits := append(strconv.AppendInt(number[:0], int64(length), 10), "\r\n\r\n"...)
	start := headRoom - len(head) - len(digits)
	copy(b[start:], head)
	copy(b[start+len(head):], digits)
	return b[start:], b, payload
}

// appendItem appends one send. Accounts take turns, and within an account the
// targets do, so that every lane gets its share.
func (w *requestWriter) appendItem(b []byte, m mark) ([]byte, int) {
	size := w.options.Payload.of(m.Sequence)
	b = append(b, w.targets[int(m.Sequence)/len(w.heads)%len(w.targets)]...)
	b = appendPayload(b, size, m)
	if w.options.Repeat > 0 {
		b = append(b, `,"idempotency_key":"`...)
		b = appendMark(b, mark{Run: m.Run, Sequence: m.Sequence})
		b = append(b, '"')
	}
	if n := w.options.OrderingKeys; n > 0 {
		b = append(b, `,"ordering_key":"key_`...)
		b = strconv.AppendUint(b, uint64(m.Sequence)%uint64(n), 10)
		b = append(b, '"')
	}
	return append(b, w.tail...), size
}
