package main

import (
	"bytes"
	"regexp"
	"strings"
	"testing"
	"time"
)

func TestColumnsAlignWhateverIsPainted(t *testing.T) {
	p := painter(true)
	tab := newTable("ID", "STATUS", "TARGET")
	tab.add(plain("ä"), cell{"delivered", p.status}, plain("x"))
	tab.add(plain("longer"), cell{"rejected", p.status}, plain("y"))
	tab.add(plain(""), cell{"", p.status}, plain("z"))
	var out strings.Builder
	tab.write(&out, p, "  ")
	bare := regexp.MustCompile(`\x1b\[[0-9;]*m`).ReplaceAllString(out.String(), "")
	want := "" +
		"  ID      STATUS     TARGET\n" +
		"  ä       delivered  x\n" +
		"  longer  rejected   y\n" +
		"                     z\n"
	if bare != want {
		t.Errorf("got\n%s\nwant\n%s", bare, want)
	}
	if bare == out.String() {
		t.Error("nothing was painted")
	}
}

func TestNoColourWithoutATerminal(t *testing.T) {
	var out strings.Builder
	p := painterFor(&out)
	if got := p.red("a") + p.bold("b") + p.status("delivered"); got != "abdelivered" {
		t.Errorf("%q", got)
	}
}

func TestDurationsAndSizesAsPeopleSayThem(t *testing.T) {
	d := func(d time.Duration, want string) {
		t.Helper()
		if got := shortDuration(d); got != want {
			t.Errorf("%d: %q, want %q", d, got, want)
		}
	}
	d(0, "<1 ms")
	d(999*time.Microsecond, "<1 ms")
	d(time.Millisecond, "1 ms")
	d(999*time.Millisecond, "999 ms")
	d(1500*time.Millisecond, "1.5 s")
	d(90*time.Second, "1.5 min")
	d(13*time.Hour, "13.0 h")
	d(72*time.Hour, "3.0 days")
	b := func(n int64, want string) {
		t.Helper()
		if got := bytesText(n); got != want {
			t.Errorf("%d: %q, want %q", n, got, want)
		}
	}
	b(0, "0 B")
	b(1023, "1023 B")
	b(1536, "1.5 KiB")
	b(64<<20, "64.0 MiB")
	b(3<<29, "1.5 GiB")
}

// On a terminal a line keeps to its width; in a pipe nothing is lost.
func TestATableKeepsToTheTerminal(t *testing.T) {
	f := func(width int, want string) {
		t.Helper()
		tab := newTable("ID", "TARGET")
		tab.add(plain("a"), plain("https://your-app.com/a/long/way"))
		tab.add(plain("b"), plain("short"))
		var out bytes.Buffer
		tab.writeWithin(width, &out, painter(false), "")
		if out.String() != want {
			t.Errorf("within %d:\n%swant\n%s", width, out.String(), want)
		}
	}
	f(0, "ID  TARGET\na   https://your-app.com/a/long/way\nb   short\n")
	f(24, "ID  TARGET\na   https://your-app.co…\nb   short\n")
	f(5, "ID  TARGET\na   https://you…\nb   short\n")
}

func TestATableGoesOnAsWideAsItBegan(t *testing.T) {
	tab := newTable("ID", "TARGET")
	tab.add(plain("a-long-one"), plain("x"))
	tab = tab.next()
	tab.add(plain("b"), plain("y"))
	var out bytes.Buffer
	tab.write(&out, painter(false), "")
	if out.String() != "b           y\n" {
		t.Errorf("%q", out.String())
	}
}
