package bench

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"strconv"
	"time"
)

// A page is what a system's /metrics says, by the name of the series.
type page map[string]float64

// The series that a report is filled from.
const (
	seriesSyncs   = "harepost_log_sync_duration_seconds_count"
	seriesEntries = "harepost_log_commit_entries_sum"
	seriesPending = "harepost_deliveries_pending"
	seriesHeap    = "go_memstats_heap_alloc_bytes"

	seriesGoroutines = "go_goroutines"
)

// scrapeWait bounds one look at the metrics.
const scrapeWait = 5 * time.Second

func scrape(ctx context.Context, url string) (page, error) {
	ctx, cancel := context.WithTimeout(ctx, scrapeWait)
	defer cancel()
	text, err := call(ctx, http.MethodGet, url+"/metrics", nil, http.StatusOK)
	if err != nil {
		return nil, fmt.Errorf("bench: read the metrics: %w", err)
	}
	return readPage(text)
}

// readPage reads the text format of Prometheus, without the comments.
func readPage(text []byte) (page, error) {
	p := page{}
	for line := range bytes.Lines(text) {
		line = bytes.TrimSpace(line)
		if len(line) == 0 || line[0] == '#' {
			continue
		}
		// A label's value may have blanks, a number has none.
		space := bytes.LastIndexByte(line, ' ')
		if space < 0 {
			return nil, fmt.Errorf("bench: read the metrics: no value in %.80q", line)
		}
		value, err := strconv.ParseFloat(string(line[space+1:]), 64)
		if err != nil {
			return nil, fmt.Errorf("bench: read the metrics: %.80q: %w", line, err)
		}
		p[string(line[:space])] = value
	}
	return p, nil
}

// since is how much a counter went up from another page to this one; false where
// one of them does not have it.
func (p page) since(earlier page, name string) (float64, bool) {
	now, ok1 := p[name]
	before, ok2 := earlier[name]
	return now - before, ok1 && ok2
}
