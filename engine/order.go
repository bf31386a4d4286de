package engine

import (
	"context"
	"slices"

	"github.com/harepost/harepost/engine/command"
	"github.com/harepost/harepost/engine/state"
)

// releaseLook is how many ordering keys that a dead letter holds the keeper looks
// at each time, some microseconds each. It goes on there the next time.
const releaseLook = 4096

// releaseOrders lets the ordering keys go on whose dead letter retention has
// dropped: nobody could replay or purge it any more.
func (e *Engine) releaseOrders() {
	term := e.reign.Load()
	if term == 0 {
		return
	}
	gone, next, err := e.state().Abandoned(e.released, releaseLook)
	if err == nil {
		e.released = next
		err = e.proposeReleases(term, gone)
	}
	if err != nil && e.ended() == nil {
		e.opts.Logger.Error("engine: let ordering keys go on whose dead letter was dropped; it will be tried again", "error", err)
	}
}

// releaseAtOnce is how many of them share a commit: one by one each would wait for
// the disk, and the keeper's other duties for all. It holds up the applier for some
// milliseconds.
const releaseAtOnce = 256

func (e *Engine) proposeReleases(term uint64, gone []command.ReleaseOrder) error {
	for part := range slices.Chunk(gone, releaseAtOnce) {
		cmds := make([][]byte, len(part))
		for i, c := range part {
			c.At = e.now().UnixMilli()
			cmds[i] = command.AppendReleaseOrder(nil, &c)
		}
		if err := e.proposeAll(context.Background(), term, cmds); err != nil {
			return err
		}
	}
	if len(gone) > 0 {
		e.opts.Logger.Info("retention has dropped dead letters that held ordering keys; the keys go on", "keys", len(gone))
	}
	return nil
}

// waitsForOrder fills in whether a delivery that was looked up waits for another
// with its ordering key.
func (e *Engine) waitsForOrder(a AccountID, found *state.Stored, d *Delivery) (err error) {
	if d.OrderingKey == "" {
		return nil
	}
	d.WaitsForOrder, err = e.state().WaitsForOrder(a, found, d.OrderingKey)
	return err
}
