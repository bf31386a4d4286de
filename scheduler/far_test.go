package scheduler

import (
	"encoding/binary"
	"testing"
)

// Retries that are far off take no memory beyond a part of it, whatever the number
// of lanes, and each is started when it is due.
func TestFarRetriesWaitOnDisk(t *testing.T) {
	const lanes, each, most = 500, 4, 1600
	s := New(Options{MemoryItems: most})
	disk := make(map[LaneKey][]Item) // by due time: ids and dues ascend together
	for n := range lanes * each {
		k := LaneKey{Account: 1, Destination: uint64(n % lanes)}
		it := Item{Due: Time(farMs + 1 + n), Attempt: 2}
		binary.BigEndian.PutUint64(it.ID[:], uint64(n+1))
		disk[k] = append(disk[k], it)
		s.Add(k, it, 0, 0)
		if got := s.Stats().Items; got > most/farPart {
			t.Fatalf("%d of %d items in memory, want at most %d", got, n+1, most/farPart)
		}
	}
	started := 0
	for now := Time(0); now <= farMs+lanes*each; now += 100 {
		for s.Wake(now); ; {
			if req, ok := s.NextPage(); ok {
				all := disk[req.Lane]
				for len(all) > 0 && all[0].Position().Compare(req.From) < 0 {
					all = all[1:]
				}
				n := min(len(all), req.Limit)
				s.Paged(req.Lane, all[:n], n < len(all), now)
				continue
			}
			next, ok := s.Next(now)
			if !ok {
				break
			}
			if next.Item.Due > now || next.Item.Due < now-100 {
				t.Fatalf("at %d: started what was due at %d", now, next.Item.Due)
			}
			s.Done(next.Lane, next.Item.ID, Ended{}, now)
			s.Recorded(next.Lane, next.Item.ID)
			started++
		}
	}
	if started != lanes*each {
		t.Errorf("%d started of %d", started, lanes*each)
	}
}
