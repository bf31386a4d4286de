package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"

	"github.com/harepost/harepost/engine/account"
	"github.com/harepost/harepost/engine/delivery"
	"github.com/harepost/harepost/engine/state"
)

// checkPage is how many deliveries or queue positions are read at once.
const checkPage = 1000

// A stateReport is what is in the state. Deliveries that only the log has yet
// are not in it.
type stateReport struct {
	Applied    uint64           `json:"applied_index"`
	Low        uint64           `json:"needed_from_index"`
	Accounts   int              `json:"accounts"`
	Deliveries map[string]int64 `json:"deliveries"` // by status
	Bodies     int64            `json:"bodies"`
	BodyBytes  int64            `json:"body_bytes"`
	Queued     int64            `json:"queue_positions"`
	astray     []string         // queue positions without a delivery, the first few
}

// inspectState reads every row, body and queue position, so that every block
// on disk meets its checksum, and so that what refers to another is seen to.
func inspectState(dir string) (r stateReport, err error) {
	if _, err := os.Stat(dir); err != nil {
		return r, fmt.Errorf("state: %w", err)
	}
	// The state calls damage that it meets while reading a broken invariant;
	// here it is what we came for.
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("%v", v)
		}
	}()
	st, err := state.Open(dir, state.Options{ReadOnly: true, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return r, err
	}
	accounts := st.Directory().Accounts()
	r = stateReport{Applied: st.Applied(), Low: st.Low(), Accounts: len(accounts), Deliveries: make(map[string]int64)}
	for _, a := range accounts {
		err = errors.Join(err, r.readDeliveries(st, a))
	}
	err = errors.Join(err, r.readQueues(st))
	return r, errors.Join(err, st.Close())
}

func (r *stateReport) readDeliveries(st *state.State, a account.ID) error {
	var after delivery.ID
	for {
		page, err := st.List(a, &delivery.Filter{}, after, checkPage)
		if err != nil {
			return err
		}
		for i := range page.Deliveries {
			d := &page.Deliveries[i]
			r.Deliveries[d.Status.String()]++
			if err := r.readBody(st, a, d.ID); err != nil {
				return fmt.Errorf("state: delivery %s of %s: %w", d.ID, a, err)
			}
		}
		if after = page.Next; after == (delivery.ID{}) {
			return nil
		}
	}
}

// readBody reads a delivery's body. Retention may have removed that of a
// finished one.
func (r *stateReport) readBody(st *state.State, a account.ID, id delivery.ID) error {
	found, err := st.Find(a, id)
	if err != nil {
		return err
	}
	body, err := st.Body(&found)
	if errors.Is(err, state.ErrNotFound) && found.Status.Final() {
		return nil
	}
	if err != nil {
		return fmt.Errorf("body: %w", err)
	}
	r.Bodies++
	r.BodyBytes += int64(len(body))
	return nil
}

func (r *stateReport) readQueues(st *state.State) error {
	type lane struct {
		key   state.Lane
		first state.Position
	}
	var lanes []lane
	if err := st.Lanes(func(l state.Lane, first state.Position) { lanes = append(lanes, lane{l, first}) }); err != nil {
		return err
	}
	for _, l := range lanes {
		if err := r.readQueue(st, l.key, l.first); err != nil {
			return err
		}
	}
	return nil
}

func (r *stateReport) readQueue(st *state.State, l state.Lane, from state.Position) error {
	for more := true; more; {
		var page []state.Position
		var err error
		// One more than is used: it is where the next page begins.
		if page, more, err = st.QueuePage(l, from, checkPage+1); err != nil {
			return err
		}
		if more {
			from = page[checkPage]
			page = page[:checkPage]
		}
		for _, p := range page {
			r.Queued++
			_, _, err := st.FindPending(l.Account, p.ID, p.Attempt)
			switch {
			case errors.Is(err, state.ErrNotFound):
				if len(r.astray) < 10 {
					r.astray = append(r.astray, fmt.Sprintf("state: attempt %d of %s is queued, but that is not pending", p.Attempt, p.ID))
				}
			case err != nil:
				return fmt.Errorf("state: queued delivery %s: %w", p.ID, err)
			}
		}
	}
	return nil
}

// contradictions are what cannot be, although every byte is as it was written.
// Every pending delivery has one place in a queue, or it is never attempted.
func (r *stateReport) contradictions() []string {
	found := r.astray
	pending := r.Deliveries[delivery.Queued.String()] + r.Deliveries[delivery.Retrying.String()]
	if pending != r.Queued {
		found = append(found, fmt.Sprintf("state: %d deliveries are pending, but %d are queued", pending, r.Queued))
	}
	return found
}
