package bench

import (
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"
)

// A capacity is how many arrivals a receiver takes a second, and what becomes of
// more: they fail at once, or wait for their turn.
type capacity struct {
	every time.Duration // between two that are taken
	how   manner        // of what is too much; mannerWell: it waits

	mu   sync.Mutex
	free moment // when the next turn is, if nothing came before
}

// capacityBurst is how much of a second's arrivals may come at once: senders
// are not as even as a clock.
const capacityBurst = 100 * time.Millisecond

// parseCapacity reads 500:503, 500:429 or 500:slow.
func parseCapacity(text string) (*capacity, error) {
	n, excess, _ := strings.Cut(text, ":")
	rate, err := strconv.ParseFloat(n, 64)
	if err != nil || !(rate >= 0.1 && rate <= 1e6) {
		return nil, fmt.Errorf("%q is no rate from 0.1 to a million", n)
	}
	c := &capacity{every: time.Duration(float64(time.Second) / rate)}
	if excess == "slow" {
		return c, nil
	}
	status, err := wholeWithin(excess, 400, 599)
	if err != nil {
		return nil, fmt.Errorf("%q is not what becomes of more: slow, or a status from 400 to 599", excess)
	}
	c.how = manner(status)
	return c, nil
}

// take says how an arrival is answered, and after how long.
func (c *capacity) take(at moment) (manner, time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.free = max(c.free, at-moment(capacityBurst))
	wait := c.free.sub(at)
	if wait > 0 && c.how != mannerWell {
		return c.how, 0
	}
	c.free += moment(c.every)
	return mannerWell, min(max(wait, 0), longestDelay)
}
