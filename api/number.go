package api

import "math"

// parseWhole reads a JSON number exactly, without a detour through float64.
// It reports false when the value is not whole. A value beyond int64 is
// saturated: the callers clamp or compare, for which that is as good.
//
// The forms 5, 5.0, 50e-1 and 0.5e1 are all the same number, five.
func parseWhole(num []byte) (n int64, whole bool) {
	negative := false
	if num[0] == '-' {
		negative, num = true, num[1:]
	}
	// value = mantissa * 10^shift, where the mantissa is every digit before
	// the exponent; zeros at its end are counted instead of multiplied in.
	var zeros, shift int
	fraction := false
	i := 0
	for ; i < len(num); i++ {
		switch c := num[i]; {
		case c == '.':
			fraction = true
			continue
		case c == 'e' || c == 'E':
			shift += parseExponent(num[i+1:])
			i = len(num)
			continue
		case c == '0':
			if n != 0 {
				zeros++
			}
		default:
			n = mulPow10(n, zeros+1)
			n = addSaturated(n, int64(c-'0'))
			zeros = 0
		}
		if fraction {
			shift--
		}
	}
	if n == 0 {
		return 0, true
	}
	if zeros+shift < 0 {
		return 0, false
	}
	n = mulPow10(n, zeros+shift)
	if negative {
		n = -n
	}
	return n, true
}

// parseExponent reads the digits after "e", saturated well above the number
// of digits that a request can hold.
func parseExponent(b []byte) int {
	const saturated = 1 << 40
	sign := 1
	if b[0] == '-' || b[0] == '+' {
		if b[0] == '-' {
			sign = -1
		}
		b = b[1:]
	}
	e := 0
	for _, c := range b {
		e = min(e*10+int(c-'0'), saturated)
	}
	return sign * e
}

func mulPow10(n int64, power int) int64 {
	for ; power > 0 && n != math.MaxInt64; power-- {
		if n > math.MaxInt64/10 {
			return math.MaxInt64
		}
		n *= 10
	}
	return n
}

func addSaturated(n, d int64) int64 {
	if n > math.MaxInt64-d {
		return math.MaxInt64
	}
	return n + d
}
