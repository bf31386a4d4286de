package torture

import (
	"errors"
	"fmt"
	"io"
	"time"
)

// Options are what a run is made of. Zero fields get the defaults named here.
type Options struct {
	Binary string // the program, as a path
	Other  string // a build of another version of it, as a path; empty: none, and UpgradeAll is left out
	Dir    string // where the nodes' directories are made

	// Nodes is 3. With 1 there is no cluster, and what is tried is the experiment:
	// nothing is accepted while the node is away.
	Nodes int

	// Away is how many sends are accepted while a node is away that comes back, and
	// is to need a snapshot; 0: none, and the events are left out that are about that.
	// They are sent in batches, as fast as it goes. Then the nodes have a small log.
	Away int

	Events int    // how many, of Kinds in turns. Default: 10
	Kinds  []Kind // Default: all that the place allows
	Seed   uint64
	Rate   int // sends a second. Default: 300

	// Longest bounds how long a cable is out, a process paused. Default: 30 s.
	Longest time.Duration
	// Patience is how long everything may take to be well again after an event.
	// Default: 2 min.
	Patience time.Duration
	// Resume is how soon sends must be accepted again after an event that leaves a
	// majority. Default: 5 s.
	Resume time.Duration
	// Retry is how long the retries of a send with an idempotency key may fail in an
	// event that operators make in the ordinary course. Default: 2 s.
	Retry time.Duration
	// QuietEvery is after how many events the load rests and everything is
	// compared. Default: 10.
	QuietEvery int

	// Isolated says that this process was started with [Isolate].
	Isolated bool

	// LogDir, if set, gets all that the nodes log, a file for each.
	LogDir string

	Progress io.Writer // is told of each event, in a line
}

func (o *Options) complete() error {
	setDefault(&o.Nodes, 3)
	setDefault(&o.Events, 10)
	setDefault(&o.Rate, 300)
	setDefault(&o.Longest, 30*time.Second)
	setDefault(&o.Patience, 2*time.Minute)
	setDefault(&o.Resume, 5*time.Second)
	setDefault(&o.Retry, 2*time.Second)
	setDefault(&o.QuietEvery, 10)
	if o.Progress == nil {
		o.Progress = io.Discard
	}
	if len(o.Kinds) == 0 {
		for _, k := range kinds {
			o.Kinds = append(o.Kinds, k.name)
		}
	}
	o.Kinds = o.possible()
	switch {
	case o.Binary == "" || o.Dir == "":
		return errors.New("torture: no program or no directory")
	case o.Nodes != 1 && o.Nodes != mostNodes:
		return fmt.Errorf("torture: %d nodes, want 1 or 3", o.Nodes)
	case len(o.Kinds) == 0:
		return errors.New("torture: of the events none is possible here")
	}
	return nil
}

// possible is what of the kinds the place allows.
func (o *Options) possible() (possible []Kind) {
	for _, name := range o.Kinds {
		if k := kindOf(name); k != nil && o.allows(k) {
			possible = append(possible, name)
		}
	}
	return possible
}

func (o *Options) allows(k *kind) bool {
	switch {
	case k.isolated && !o.Isolated, k.cluster && o.Nodes == 1:
		return false
	case k.name == UpgradeAll:
		return o.Other != ""
	case k.name == ComeBack, k.name == DieComingBack:
		return o.Away > 0
	}
	return true
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}
