package bench

import (
	"fmt"
	"net/http"
	"slices"
	"testing"
)

func TestResultsOfABatch(t *testing.T) {
	check := func(body string, want ...int) {
		t.Helper()
		var got []int
		err := eachResult([]byte(body), func(i, status int) {
			if i != len(got) {
				t.Errorf("%s: result %d comes as number %d", body, len(got), i)
			}
			got = append(got, status)
		})
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %v, %v; want %v", body, got, err, want)
		}
	}
	check(`{"results":[]}`)
	check(`{"results":[{"queue_id":"hr_1","status":"queued","created_at":"x"}]}`, 202)
	check(`{"x":[1], "results" : [ {"status":"queued"} , {"error":"overloaded","detail":"e","status":503,"retry_after":1},
		{"error":"a \"status\":202","status":400},{"error":"without a number"} ] }`+"\n", 202, 503, 400, 0)
	for _, bad := range []string{``, `[]`, `{}`, `{"results":{}}`, `{"results":[{]}`, `{"results":[{} {}]}`, `{"results":[7]}`, `{"results":[{"status":1.5}]}`} {
		if err := eachResult([]byte(bad), func(int, int) {}); err == nil {
			t.Errorf("%s is read", bad)
		}
	}
}

// What of a batch is refused is refused, what is taken is taken, and an answer
// that does not speak of every send has failed for the rest.
func TestABatchTakenInPartIsCountedInParts(t *testing.T) {
	taken, refused := `{"queue_id":"hr_1","status":"queued"}`, `{"error":"overloaded","status":503,"retry_after":1}`
	check := func(results string, accepted, refused, failed uint64) {
		t.Helper()
		body := `{"results":[` + results + `]}`
		l := &load{options: GeneratorOptions{Batch: 4}, accepted: newSequenceSet()}
		s := &sender{load: l, first: 8, payloadBytes: 400}
		if got := s.count(answer{status: http.StatusAccepted, body: []byte(body)}); got != int(accepted) {
			t.Errorf("%s accepts %d", results, got)
		}
		if s.accepted.Load() != accepted || s.refused.Load() != refused || s.failed.Load() != failed {
			t.Errorf("%s: %d accepted, %d refused, %d failed (%v); want %d, %d, %d", results,
				s.accepted.Load(), s.refused.Load(), s.failed.Load(), l.firstFailed, accepted, refused, failed)
		}
		if s.payload != 100*accepted {
			t.Errorf("%s: %d bytes of payload in %d sends", results, s.payload, accepted)
		}
	}
	check(taken+","+taken+","+taken+","+taken, 4, 0, 0)
	check(taken+","+refused+","+refused+`,{"error":"no","status":400}`, 1, 2, 1)
	check(taken+","+taken, 2, 0, 2)
	check("", 0, 0, 4)
}

// The sends of a batch that were taken are those that must arrive.
func TestTheMarksOfABatchThatWereTakenAreKept(t *testing.T) {
	l := &load{options: GeneratorOptions{Batch: 3}, accepted: newSequenceSet()}
	s := &sender{load: l, first: 60}
	s.count(answer{status: http.StatusAccepted, body: []byte(`{"results":[{"status":"queued"},{"error":"x","status":400},{"status":"queued"}]}`)})
	if got := l.accepted.export(); fmt.Sprint(got) != fmt.Sprint(sequences{1<<60 | 1<<62}) {
		t.Errorf("%b, want 60 and 62", got)
	}
}
