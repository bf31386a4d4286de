package bench

import (
	"errors"
	"fmt"
)

// What only a receiver is asked.
const (
	doSwitch = "switch" // a port behaves otherwise; ReceiverCounts
	doProve  = "prove"  // see Receiver.Prove; ReceiverCounts
	doRecent = "recent" // see Receiver.Recent; a report.Distribution
)

// receiverReady is what a receiver says first.
type receiverReady struct {
	Targets []string
	CA      string // see Receiver.CA
	// Resolver is the address of the receiver's name server, if there is one.
	Resolver string
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
	err = t.enc.Encode(receiverReady{r.Targets(), r.CA(), r.Resolver()})
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
	case doProve:
		return r.Counts(), r.Prove(q.Text)
	case doRecent:
		if q.Reader < 0 || q.Reader >= recentReaders {
			return nil, fmt.Errorf("recent latencies of reader %d", q.Reader)
		}
		return r.Recent(q.Reader), nil
	case doReport:
		return r.report(), nil
	}
	return nil, fmt.Errorf("asked to %q", q.Do)
}
