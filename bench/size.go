package bench

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// maxPayloadBytes bounds a payload: with its envelope it fits into a request of
// the engine's default size.
const maxPayloadBytes = 1 << 19

// Sizes are the sizes of payloads, in bytes, as ParseSizes reads them. They are
// given by their quantiles, so that the size of a send follows from its sequence
// number alone and is the same for every system.
type Sizes struct {
	text string
	at   func(quantile float64) float64
}

// FixedSize is one size for all payloads.
func FixedSize(bytes int) Sizes {
	return Sizes{text: strconv.Itoa(bytes), at: func(float64) float64 { return float64(bytes) }}
}

// ParseSizes reads
//
//	300                          one size
//	uniform:100-10000            every size between the two as often
//	lognormal:300,p99=64KiB      median and 99th percentile; cut off at 512 KiB
//	mix:300x90,65536x10          sizes, each with its weight
//
// A size is a number of bytes, or of KiB with that suffix. Sizes below the 53
// bytes of a payload's mark become 53.
func ParseSizes(text string) (Sizes, error) {
	kind, rest, named := strings.Cut(text, ":")
	if !named {
		kind, rest = "fixed", text
	}
	var at func(float64) float64
	var err error
	switch kind {
	case "fixed":
		var size float64
		size, err = parseSize(rest)
		at = func(float64) float64 { return size }
	case "uniform":
		at, err = parseUniform(rest)
	case "lognormal":
		at, err = parseLognormal(rest)
	case "mix":
		at, err = parseMix(rest)
	default:
		err = errors.New("want a size, or one of uniform, lognormal and mix with its values")
	}
	if err != nil {
		return Sizes{}, fmt.Errorf("bench: payload sizes %q: %w", text, err)
	}
	return Sizes{text, at}, nil
}

// parseSize reads one size.
func parseSize(text string) (float64, error) {
	size, err := parseBytes(text)
	if err != nil || !(size >= 1 && size <= maxPayloadBytes) {
		return 0, fmt.Errorf("%q is not a size of 1 to %d bytes (as in 300 or 64KiB)", text, maxPayloadBytes)
	}
	return size, nil
}

// parseBytes reads a number of bytes, of KiB or of MiB.
func parseBytes(text string) (float64, error) {
	number, unit := text, 1.0
	if n, kib := strings.CutSuffix(text, "KiB"); kib {
		number, unit = n, 1<<10
	} else if n, mib := strings.CutSuffix(text, "MiB"); mib {
		number, unit = n, 1<<20
	}
	n, err := strconv.ParseFloat(number, 64)
	return n * unit, err
}

// Bytes are a number of bytes, written as 300, 64KiB or 2MiB.
type Bytes int

// UnmarshalText reads what String writes.
func (b *Bytes) UnmarshalText(text []byte) error {
	n, err := parseBytes(string(text))
	if err != nil || !(n >= 1 && n <= math.MaxInt32) {
		return fmt.Errorf("bench: %q is not a size (as in 300, 64KiB or 2MiB)", text)
	}
	*b = Bytes(n)
	return nil
}

func (b Bytes) String() string {
	switch {
	case b%(1<<20) == 0:
		return fmt.Sprintf("%dMiB", b>>20)
	case b%(1<<10) == 0:
		return fmt.Sprintf("%dKiB", b>>10)
	}
	return strconv.Itoa(int(b))
}

func parseUniform(text string) (func(float64) float64, error) {
	from, to, ok := strings.Cut(text, "-")
	if !ok {
		return nil, errors.New("want uniform:LEAST-MOST")
	}
	least, err1 := parseSize(from)
	most, err2 := parseSize(to)
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	if least > most {
		return nil, errors.New("the least is above the most")
	}
	return func(q float64) float64 { return least + q*(most-least) }, nil
}

// z99 is the 99th percentile of the normal distribution.
const z99 = 2.3263478740408408

func parseLognormal(text string) (func(float64) float64, error) {
	first, second, ok := strings.Cut(text, ",p99=")
	if !ok {
		return nil, errors.New("want lognormal:MEDIAN,p99=SIZE")
	}
	median, err1 := parseSize(first)
	p99, err2 := parseSize(second)
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	if p99 < median {
		return nil, errors.New("the 99th percentile is below the median")
	}
	sigma := math.Log(p99/median) / z99
	return func(q float64) float64 { return median * math.Exp(sigma*math.Sqrt2*math.Erfinv(2*q-1)) }, nil
}

func parseMix(text string) (func(float64) float64, error) {
	var sizes, upTo []float64 // the weights of a size and of all before it
	total := 0.0
	for part := range strings.SplitSeq(text, ",") {
		first, second, ok := strings.Cut(part, "x")
		if !ok {
			return nil, errors.New("want mix:SIZExWEIGHT,…")
		}
		size, err := parseSize(first)
		if err != nil {
			return nil, err
		}
		weight, err := strconv.ParseFloat(second, 64)
		if err != nil || !(weight > 0 && weight < 1e9) {
			return nil, fmt.Errorf("%q is not a weight", second)
		}
		total += weight
		sizes, upTo = append(sizes, size), append(upTo, total)
	}
	return func(q float64) float64 {
		i := 0
		for i < len(upTo)-1 && q*total >= upTo[i] {
			i++
		}
		return sizes[i]
	}, nil
}

// of returns the size of the send with that sequence number.
func (s Sizes) of(sequence uint32) int {
	return int(min(max(s.at(fraction(sequence)), float64(minPayloadBytes)), maxPayloadBytes))
}

// fraction spreads sequence numbers over [0, 1) as if at random: splitmix64.
func fraction(sequence uint32) float64 {
	z := (uint64(sequence) + 1) * 0x9e3779b97f4a7c15
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return float64((z^z>>31)>>11) / (1 << 53)
}

// String is the text that ParseSizes reads.
func (s Sizes) String() string { return s.text }

// MarshalText is String, for the way between processes.
func (s Sizes) MarshalText() ([]byte, error) { return []byte(s.text), nil }

// UnmarshalText is ParseSizes. Of nothing it makes the Sizes of nothing.
func (s *Sizes) UnmarshalText(text []byte) (err error) {
	if len(text) == 0 {
		*s = Sizes{}
		return nil
	}
	*s, err = ParseSizes(string(text))
	return err
}
