package bench

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// A delay is a distribution of waiting times; the zero delay is none.
type delay struct {
	shape  delayShape
	middle time.Duration // the mean; of a lognormal delay the median
	// width is half the range of a uniform delay, sigma that of a lognormal one.
	width time.Duration
	sigma float64
}

type delayShape int

const (
	delayConstant delayShape = iota
	delayUniform
	delayExponential
	delayLognormal
)

// longestDelay bounds what a path may ask for, and the tails of distributions:
// an arrival that waits keeps a connection.
const longestDelay = 5 * time.Minute

// parseDelay reads 50ms, uniform:10ms:90ms, exp:50ms or lognormal:50ms:0.8.
func parseDelay(text string) (delay, error) {
	shape, rest, ok := strings.Cut(text, ":")
	if !ok {
		d, err := durationWithin(text)
		return delay{middle: d}, err
	}
	switch shape {
	case "uniform":
		return parseUniformDelay(rest)
	case "exp":
		mean, err := durationWithin(rest)
		return delay{shape: delayExponential, middle: mean}, err
	case "lognormal":
		median, sigma, _ := strings.Cut(rest, ":")
		d := delay{shape: delayLognormal}
		var err error
		if d.middle, err = durationWithin(median); err != nil {
			return d, err
		}
		if d.sigma, err = strconv.ParseFloat(sigma, 64); err != nil || !(d.sigma > 0 && d.sigma <= 5) {
			return d, fmt.Errorf("%q is no sigma above 0 and up to 5", sigma)
		}
		return d, nil
	}
	return delay{}, fmt.Errorf("no distribution %q", shape)
}

func parseUniformDelay(text string) (delay, error) {
	low, high, _ := strings.Cut(text, ":")
	least, err := time.ParseDuration(low)
	if err != nil {
		return delay{}, err
	}
	most, err := durationWithin(high)
	if err != nil {
		return delay{}, err
	}
	if least < 0 || least > most {
		return delay{}, fmt.Errorf("from %s to %s", least, most)
	}
	return delay{shape: delayUniform, middle: (least + most) / 2, width: (most - least) / 2}, nil
}

// durationWithin reads a duration above 0 and up to longestDelay.
func durationWithin(text string) (time.Duration, error) {
	d, err := time.ParseDuration(text)
	if err != nil {
		return 0, err
	}
	if d <= 0 || d > longestDelay {
		return 0, fmt.Errorf("%s is not above 0 and up to %s", d, longestDelay)
	}
	return d, nil
}

// draw is the delay of one arrival.
func (l delay) draw(d dice) time.Duration {
	var factor float64
	switch l.shape {
	case delayConstant:
		return l.middle
	case delayUniform:
		return l.middle + time.Duration((2*d.ofArrival(rollDelay)-1)*float64(l.width))
	case delayExponential:
		factor = -math.Log(1 - d.ofArrival(rollDelay))
	case delayLognormal:
		// Box and Muller; 1-u is above 0.
		normal := math.Sqrt(-2*math.Log(1-d.ofArrival(rollDelay))) * math.Cos(2*math.Pi*d.ofArrival(rollAngle))
		factor = math.Exp(l.sigma * normal)
	}
	return time.Duration(min(factor*float64(l.middle), float64(longestDelay)))
}
