package bench

import (
	"errors"
	"fmt"
	"math/bits"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// A payload is a JSON object that begins with its mark, and has text to its size:
//
//	{"mark":"rrrrrrrrssssssssnnnnnnnnnnnnnnnn","text":"order 7gh3k2p0 paid …"}
//	         |       |       moment of sending, ns of the system's monotonic clock
//	         |       sequence number of the send
//	         run
//
// all three in lower-case hexadecimal of fixed width, so that nobody
// needs a JSON encoder or parser for them.
//
// The text is another one in every send, half words and half random: it
// compresses to about half, as payloads do. One of equal letters would vanish in
// a log that compresses, and make it look better than it is.
const (
	markPrefix = `{"mark":"`
	markMiddle = `","text":"`
	markSuffix = `"}`
	markBytes  = 8 + 8 + 16

	minPayloadBytes = len(markPrefix) + markBytes + len(markMiddle) + len(markSuffix)
)

// maxSends bounds the sequence numbers of one round: two bit sets of 8 MiB.
// At 100,000 sends a second it is eleven minutes.
const maxSends = 1 << 26

// A mark identifies one send of one run and says when it left.
type mark struct {
	Run      uint32
	Sequence uint32
	SentAt   moment
}

// A moment is a reading of the system's monotonic clock, comparable between
// processes of one machine. time.Time's own monotonic reading is not: it counts
// from the start of its process.
type moment int64

// now reads the clock the way the time package does, without a system call:
// the generator and the receiver do it for every send.
func now() moment { return clock.moment + moment(time.Since(clock.read)) }

// clock is one reading of the monotonic clock in both forms. time.Since is exact
// from there on: it subtracts readings of that same clock.
var clock = func() (c struct {
	read   time.Time
	moment moment
}) {
	var before, after unix.Timespec
	err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &before)
	c.read = time.Now()
	if err := errors.Join(err, unix.ClockGettime(unix.CLOCK_MONOTONIC, &after)); err != nil {
		panic(fmt.Sprintf("bench: monotonic clock: %v", err)) // only a wrong clock id fails
	}
	c.moment = moment(before.Nano()/2 + after.Nano()/2)
	return c
}()

func (m moment) sub(earlier moment) time.Duration { return time.Duration(m - earlier) }

// appendPayload appends a payload of size bytes, at least minPayloadBytes, with
// the mark and the text that belongs to its sequence number: the same in every
// round and for every system.
func appendPayload(b []byte, size int, m mark) []byte {
	b = append(b, markPrefix...)
	b = appendMark(b, m)
	b = append(b, markMiddle...)
	prose := prose()
	// The golden section of the prose: it keeps the texts of a thousand sends in
	// a row apart, so that what is logged together does not repeat itself.
	const step = 648_055
	from := int(m.Sequence) * step % len(prose)
	for left := size - minPayloadBytes; left > 0; from = 0 {
		text := prose[from:min(len(prose), from+left)]
		b = append(b, text...)
		left -= len(text)
	}
	return append(b, markSuffix...)
}

func appendMark(b []byte, m mark) []byte {
	var hex [markBytes]byte
	putHex(hex[:8], uint64(m.Run))
	putHex(hex[8:16], uint64(m.Sequence))
	putHex(hex[16:], uint64(m.SentAt))
	return append(b, hex[:]...)
}

// prose is what texts are cut from: words and random letters in turns, always
// the same.
var prose = sync.OnceValue(func() []byte {
	const size = 1 << 20
	words := []string{"order ", "customer ", "invoice ", "paid ", "created ", "amount ", "currency ", "updated "}
	random := rand.New(rand.NewPCG(1, 2))
	var b []byte
	for len(b) < size {
		b = append(b, words[random.IntN(len(words))]...)
		for range 12 {
			b = append(b, "0123456789abcdefghijklmnopqrstuvwxyz"[random.IntN(36)])
		}
		b = append(b, ' ')
	}
	return b[:size]
})

func putHex(b []byte, v uint64) {
	const digits = "0123456789abcdef"
	for i := len(b) - 1; i >= 0; i-- {
		b[i] = digits[v&15]
		v >>= 4
	}
}

// readMark reads the mark of a payload; false where there is none.
func readMark(payload []byte) (mark, bool) {
	if len(payload) < len(markPrefix)+markBytes || string(payload[:len(markPrefix)]) != markPrefix {
		return mark{}, false
	}
	b := payload[len(markPrefix):]
	run, ok1 := readHex(b[:8])
	sequence, ok2 := readHex(b[8:16])
	sent, ok3 := readHex(b[16:32])
	return mark{uint32(run), uint32(sequence), moment(sent)}, ok1 && ok2 && ok3
}

func readHex(b []byte) (uint64, bool) {
	var v uint64
	for _, c := range b {
		switch {
		case '0' <= c && c <= '9':
			v = v<<4 | uint64(c-'0')
		case 'a' <= c && c <= 'f':
			v = v<<4 | uint64(c-'a'+10)
		default:
			return 0, false
		}
	}
	return v, true
}

// A sequenceSet is a set of sequence numbers below maxSends that any number of
// goroutines may add to. Its pages are zero until touched, so an untouched
// range costs address space only.
type sequenceSet struct{ words []atomic.Uint64 }

func newSequenceSet() *sequenceSet {
	return &sequenceSet{words: make([]atomic.Uint64, maxSends/64)}
}

// add reports whether n was not in the set yet. n must be below maxSends.
func (s *sequenceSet) add(n uint32) bool {
	bit := uint64(1) << (n % 64)
	return s.words[n/64].Or(bit)&bit == 0
}

// export returns the words up to the last one in use.
func (s *sequenceSet) export() sequences {
	var out sequences
	last := len(s.words)
	for last > 0 && s.words[last-1].Load() == 0 {
		last--
	}
	for i := range s.words[:last] {
		out = append(out, s.words[i].Load())
	}
	return out
}

// sequences is a finished sequenceSet: bit n%64 of word n/64.
type sequences []uint64

// minus counts what is in s and not in other.
func (s sequences) minus(other sequences) (count uint64) {
	for i, w := range s {
		if i < len(other) {
			w &^= other[i]
		}
		count += uint64(bits.OnesCount64(w))
	}
	return count
}

// from counts what is in s and not below n.
func (s sequences) from(n uint64) (count uint64) {
	for i, w := range s {
		switch first := uint64(i) * 64; {
		case first+64 <= n:
			continue
		case first < n:
			w &= ^uint64(0) << (n - first)
		}
		count += uint64(bits.OnesCount64(w))
	}
	return count
}

// MarshalText packs the words as hexadecimal for the way between processes.
func (s sequences) MarshalText() ([]byte, error) {
	out := make([]byte, 16*len(s))
	for i, w := range s {
		putHex(out[16*i:16*i+16], w)
	}
	return out, nil
}

// UnmarshalText is the inverse of MarshalText.
func (s *sequences) UnmarshalText(text []byte) error {
	if len(text)%16 != 0 || len(text) > maxSends/4 {
		return fmt.Errorf("bench: a set of %d hex digits", len(text))
	}
	*s = make(sequences, len(text)/16)
	for i := range *s {
		w, ok := readHex(text[16*i : 16*i+16])
		if !ok {
			return fmt.Errorf("bench: a set with a bad digit in word %d", i)
		}
		(*s)[i] = w
	}
	return nil
}
