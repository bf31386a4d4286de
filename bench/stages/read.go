package stages

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"math"

	"github.com/google/pprof/profile"
)

// MaxBytes bounds a profile that is read, packed and unpacked. One of ten seconds
// of the engine has some tens of KiB.
const MaxBytes = 64 << 20

// ErrNoCPUProfile says that what was read is no CPU profile.
var ErrNoCPUProfile = errors.New("not a CPU profile in pprof's format")

// ErrTooLarge says that a profile is longer than MaxBytes.
var ErrTooLarge = fmt.Errorf("longer than %d MiB", MaxBytes>>20)

// Read reads a CPU profile as runtime/pprof writes it, and breaks it down. One
// without samples costs nothing; that is no error.
func Read(r io.Reader) (*Breakdown, error) { return read(r, MaxBytes) }

func read(r io.Reader, limit int64) (*Breakdown, error) {
	data, err := readAll(r, limit)
	if err != nil {
		return nil, fmt.Errorf("stages: read a profile: %w", err)
	}
	// Unpacked here: the library would unpack without a bound, and takes what it
	// does not know for one of several older formats.
	packed, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("stages: %w: %w", ErrNoCPUProfile, err)
	}
	if data, err = readAll(packed, limit); err != nil {
		return nil, fmt.Errorf("stages: unpack a profile: %w", err)
	}
	p, err := profile.ParseUncompressed(data)
	if err == nil {
		err = p.CheckValid()
	}
	if err != nil {
		return nil, fmt.Errorf("stages: %w: %w", ErrNoCPUProfile, err)
	}
	value := cpuValue(p)
	if value < 0 {
		return nil, fmt.Errorf("stages: %w: its samples are not of CPU time in nanoseconds", ErrNoCPUProfile)
	}
	if err := checkValues(p, value); err != nil {
		return nil, fmt.Errorf("stages: %w: %w", ErrNoCPUProfile, err)
	}
	return breakDown(p, value), nil
}

// readAll reads all of r, of which there must not be more than limit bytes.
func readAll(r io.Reader, limit int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = ErrTooLarge
	}
	return data, err
}

// cpuValue is the index of the samples' CPU time, -1 if they have none.
func cpuValue(p *profile.Profile) int {
	for i, t := range p.SampleType {
		if t.Type == "cpu" && t.Unit == "nanoseconds" {
			return i
		}
	}
	return -1
}

// checkValues makes sure that the samples can be summed up.
func checkValues(p *profile.Profile, value int) error {
	left := int64(math.MaxInt64)
	for _, s := range p.Sample {
		d := s.Value[value]
		if d < 0 || d > left {
			return fmt.Errorf("a sample of %d ns", d)
		}
		left -= d
	}
	return nil
}
