package state

import (
	"sync"
	"testing"

	"github.com/harepost/harepost/engine/command"
	"github.com/harepost/harepost/engine/delivery"
	"github.com/harepost/harepost/engine/job"
)

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
