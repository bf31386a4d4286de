package bench

import "sync/atomic"

// dice decide by what they are thrown for: equal dice fall equally.
type dice struct {
	seed     uint64
	sequence uint32
	arrival  uint32 // of that send, from 1
}

// A roll keeps the decisions about one arrival apart.
type roll uint64

const (
	rollSend roll = iota
	rollFailure
	rollDelay
	rollAngle
)

// ofSend is uniform in [0,1), the same for every arrival of a send.
func (d dice) ofSend() float64 {
	d.arrival = 0
	return d.ofArrival(rollSend)
}

// ofArrival is uniform in [0,1).
func (d dice) ofArrival(r roll) float64 {
	x := mix(d.seed + mix(uint64(d.sequence)<<32|uint64(d.arrival)<<8|uint64(r)))
	return float64(x>>11) / (1 << 53)
}

// mix is the finalizer of splitmix64: every bit of x changes half of the result.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// arrivalNumbers count the arrivals of each send, a byte for each, up to 255. A
// page is made when a send of it first meets a behaviour that can fail.
type arrivalNumbers struct {
	pages [maxSends / arrivalPage]atomic.Pointer[[arrivalPage / 4]atomic.Uint32]
}

const arrivalPage = 1 << 16

// next numbers one more arrival of a send, from 1.
func (a *arrivalNumbers) next(sequence uint32) uint32 {
	page := &a.pages[sequence/arrivalPage]
	for page.Load() == nil {
		page.CompareAndSwap(nil, new([arrivalPage / 4]atomic.Uint32))
	}
	word := &page.Load()[sequence%arrivalPage/4]
	shift := sequence % 4 * 8
	for {
		old := word.Load()
		n := old >> shift & 255
		if n == 255 {
			return n
		}
		if word.CompareAndSwap(old, old+1<<shift) {
			return n + 1
		}
	}
}
