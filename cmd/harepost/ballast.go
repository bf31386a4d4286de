package main

import "os"

// ballastBytes is how much the collector is made to believe is in use, see
// newBallast. Of 16, 32 and more MiB this is where more gained nothing.
const ballastBytes = 32 << 20

// newBallast returns memory without pointers that is never touched, and so takes
// address space and no memory. A busy server has next to nothing on Go's heap
// that lives long (Pebble keeps its memory outside), so that it would collect
// many times a second for a few MiB each. With the ballast the heap grows by as
// much before it is collected, whatever else is on it; a large heap is collected
// as often as usual. Who sets GOGC or GOMEMLIMIT has chosen otherwise.
func newBallast() []byte {
	for _, name := range []string{"GOGC", "GOMEMLIMIT"} {
		if os.Getenv(name) != "" {
			return nil
		}
	}
	return make([]byte, ballastBytes)
}
