package api

import (
	"strconv"
	"time"
	"unicode/utf8"
	"unsafe"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/valyala/fasthttp"
)

// Answers are appended by hand: the shapes are few and fixed, and the one of a
// send is on the hot path.

// writeJSON answers with b, which the response keeps.
func writeJSON(ctx *fasthttp.RequestCtx, status int, b []byte) {
	ctx.SetStatusCode(status)
	ctx.Response.Header.SetContentType("application/json")
	ctx.Response.SetBodyRaw(b)
}

// writeJSONCopy answers with a copy of b, which the caller may reuse.
func writeJSONCopy(ctx *fasthttp.RequestCtx, status int, b []byte) {
	ctx.SetStatusCode(status)
	ctx.Response.Header.SetContentType("application/json")
	ctx.Response.SetBody(b)
}

// appendString appends s as a JSON string. Octets that are not UTF-8 become
// U+FFFD: strings that must survive them go through appendText.
func appendString[T ~string | ~[]byte](b []byte, s T) []byte {
	b, _ = jsontext.AppendQuote(b, s) // the error only reports the replacement
	return b
}

// appendStringOrNull appends null for the empty string.
func appendStringOrNull(b []byte, s string) []byte {
	if s == "" {
		return append(b, "null"...)
	}
	return appendString(b, s)
}

// appendText appends the member name with raw octets as its value: as a string
// where they are UTF-8, else in base64 and with a second member name_encoding.
func appendText(b []byte, name string, raw []byte) []byte {
	b = append(b, '"')
	b = append(b, name...)
	b = append(b, `":`...)
	if utf8.Valid(raw) {
		return appendString(b, raw)
	}
	b = append(b, '"')
	b = appendBase64(b, raw)
	b = append(b, `","`...)
	b = append(b, name...)
	return append(b, `_encoding":"base64"`...)
}

// appendTime appends t as "2006-01-02T15:04:05Z" with the quotes.
func appendTime(b []byte, t time.Time) []byte {
	b = append(b, '"')
	// Truncated, so that RFC3339 and its fast path in package time fit.
	b = t.UTC().Truncate(time.Second).AppendFormat(b, time.RFC3339)
	return append(b, '"')
}

// appendTimeOrNull appends null for the zero time.
func appendTimeOrNull(b []byte, t time.Time) []byte {
	if t.IsZero() {
		return append(b, "null"...)
	}
	return appendTime(b, t)
}

// appendMillis appends d in milliseconds, to the microsecond: 1.25, 0.08, 84.
func appendMillis(b []byte, d time.Duration) []byte {
	us := max(d, 0).Round(time.Microsecond).Microseconds()
	b = strconv.AppendInt(b, us/1000, 10)
	if frac := us % 1000; frac != 0 {
		b = append(b, '.', byte('0'+frac/100), byte('0'+frac/10%10), byte('0'+frac%10))
		for b[len(b)-1] == '0' {
			b = b[:len(b)-1]
		}
	}
	return b
}

// alias returns b as a string without copying it. The string is good for as
// long as b is not written to: for bytes of a request, until its handler
// returns.
func alias(b []byte) string {
	return unsafe.String(unsafe.SliceData(b), len(b))
}
