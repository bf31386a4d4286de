package report

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"html"
	"maps"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"
)

// looker is a page that looks at the others in a frame, one after the other, as
// they are laid out, and writes what it does not like. It stays outside of them
// because they allow no script.
const looker = `<!doctype html><meta charset="utf-8"><title>looking</title>
<pre id="found"></pre>
<script>
const views = %s, looks = [];

function view({Name, Width}) {
  return new Promise((done) => {
    const frame = document.createElement('iframe');
    frame.style = 'border:0;height:1200px;width:' + Width + 'px';
    frame.src = '/page/' + Name;
    frame.onload = () => { looks.push({Name, Width, ...look(frame.contentDocument)}); frame.remove(); done(); };
    document.body.append(frame);
  });
}

function look(page) {
  const found = [], root = page.documentElement, plots = page.querySelectorAll('svg.plot');
  if (root.scrollWidth > root.clientWidth) {
    found.push('the page is ' + root.scrollWidth + ' wide in a window of ' + root.clientWidth);
  }
  for (const svg of plots) {
    const box = svg.getBoundingClientRect(), name = svg.querySelector('title').textContent;
    if (!(box.width > 100 && box.height > 40)) found.push(name + ': ' + box.width + ' by ' + box.height);
    const texts = [...svg.querySelectorAll('text')].map(t => [t.textContent, t.getBoundingClientRect()]);
    texts.forEach(([text, at], i) => {
      if (at.left < box.left - 2 || at.right > box.right + 2 || at.top < box.top - 2 || at.bottom > box.bottom + 2) {
        found.push(name + ': "' + text + '" is cut off');
      }
      for (const [other, there] of texts.slice(i + 1)) {
        if (!apart(at, there)) found.push(name + ': "' + text + '" and "' + other + '" overlap');
      }
    });
  }
  return {Found: found, Plots: plots.length};
}

// The boxes of letters have some air above and below.
function apart(a, b) {
  return a.right <= b.left + 1 || b.right <= a.left + 1 || a.bottom <= b.top + 3 || b.bottom <= a.top + 3;
}

addEventListener('load', async () => {
  for (const v of views) await view(v);
  document.getElementById('found').textContent = JSON.stringify(looks);
});
</script>`

// lookedAt is what looker writes of a page in a window of some width.
type lookedAt struct {
	Name  string
	Width int
	Found []string
	Plots int
}

// A browser has the last word on whether a page can be read: nothing reaches over
// its edge, is cut off or lies on something else, on a screen and on a telephone.
func TestHTMLInChromium(t *testing.T) {
	chromium, err := exec.LookPath("chromium")
	if err != nil {
		t.Skipf("no chromium to look at the pages with: %v", err)
	}
	pages := pages()
	var views []lookedAt
	for _, name := range slices.Sorted(maps.Keys(pages)) {
		views = append(views, lookedAt{Name: name, Width: 1280}, lookedAt{Name: name, Width: 420})
	}
	list, err := json.Marshal(views)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /look", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintf(w, looker, list) })
	mux.HandleFunc("GET /favicon.ico", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	mux.HandleFunc("GET /page/{name}", func(w http.ResponseWriter, req *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		if err := pages[req.PathValue("name")].WriteHTML(w); err != nil {
			t.Error(err)
		}
	})
	server := httptest.NewServer(mux)
	defer server.Close()

	looks := lookAt(t, chromium, server.URL+"/look")
	if len(looks) != len(views) {
		t.Errorf("%d of %d views were looked at", len(looks), len(views))
	}
	for _, l := range looks {
		for _, text := range l.Found {
			t.Errorf("%s, %d wide: %s", l.Name, l.Width, text)
		}
		if want := strings.Count(pageOf(t, pages[l.Name]), `<svg class="plot"`); l.Plots != want {
			t.Errorf("%s, %d wide: %d plots, want %d", l.Name, l.Width, l.Plots, want)
		}
	}
}

// lookAt opens the looker, returns what it found, and fails on what the browser
// complained of.
func lookAt(t *testing.T, chromium, url string) []lookedAt {
	t.Helper()
	// A browser that hangs is ended; nothing is measured by this.
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
		"--user-data-dir="+t.TempDir(), "--window-size=1400,1300", "--enable-logging=stderr",
		"--virtual-time-budget=100000", "--dump-dom", url)
	var dom, log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &dom, &log
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v\n%s", err, log.String())
	}
	for line := range strings.Lines(log.String()) {
		if strings.Contains(line, "CONSOLE") {
			t.Errorf("the browser says: %s", line)
		}
	}
	_, rest, _ := strings.Cut(dom.String(), `<pre id="found">`)
	text, _, _ := strings.Cut(rest, "</pre>")
	var looks []lookedAt
	if err := json.Unmarshal([]byte(html.UnescapeString(text)), &looks); err != nil {
		t.Fatalf("what was looked at says %q: %v\n%s", text, err, log.String())
	}
	return looks
}
