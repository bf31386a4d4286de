package bench

import "testing"

func TestMetricsPage(t *testing.T) {
	before, err := readPage([]byte("# HELP a b\na 5\nh_bucket{le=\"a b\"} 7\n\n"))
	if err != nil {
		t.Fatal(err)
	}
	after, err := readPage([]byte("a 7.5e1\nonly_now 3\nnan NaN\n"))
	if err != nil {
		t.Fatal(err)
	}
	if v, ok := after.since(before, "a"); !ok || v != 70 {
		t.Errorf("a went up by %g, %t; want 70", v, ok)
	}
	if v, ok := after.since(before, "only_now"); ok {
		t.Errorf("a series that was not there went up by %g", v)
	}
	if before[`h_bucket{le="a b"}`] != 7 {
		t.Errorf("%v", before)
	}
	for _, bad := range []string{"a", "a b", "a 1 x"} {
		if p, err := readPage([]byte(bad)); err == nil {
			t.Errorf("%q is read as %v", bad, p)
		}
	}
}
