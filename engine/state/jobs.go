package state

import (
	"cmp"
	"encoding/binary"
	"slices"
	"sync"

	"github.com/harepost/harepost/engine/account"
	"github.com/harepost/harepost/engine/job"
)

// MostJobs is how many jobs of an account are kept: those that run, and the
// youngest of those that have ended.
const MostJobs = 100

// jobs are all jobs, in memory: few, and looked at often. The applier writes,
// any goroutine reads.
type jobs struct {
	mu sync.RWMutex
	m  map[account.ID]map[job.ID]job.Job

	running int
}

func (js *jobs) get(a account.ID, id job.ID) (job.Job, bool) {
	js.mu.RLock()
	defer js.mu.RUnlock()
	j, ok := js.m[a][id]
	return j, ok
}

func (js *jobs) put(j job.Job) {
	js.mu.Lock()
	defer js.mu.Unlock()
	if js.m == nil {
		js.m = make(map[account.ID]map[job.ID]job.Job)
	}
	of := js.m[j.Account]
	if of == nil {
		of = make(map[job.ID]job.Job)
		js.m[j.Account] = of
	}
	if of[j.ID].Status == job.Running {
		js.running--
	}
	if j.Status == job.Running {
		js.running++
	}
	of[j.ID] = j
}

// drop removes all jobs of an account.
func (js *jobs) drop(a account.ID) {
	js.mu.Lock()
	defer js.mu.Unlock()
	for _, j := range js.m[a] {
		if j.Status == job.Running {
			js.running--
		}
	}
	delete(js.m, a)
}

func (js *jobs) remove(a account.ID, id job.ID) {
	js.mu.Lock()
	defer js.mu.Unlock()
	delete(js.m[a], id)
}

// Job is a job of an account.
func (s *State) Job(a account.ID, id job.ID) (job.Job, bool) { return s.jobs.get(a, id) }

// Jobs are the jobs of an account, the youngest first.
func (s *State) Jobs(a account.ID) []job.Job {
	s.jobs.mu.RLock()
	defer s.jobs.mu.RUnlock()
	list := make([]job.Job, 0, len(s.jobs.m[a]))
	for _, j := range s.jobs.m[a] {
		list = append(list, j)
	}
	slices.SortFunc(list, func(a, b job.Job) int {
		return cmp.Or(b.CreatedAt.Compare(a.CreatedAt), cmp.Compare(b.ID, a.ID))
	})
	return list
}

// CountRunningJobs is how many jobs of all accounts run.
func (s *State) CountRunningJobs() int {
	s.jobs.mu.RLock()
	defer s.jobs.mu.RUnlock()
	return s.jobs.running
}

// RunningJobs are the jobs of all accounts that run, the oldest first.
func (s *State) RunningJobs() []job.Job {
	s.jobs.mu.RLock()
	defer s.jobs.mu.RUnlock()
	if s.jobs.running == 0 {
		return nil
	}
	var list []job.Job
	for _, of := range s.jobs.m {
		for _, j := range of {
			if j.Status == job.Running {
				list = append(list, j)
			}
		}
	}
	slices.SortFunc(list, func(a, b job.Job) int {
		return cmp.Or(a.CreatedAt.Compare(b.CreatedAt), cmp.Compare(a.ID, b.ID))
	})
	return list
}

// putJob keeps a job, and lets go of the oldest ended ones of its account when
// there are too many.
func (s *State) putJob(b *applying, j job.Job) error {
	s.jobs.put(j)
	if err := b.Set(appendJob(nil, j.Account, j.ID), j.Append(nil), nil); err != nil {
		return err
	}
	list := s.Jobs(j.Account)
	for i := len(list) - 1; i >= 0 && len(list) > MostJobs; i-- {
		if list[i].Status == job.Running {
			continue
		}
		s.jobs.remove(j.Account, list[i].ID)
		if err := b.Delete(appendJob(nil, j.Account, list[i].ID), nil); err != nil {
			return err
		}
		list = slices.Delete(list, i, i+1)
	}
	return nil
}

// replaceJob applies a PutJob. What the steps have counted is the state's own:
// a job that is there keeps it.
func (s *State) replaceJob(b *applying, j job.Job) error {
	if _, ok := s.dir.Account(j.Account); !ok {
		return nil // deleted meanwhile
	}
	if old, ok := s.jobs.get(j.Account, j.ID); ok {
		if old.Status != job.Running {
			return nil // it has ended meanwhile
		}
		j.Done, j.Skipped, j.After = old.Done, old.Skipped, old.After
		if j.Matched < 0 {
			j.Matched = old.Matched
		}
	}
	return s.putJob(b, j)
}

func appendJob(dst []byte, a account.ID, id job.ID) []byte {
	return binary.BigEndian.AppendUint64(appendAccount(dst, spaceJob, a), uint64(id))
}
