package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/iotest"
)

// A batchAPI takes batches up to so many bytes, and accepts every send in them.
type batchAPI struct {
	most   int
	mu     sync.Mutex
	bodies []string
}

func (a *batchAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	if len(body) > a.most {
		w.WriteHeader(http.StatusRequestEntityTooLarge)
		io.WriteString(w, `{"error":"request body is too large","detail":"it may have so many bytes"}`)
		return
	}
	a.mu.Lock()
	a.bodies = append(a.bodies, string(body))
	a.mu.Unlock()
	results := make([]string, bytes.Count(body, []byte("\n")))
	for i := range results {
		results[i] = `{"queue_id":"hr_1","status":"queued"}`
	}
	w.WriteHeader(http.StatusAccepted)
	fmt.Fprintf(w, `{"results":[%s]}`, strings.Join(results, ","))
}

// batchOf sends what in has, and returns what the API took of it.
func sendBatchFile(t *testing.T, api *batchAPI, in io.Reader, args ...string) (status int, sent, stdout, stderr string) {
	t.Helper()
	server := httptest.NewServer(api)
	defer server.Close()
	t.Setenv("HAREPOST_URL", server.URL)
	t.Setenv("HAREPOST_API_KEY", "hp_live_test")
	var out, errs bytes.Buffer
	status = run(&shell{ctx: t.Context(), in: in, out: &out, err: &errs}, append([]string{"send", "--batch", "-"}, args...))
	return status, strings.Join(api.bodies, ""), out.String(), errs.String()
}

// What was read before a file broke off is sent, and the last line that was is
// named. The line that it broke off in is not: it may be cut.
func TestABatchThatBreaksOffSendsWhatWasRead(t *testing.T) {
	whole := "{\"target\":\"https://a.example/\"}\n\n{\"target\":\"https://b.example/\"}\n"
	broken := io.MultiReader(strings.NewReader(whole+`{"target":"https://c.example/"}`), iotest.ErrReader(errors.New("input/output error")))
	status, sent, _, stderr := sendBatchFile(t, &batchAPI{most: 1 << 20}, broken)
	if want := strings.Replace(whole, "\n\n", "\n", 1); sent != want || status != exitFailed {
		t.Errorf("status %d, sent %q, want %q", status, sent, want)
	}
	for _, want := range []string{"accepted 2, ", "line 4: input/output error", "up to line 3 all were sent"} {
		if !strings.Contains(stderr, want) {
			t.Errorf("%q is not in\n%s", want, stderr)
		}
	}
	_, sent, _, stderr = sendBatchFile(t, &batchAPI{}, iotest.ErrReader(errors.New("input/output error")))
	if sent != "" || !strings.Contains(stderr, "nothing was sent") {
		t.Errorf("sent %q\n%s", sent, stderr)
	}
}

// A line that is too large is refused by its own number, and takes no other with
// it.
func TestATooLargeLineOfABatchIsRefusedAlone(t *testing.T) {
	line := func(n int) string { return `{"target":"https://a.example/","body":"` + strings.Repeat("x", n) + `"}` }
	f := func(name string, most, size int, wants ...string) {
		t.Helper()
		api := &batchAPI{most: most}
		text := strings.Join([]string{line(1), line(2), line(size), line(3), line(4)}, "\n") // the last has no newline
		status, sent, stdout, stderr := sendBatchFile(t, api, strings.NewReader(text), "--json")
		if want := strings.Join([]string{line(1), line(2), line(3), line(4), ""}, "\n"); sent != want || status != exitRefused {
			t.Errorf("%s: status %d, sent %d bytes, want %d\n%s", name, status, len(sent), len(want), stderr)
		}
		if !strings.Contains(stderr, "accepted 4, duplicates 0, refused 1") {
			t.Errorf("%s: %s", name, stderr)
		}
		refused := 0
		for text := range strings.Lines(stdout) {
			if !strings.Contains(text, `"error":`) {
				continue
			}
			refused++
			var outcome struct {
				Line   int
				Result struct {
					Detail string
					Status int
				}
			}
			if err := json.Unmarshal([]byte(text), &outcome); err != nil || outcome.Line != 3 ||
				outcome.Result.Status != http.StatusRequestEntityTooLarge || outcome.Result.Detail == "" {
				t.Errorf("%s: %v in %s", name, err, text)
			}
		}
		if refused != 1 {
			t.Errorf("%s: %d refused:\n%s", name, refused, stdout)
		}
	}
	f("larger than a request of ours", 5<<20, 6<<20)
	f("larger than what a proxy lets through", 1<<20, 2<<20)
	f("larger than what is read of a line", 5<<20, batchLineBytes)
}

// Lines that fit one by one are not put together into more than a request has.
func TestRequestsOfABatchKeepTheirSize(t *testing.T) {
	line := `{"target":"https://a.example/","body":"` + strings.Repeat("x", batchBytes*3/4) + "\"}\n"
	api := &batchAPI{most: batchBytes}
	status, sent, _, stderr := sendBatchFile(t, api, strings.NewReader(strings.Repeat(line, 3)))
	if status != exitOK || sent != strings.Repeat(line, 3) || len(api.bodies) != 3 {
		t.Errorf("status %d, %d bytes in %d requests\n%s", status, len(sent), len(api.bodies), stderr)
	}
}

// A server that is full is asked once, not once for each request of the file,
// and what it said of a thousand lines is not told a thousand times.
func TestAFullServerEndsABatch(t *testing.T) {
	var requests atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		n := requests.Add(1)
		var results []string
		for i := range bytes.Count(body, []byte("\n")) {
			if n == 1 || i < 98 {
				results = append(results, `{"queue_id":"hr_1","status":"queued"}`)
			} else {
				results = append(results, `{"error":"storage limit reached","detail":"nothing was accepted","status":507,"retry_after":10}`)
			}
		}
		w.WriteHeader(http.StatusAccepted)
		fmt.Fprintf(w, `{"results":[%s]}`, strings.Join(results, ","))
	}))
	defer server.Close()
	t.Setenv("HAREPOST_URL", server.URL)
	t.Setenv("HAREPOST_API_KEY", "hp_live_test")
	var out, errs bytes.Buffer
	in := strings.NewReader(strings.Repeat("{}\n", 10*batchSends))
	status := run(&shell{ctx: t.Context(), in: in, out: &out, err: &errs}, []string{"send", "--batch", "-"})
	if status != exitNotNow || requests.Load() != 2 {
		t.Errorf("status %d after %d requests", status, requests.Load())
	}
	want := `line 1099: storage limit reached: nothing was accepted
line 1100: storage limit reached: nothing was accepted
line 1101: storage limit reached: nothing was accepted
899 more from line 1102 to 2000: storage limit reached: nothing was accepted
accepted 1,098, duplicates 0, refused 902
harepost: stopped: the server takes no more for now; go on with line 1099 in 10s
`
	if errs.String() != want {
		t.Errorf("said\n%s, want\n%s", errs.String(), want)
	}
}

// Without an answer the lines that may have been accepted are named.
func TestABatchWithoutAnAnswerNamesWhatIsInDoubt(t *testing.T) {
	var requests atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if requests.Add(1) == 2 {
			panic(http.ErrAbortHandler)
		}
		results := strings.Repeat(`,{"queue_id":"hr_1","status":"queued"}`, bytes.Count(body, []byte("\n")))
		w.WriteHeader(http.StatusAccepted)
		fmt.Fprintf(w, `{"results":[%s]}`, results[1:])
	}))
	defer server.Close()
	t.Setenv("HAREPOST_URL", server.URL)
	t.Setenv("HAREPOST_API_KEY", "hp_live_test")
	var errs bytes.Buffer
	in := strings.NewReader(strings.Repeat("{}\n", 3*batchSends))
	status := run(&shell{ctx: t.Context(), in: in, out: io.Discard, err: &errs}, []string{"send", "--batch", "-"})
	for _, want := range []string{"lines 1001 to 2000: no answer", "up to line 1000 all were sent, and these lines are in doubt"} {
		if status != exitNotNow || requests.Load() != 2 || !strings.Contains(errs.String(), want) {
			t.Errorf("status %d after %d requests, %q is not in\n%s", status, requests.Load(), want, errs.String())
		}
	}
}

func TestNumbersOfLinesAreTakenTogether(t *testing.T) {
	f := func(want string, numbers ...int) {
		t.Helper()
		if got := numbersText(numbers); got != want {
			t.Errorf("%v: %q, want %q", numbers, got, want)
		}
	}
	f("7", 7)
	f("1 to 3, 5, 7 to 8", 1, 2, 3, 5, 7, 8)
	var odd []int
	for i := range 30 {
		odd = append(odd, 2*i+1)
	}
	f("1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31, 33, 35, 37, 39 and 10 more, which --json tells", odd...)
}
