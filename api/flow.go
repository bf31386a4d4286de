package api

import (
	"fmt"
	"strconv"

	"github.com/harepost/harepost/engine"
)

// flowKeyChars bounds a flow key.
const flowKeyChars = 255

// flowKey reads the key of the lane that the send is to go into.
func (r *sendRequest) flowKey() error {
	key, given, err := r.str("flow_key")
	if err != nil || !given {
		return err
	}
	if !isFlowKey(key) {
		return refused("flow_key", "it must have 1 to "+strconv.Itoa(flowKeyChars)+
			" printable characters, without a space at either end")
	}
	r.send.Flow.Key = alias(key)
	return nil
}

func isFlowKey(key []byte) bool {
	chars, ok := isPrintable(key)
	return ok && chars > 0 && chars <= flowKeyChars
}

// flow refuses limits of no flow: those of a destination are set by PATCH, for
// all sends to it alike.
func (r *sendRequest) flow() error {
	const reason = "it needs a flow_key; the limits of a destination are set with PATCH /v1/destinations/{host}"
	switch {
	case r.send.Flow.Key != "":
		return nil
	case r.hasRate:
		return refused("rate", reason)
	case r.hasParallelism:
		return refused("parallelism", reason)
	}
	return nil
}

// laneRate reads how many attempts a lane may start in a second; false means null.
func (d *decoder) laneRate(field string) (rate float64, given bool, err error) {
	v, err := d.value()
	if err != nil || v.Kind() == 'n' {
		return 0, false, err
	}
	allowed := fmt.Sprintf("a number from %v to %d", engine.LeastRate, engine.MostRate)
	if v.Kind() != '0' {
		return 0, false, invalid(field, kindName(v), allowed)
	}
	rate, err = strconv.ParseFloat(alias(v), 64)
	if err != nil || rate < engine.LeastRate || rate > engine.MostRate {
		return 0, false, invalid(field, clip(v), allowed)
	}
	return rate, true, nil
}

// laneParallelism reads how many attempts a lane may have under way; false means
// null.
func (d *decoder) laneParallelism(field string) (n int, given bool, err error) {
	v, given, err := d.whole(field)
	if err == nil && given && (v < 1 || v > engine.MostParallelism) {
		err = invalid(field, strconv.FormatInt(v, 10), fmt.Sprintf("from 1 to %d", engine.MostParallelism))
	}
	return int(v), given, err
}
