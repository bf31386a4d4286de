package bench

import (
	"errors"
	"fmt"
)

const doSwitch = "switch" // receiver: a port behaves otherwise; ReceiverCounts

// receiverReady is what a receiver says first.
type receiverReady struct {
	Targets []string
	CA      string // see Receiver.CA
}

// receiver plays a Receiver.
func (t talk) receiver() error {
	var o ReceiverOptions
	if err := t.dec.Decode(&o); err != nil {
		return err
	}
	r, err := NewReceiver(o)
	if err != nil {
		return err
	}
	err = t.enc.Encode(receiverReady{r.Targets(), r.CA()})
	if err == nil {
		err = t.serve(r.respond)
	}
	return errors.Join(err, r.Close())
}

// respond answers one request of the parent.
func (r *Receiver) respond(q request) (any, error) {
	switch q.Do {
	case doMeasure:
		r.Measure()
		return r.Counts(), nil
	case doCounts:
		return r.Counts(), nil
	case doSwitch:
		return r.Counts(), r.Switch(q.Port, q.Behaviour)
	case doReport:
		return r.report(), nil
	}
	return nil, fmt.Errorf("asked to %q", q.Do)
}
