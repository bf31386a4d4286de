package report

import (
	"bytes"
	"io"
	"strings"
	"testing"

	"golang.org/x/net/html"
)

func pageOf(t testing.TB, r *Report) string {
	t.Helper()
	var b bytes.Buffer
	if err := r.WriteHTML(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// pages are reports of every shape that a page has to take.
func pages() map[string]*Report {
	all := samples()
	all["long-sweep"] = sampleLongSweep()
	all["variants"] = sampleVariants()
	all["hostile"] = hostileReport()
	return all
}

// visible walks the page as a browser reads it: it reports what could run or
// load anything, and returns the text.
func visible(t testing.TB, page string) string {
	t.Helper()
	var text strings.Builder
	z := html.NewTokenizer(strings.NewReader(page))
	for {
		switch z.Next() {
		case html.ErrorToken:
			if z.Err() != io.EOF {
				t.Fatal(z.Err())
			}
			return text.String()
		case html.TextToken:
			text.WriteString(z.Token().Data)
		case html.StartTagToken, html.SelfClosingTagToken:
			tag := z.Token()
			switch tag.Data {
			case "script", "link", "img", "iframe", "object", "embed", "base", "form", "a", "image", "use", "foreignobject":
				t.Errorf("the page has a %s", tag)
			}
			for _, a := range tag.Attr {
				if strings.HasPrefix(a.Key, "on") || a.Key == "style" || a.Key == "href" || a.Key == "src" {
					t.Errorf("the page has %s", tag)
				}
				if a.Key == "d" && strings.Trim(a.Val, "MLHVZhvlaz-0123456789. ") != "" {
					t.Errorf("a path of %q", a.Val)
				}
			}
		}
	}
}

func TestPageIsSelfContainedAndEscaped(t *testing.T) {
	for name, r := range pages() {
		t.Run(name, func(t *testing.T) {
			page := pageOf(t, r)
			text := visible(t, page)
			for _, bad := range []string{"NaN", "+Inf", "ZgotmplZ", "<no value>", "http:", "https:", "url("} {
				if strings.Contains(page, bad) {
					t.Errorf("the page has %q in it", bad)
				}
			}
			if !strings.Contains(text, printable(r.Scenario)) {
				t.Errorf("the page does not name its scenario %q", r.Scenario)
			}
			if strings.ContainsAny(page, "\x1b\u202e") {
				t.Error("the page has control characters in it")
			}
		})
	}
}

func TestPageShowsWhatThereIs(t *testing.T) {
	check := func(name string, wants ...string) {
		t.Helper()
		text := visible(t, pageOf(t, pages()[name]))
		for _, want := range wants {
			if !strings.Contains(text, want) {
				t.Errorf("%s: the page lacks %q", name, want)
			}
		}
	}
	check("throughput", "--engine-flag=--lane-concurrency=128", "By system", "35,897 (32,598 to 41,145)", "0.821", "Latency by percentile", "All numbers")
	check("sweep", "Over rate", "Latency over rate", "arrival p99.9, ms (logarithmic)", "rate, /s (logarithmic)", "so waiting is not hidden")
	check("outage", "Over time", "time, s", "pending", "RSS, MiB", "time to drain", "14.2 s")
	check("broken", "ACKNOWLEDGED SENDS LOST: 12", "in memory", "connection refused")
	check("empty", "nothing was measured")
	check("variants", "engine, beside black holes", "moon phase")
	for name, plots := range map[string]int{"throughput": 7, "sweep": 20, "outage": 6, "empty": 0} {
		if got := strings.Count(pageOf(t, pages()[name]), `<svg class="plot"`); got != plots {
			t.Errorf("%s: %d plots, want %d", name, got, plots)
		}
	}
}

// The page of a fixed report is the same every time: nothing of it depends on the
// order of a map.
func TestPageIsRepeatable(t *testing.T) {
	for name, r := range pages() {
		first := pageOf(t, r)
		for range 3 {
			if pageOf(t, r) != first {
				t.Errorf("%s: two pages of one report differ", name)
				break
			}
		}
	}
}

func FuzzPage(f *testing.F) {
	f.Add("engine", "rate", 1.0, 2.0, int64(0), int64(100))
	f.Add(hostileText, "", -1e18, 5e-324, int64(-1<<63), int64(1<<63-1))
	f.Fuzz(func(t *testing.T, text, axis string, v, w float64, at, to int64) {
		r := sampleReport(text)
		for i, value := range []float64{v, w, v + w} {
			r.Rounds = append(r.Rounds, Round{
				System: text, Number: i/2 + 1, Load: Load{axis, v * float64(i), text, text},
				Values:    map[string]float64{DeliveredRate: value, text: w},
				Latencies: map[string]Distribution{text: {Quantiles: []Quantile{{50, w}, {99, value}}}},
				Timeline:  []Sample{{at, map[string]float64{RSS: v}}, {to, map[string]float64{RSS: w}}},
			})
		}
		page := pageOf(t, r)
		visible(t, page)
		if strings.Contains(page, "ZgotmplZ") {
			t.Error("the template refused a value")
		}
	})
}
