package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/harepost/harepost/engine/delivery"
	"github.com/harepost/harepost/engine/state"
)

// A stateReport is what is in the state. Deliveries that only the log has yet
// are not in it.
type stateReport struct {
	Applied    uint64           `json:"applied_index"`
	Low        uint64           `json:"needed_from_index"`
	Accounts   int              `json:"accounts"`
	Deleted    int64            `json:"deleted_accounts"`   // of which something is left to sweep
	Leaving    int64            `json:"leaving_deliveries"` // what is left, in none of the counts below
	Deliveries map[string]int64 `json:"deliveries"`         // by status
	Bodies     int64            `json:"bodies"`             // kept beside their deliveries
	Queued     int64            `json:"queue_positions"`
	Lanes      int64            `json:"lanes"`
	Waiting    int64            `json:"waiting_for_order"`  // deliveries behind another of their ordering key
	Held       int64            `json:"held_ordering_keys"` // by a dead letter
	findings   []error
}

// inspectState has the state verify itself.
func inspectState(disk vfs.FS, dir string) (r stateReport, err error) {
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
	st, err := state.Open(dir, state.Options{FS: disk, ReadOnly: true, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return r, err
	}
	v, err := st.Verify()
	r = stateReport{
		Applied: st.Applied(), Low: st.Low(), Accounts: len(st.Directory().Accounts()),
		Deleted: v.Deleted, Leaving: v.Leaving, Waiting: v.Waiting, Held: v.Held,
		Deliveries: make(map[string]int64), Bodies: v.Bodies, Queued: v.Queued, Lanes: v.Lanes,
		findings: v.Findings,
	}
	for _, status := range delivery.Statuses {
		if n := v.Deliveries[status]; n > 0 {
			r.Deliveries[status.String()] = n
		}
	}
	return r, errors.Join(err, st.Close())
}
