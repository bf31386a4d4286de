package bench

import (
	"testing"
	"time"
)

func TestCapacitiesAreRead(t *testing.T) {
	check := func(text string, every time.Duration, how manner) {
		t.Helper()
		c, err := parseCapacity(text)
		if err != nil || c.every != every || c.how != how {
			t.Errorf("%s: %+v, %v", text, c, err)
		}
	}
	check("500:503", 2*time.Millisecond, 503)
	check("0.5:429", 2*time.Second, 429)
	check("1000:slow", time.Millisecond, mannerWell)
	for _, text := range []string{"", "500", "0:503", "-1:503", "NaN:503", "500:200", "500:hole"} {
		if c, err := parseCapacity(text); err == nil {
			t.Errorf("%q is taken as %+v", text, c)
		}
	}
}

// At ten times the capacity a tenth is taken, and what is saved up in a pause is a
// tenth of a second's.
func TestWhatIsMoreThanTheCapacityFails(t *testing.T) {
	c, err := parseCapacity("100:503")
	if err != nil {
		t.Fatal(err)
	}
	at, taken := moment(time.Hour), 0
	offer := func(n int, apart time.Duration) {
		for range n {
			switch how, wait := c.take(at); {
			case how == mannerWell && wait == 0:
				taken++
			case how != 503 || wait != 0:
				t.Fatalf("answered %d after %s", how, wait)
			}
			at += moment(apart)
		}
	}
	offer(10_000, time.Millisecond)
	if taken != 1010 {
		t.Errorf("%d taken in 10 s at 100/s, want 1000 and a burst of 10", taken)
	}
	at, taken = at+moment(time.Hour), 0
	if offer(1000, 0); taken != 11 {
		t.Errorf("%d taken at once after a pause, want the burst and 1", taken)
	}
}

// What is more waits for its turn: the answers are as far apart as the capacity says.
func TestWhatIsMoreThanTheCapacityWaits(t *testing.T) {
	c, err := parseCapacity("100:slow")
	if err != nil {
		t.Fatal(err)
	}
	at, last := moment(time.Hour), time.Duration(0)
	for n := range 100 {
		how, wait := c.take(at)
		want := max(0, time.Duration(n-10)*10*time.Millisecond)
		if how != mannerWell || wait != want || wait < last {
			t.Fatalf("arrival %d: answered %d after %s, want %s", n, how, wait, want)
		}
		last = wait
	}
}
