package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/pprof"
	"time"
)

// The roles that Child plays.
const (
	roleReceiver  = "receiver"
	roleForwarder = "forwarder"
	roleGenerator = "generator"
	roleTrivial   = "trivial"
)

// A request is one line from the parent to a child, after the first line, which
// holds the options of the child's role.
type request struct {
	Do       string        `json:"do"`
	Path     string        `json:"path,omitempty"`        // of a profile
	Duration time.Duration `json:"duration_ns,omitempty"` // of a profile

	Port      int    `json:"port,omitempty"`      // of a switch, see Receiver.Switch
	Behaviour string `json:"behaviour,omitempty"` // likewise
	Reader    int    `json:"reader,omitempty"`    // see Receiver.Recent
	Text      string `json:"text,omitempty"`      // of a proof, see Receiver.Prove
}

const (
	doCounts  = "counts"  // receiver: ReceiverCounts
	doMeasure = "measure" // receiver: the warm-up is over; ReceiverCounts
	doReport  = "report"  // receiver: receiverReport
	doProfile = "profile" // forwarder: forwarderStatus when it is written
	doStatus  = "status"  // forwarder: forwarderStatus
)

// What a child says first, when it is ready.
type (
	forwarderReady struct{ Addr string }
	trivialReady   struct{ Addr string }
)

// generatorSaid is one line of a generator: how far it is, or what it did.
type generatorSaid struct {
	Generating *Generating `json:"generating,omitempty"`
	Done       *Generated  `json:"done,omitempty"`
}

type forwarderStatus struct {
	Lost uint64 `json:"lost"`
}

// Child plays one role of the harness, a process of its own, until in ends: it
// reads requests from in and answers on out, one line of JSON each. Only the
// harness starts it; a command line hides it.
func Child(ctx context.Context, role string, in io.Reader, out io.Writer) error {
	lines := talk{json.NewDecoder(in), json.NewEncoder(out)}
	var err error
	switch role {
	case roleReceiver:
		err = lines.receiver()
	case roleForwarder:
		err = lines.forwarder()
	case roleGenerator:
		err = lines.generator(ctx)
	case roleTrivial:
		err = lines.trivial()
	default:
		err = errors.New("no such role")
	}
	if err != nil {
		return fmt.Errorf("bench: child %q: %w", role, err)
	}
	return nil
}

// talk is the child's end of the conversation.
type talk struct {
	dec *json.Decoder
	enc *json.Encoder
}

// serve answers requests until the parent ends the conversation.
func (t talk) serve(answer func(request) (any, error)) error {
	for {
		var r request
		if err := t.dec.Decode(&r); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		a, err := answer(r)
		if err != nil {
			return err
		}
		if err := t.enc.Encode(a); err != nil {
			return err
		}
	}
}

func (t talk) forwarder() error {
	var o ForwarderOptions
	if err := t.dec.Decode(&o); err != nil {
		return err
	}
	f, err := NewForwarder(o)
	if err != nil {
		return err
	}
	err = t.enc.Encode(forwarderReady{f.Addr()})
	if err == nil {
		err = t.serve(func(q request) (any, error) {
			switch q.Do {
			case doProfile:
				return forwarderStatus{f.Lost()}, profileSelf(q.Path, q.Duration)
			case doStatus:
				return forwarderStatus{f.Lost()}, nil
			}
			return nil, fmt.Errorf("asked to %q", q.Do)
		})
	}
	return errors.Join(err, f.Close())
}

func (t talk) generator(ctx context.Context) error {
	var o GeneratorOptions
	if err := t.dec.Decode(&o); err != nil {
		return err
	}
	var said error
	g, err := Generate(ctx, o, func(far Generating) {
		said = errors.Join(said, t.enc.Encode(generatorSaid{Generating: &far}))
	})
	if err := errors.Join(err, said); err != nil {
		return err
	}
	return t.enc.Encode(generatorSaid{Done: &g})
}

func (t talk) trivial() error {
	if err := t.dec.Decode(new(struct{})); err != nil {
		return err
	}
	s, err := serveTrivial()
	if err != nil {
		return err
	}
	err = t.enc.Encode(trivialReady{s.listeners[0].Addr().String()})
	if err == nil {
		err = t.serve(func(q request) (any, error) { return nil, fmt.Errorf("asked to %q", q.Do) })
	}
	return errors.Join(err, s.close())
}

// profileSelf writes a CPU profile of this process over the next d.
func profileSelf(path string, d time.Duration) error {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	if err := pprof.StartCPUProfile(file); err != nil {
		return errors.Join(err, file.Close())
	}
	<-time.After(d)
	pprof.StopCPUProfile()
	return file.Close()
}
