package state

import (
	"errors"
	"sync"
	"testing"

	"github.com/harepost/harepost/engine/command"
	"github.com/harepost/harepost/engine/delivery"
	"github.com/harepost/harepost/engine/job"
)

// A worker that is about to make an attempt meets the cancellation of its
// delivery: it has ended, and is not damaged.
func TestAPendingDeliveryIsCancelledWhileItIsRead(t *testing.T) {
	e := newEnded(t, Options{}) // the body is beside the row
	for range 2000 {
		id := e.add(delivery.Retrying, false, 2000)
		at := delivery.Attempt{Number: 1, Outcome: delivery.OutcomeFailed, HTTPStatus: 500, StartedAt: epoch, CreatedAt: epoch, NextAttemptAt: epoch}
		c := command.Attempt{Account: 1, ID: id, Number: 1, Status: delivery.Retrying, UpdatedAt: id.UnixMilli(), NextDue: epoch.UnixMilli()}
		e.apply(command.AppendAttempt(nil, &c, &at))
		ended := make(chan error, 1)
		go func() {
			for {
				if _, _, err := e.state.FindPending(1, id, 2); err != nil {
					ended <- err
					return
				}
			}
		}()
		e.apply(command.AppendControl(nil, &command.Control{Kind: job.Cancel, Account: 1, At: epoch.UnixMilli(), IDs: []delivery.ID{id}}))
		if err := <-ended; !errors.Is(err, ErrNotFound) {
			t.Fatal(err)
		}
	}
}

// Who sees that a job has ended sees what it did, too.
func TestAJobIsSeenToEndAfterItsDeliveries(t *testing.T) {
	e := newEnded(t, Options{})
	for n := range 300 {
		var ids []delivery.ID
		for range 16 {
			ids = append(ids, e.add(delivery.DeadLetter, false, 10))
		}
		j := job.Job{ID: job.ID(n + 1), Account: 1, Kind: job.Replay, Status: job.Running, Matched: 16, CreatedAt: epoch, UpdatedAt: epoch}
		e.apply(command.AppendPutJob(nil, &j))
		var watching sync.WaitGroup
		watching.Go(func() {
			for {
				seen, ok := e.state.Job(1, j.ID)
				if !ok {
					t.Error("no such job")
					return
				}
				if seen.Status == job.Running {
					continue
				}
				for _, id := range ids {
					if f, err := e.state.Find(1, id); err != nil || f.Status != delivery.Retrying {
						t.Errorf("job %d has ended, and %s is %s, %v", n, id, f.Status, err)
						return
					}
				}
				return
			}
		})
		c := command.Control{Kind: job.Replay, Account: 1, At: epoch.UnixMilli(), Job: j.ID, Last: true, IDs: ids}
		e.apply(command.AppendControl(nil, &c))
		watching.Wait()
		if t.Failed() {
			return
		}
	}
}
