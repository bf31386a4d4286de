package api

import (
	"math"
	"math/big"
	"testing"

	"pgregory.net/rapid"
)

func TestParseWhole(t *testing.T) {
	whole := func(text string, want int64) {
		t.Helper()
		if got, ok := parseWhole([]byte(text)); !ok || got != want {
			t.Errorf("%s: got %d, %v; want %d", text, got, ok, want)
		}
	}
	fraction := func(text string) {
		t.Helper()
		if got, ok := parseWhole([]byte(text)); ok {
			t.Errorf("%s: taken for the whole number %d", text, got)
		}
	}
	whole("0", 0)
	whole("-0", 0)
	whole("0.000", 0)
	whole("0e999999999999999999999", 0)
	whole("5", 5)
	whole("5.0", 5)
	whole("50e-1", 5)
	whole("0.5e1", 5)
	whole("0.0005E+4", 5)
	whole("1e3", 1000)
	whole("1200", 1200)
	whole("-17", -17)
	whole("1000.10e1", 10001)
	whole("9223372036854775807", math.MaxInt64)
	whole("9223372036854775808", math.MaxInt64)
	whole("-1e400", -math.MaxInt64)
	whole("1e99999999999999999999999", math.MaxInt64)
	fraction("0.5")
	fraction("1.5")
	fraction("15e-1")
	fraction("-2.25")
	fraction("1e-1")
	fraction("1e-99999999999999999999999")
	fraction("99999999999999999999999.5")
}

// Every spelling of a number means what exact arithmetic says it means.
func TestParseWholeAgainstBig(t *testing.T) {
	number := rapid.StringMatching(`-?(0|[1-9][0-9]{0,24})(\.[0-9]{1,6})?([eE][+-]?[0-9]{1,2})?`)
	rapid.Check(t, func(t *rapid.T) {
		text := number.Draw(t, "number")
		exact, ok := new(big.Rat).SetString(text)
		if !ok {
			t.Fatalf("%s is not a number", text)
		}
		got, whole := parseWhole([]byte(text))
		if whole != exact.IsInt() {
			t.Fatalf("%s: whole is %v, want %v", text, whole, exact.IsInt())
		}
		if !whole {
			return
		}
		want := exact.Num()
		if want.CmpAbs(big.NewInt(math.MaxInt64)) > 0 {
			want = new(big.Int).Mul(big.NewInt(int64(want.Sign())), big.NewInt(math.MaxInt64))
		}
		if want.Cmp(big.NewInt(got)) != 0 {
			t.Fatalf("%s: got %d, want %s", text, got, want)
		}
	})
}
