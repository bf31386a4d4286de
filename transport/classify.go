package transport

import (
	"strconv"
	"strings"
	"time"

	"github.com/valyala/fasthttp"
)

// maxRetryAfter caps what a target may ask for.
const maxRetryAfter = 12 * time.Hour

// httpDate is the form of a date that RFC 9110 wants sent.
const httpDate = "Mon, 02 Jan 2006 15:04:05 GMT"

// classify fills in what the response head decides. A status that is none
// is a fault.
//
//	2xx                     Delivered
//	3xx (never followed)    Failed
//	408, 429                Failed
//	other 4xx, 410 too      Rejected
//	5xx                     Failed
//	1xx as the final one    fault: invalid_response
//	anything else           fault: invalid_response
func classify(resp *fasthttp.Response, res *Result, now time.Time) *fault {
	status := resp.StatusCode()
	res.Status = status
	switch {
	case status < 100 || status > 599:
		return faultStatus
	case status < 200:
		return faultInterim
	case status < 300:
		res.Outcome = Delivered
		return nil
	case status >= 400 && status < 500 && status != fasthttp.StatusRequestTimeout && status != fasthttp.StatusTooManyRequests:
		res.Outcome = Rejected
	default:
		res.Outcome = Failed
		res.RetryAfter, res.HasRetryAfter = retryAfter(string(resp.Header.Peek("Retry-After")), now)
	}
	res.Code, res.Detail = CodeHTTPStatus, statusDetails[status]
	return nil
}

// statusDetails are the texts of http_status: the number and its registered
// phrase, never the phrase that the target sent.
var statusDetails = func() (list [600]string) {
	for code := range list {
		list[code] = strconv.Itoa(code)
		if phrase := fasthttp.StatusMessage(code); phrase != fasthttp.StatusMessage(0) {
			list[code] += " " + phrase
		}
	}
	return list
}()

// retryAfter parses a Retry-After value (RFC 9110 section 10.2.3): seconds, or
// a date in one of the three forms HTTP knows. Negative, past and unreadable
// values are as if absent; long ones are cut to maxRetryAfter.
func retryAfter(value string, now time.Time) (time.Duration, bool) {
	value = strings.TrimSpace(value)
	if value == "" {
		return 0, false
	}
	if strings.Trim(value, "0123456789") == "" {
		seconds, err := strconv.ParseUint(value, 10, 32)
		if err != nil || seconds > uint64(maxRetryAfter/time.Second) {
			return maxRetryAfter, true
		}
		return time.Duration(seconds) * time.Second, true
	}
	for _, layout := range []string{httpDate, time.RFC850, time.ANSIC} {
		at, err := time.Parse(layout, value)
		if wait := at.Sub(now); err == nil && wait >= 0 {
			return min(wait, maxRetryAfter), true
		}
	}
	return 0, false
}
