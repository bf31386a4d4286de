package transport

import (
	"net/netip"
	"time"
)

// Header is one request header, sent as it is written here.
type Header struct{ Name, Value string }

// Request is one attempt to be made. Do only reads it; Body may be shared
// with other goroutines and is never written to.
type Request struct {
	Scheme string // "http" or "https"
	Host   string // ASCII name or IP literal, without port
	Port   uint16
	URI    string // path and query as they go on the wire; "" is "/"

	Method  string // upper case; GET is sent without Body
	Headers []Header
	Body    []byte

	// Timeout runs from the start of the attempt, DNS included, to the end
	// of the response head. Zero or less: 10 s.
	Timeout time.Duration

	DeliveryID     string // X-Harepost-Delivery and webhook-id
	Attempt        int    // X-Harepost-Attempt, counted from 1
	IdempotencyKey string // X-Harepost-Idempotency-Key, when not empty
	// Secrets are the live signing secrets (whsec_...), each of which signs;
	// empty: the request is not signed.
	Secrets []string
}

// defaultTimeout is what an attempt gets that names none, as the API's default.
const defaultTimeout = 10 * time.Second

// Outcome is what an attempt means for its delivery.
type Outcome uint8

const (
	// Failed may be tried again.
	Failed Outcome = iota
	// Delivered is final: a 2xx.
	Delivered
	// Rejected is final: the target does not want it, or may not be asked.
	Rejected
)

// String returns the word the API uses.
func (o Outcome) String() string {
	switch o {
	case Delivered:
		return "delivered"
	case Rejected:
		return "rejected"
	}
	return "failed"
}

// Code names the reason why an attempt did not deliver; stable, part of the API.
type Code string

// The codes of this package. A delivery can also end as expired or canceled;
// those never reach a transport.
const (
	CodeTimeout           Code = "timeout"
	CodeConnectionRefused Code = "connection_refused"
	CodeConnectionReset   Code = "connection_reset"
	CodeDNSFailure        Code = "dns_failure"
	CodeTLSFailure        Code = "tls_failure"
	CodeAddressBlocked    Code = "address_blocked"
	CodeInvalidResponse   Code = "invalid_response"
	CodeHTTPStatus        Code = "http_status"
)

// Timing says where an attempt's time went. Phases that did not happen (all
// but FirstByte on a reused connection) are zero.
type Timing struct {
	DNS, Connect, TLS time.Duration
	// FirstByte is from the moment the request was written to the first byte
	// of the answer.
	FirstByte time.Duration
	Reused    bool // the connection had served an attempt before
}

// Result is how an attempt ended.
type Result struct {
	Outcome Outcome
	Status  int    // of the final response head; 0 when there was none
	Code    Code   // "" when delivered
	Local   bool   // it failed for want of something here, which says nothing of the target
	Detail  string // fixed texts of this package, never bytes of the peer

	Started  time.Time
	Latency  time.Duration // to the end of the response head, or to the failure
	Timing   Timing
	RemoteIP netip.Addr // connected to, or tried last; never a blocked one

	// Body is the beginning of the response body, at most 4 KiB, of attempts
	// that did not deliver. It is the caller's to keep.
	Body          []byte
	BodyTruncated bool // the response had, or announced, more than Body

	RetryAfter    time.Duration // at most 12 h; only with HasRetryAfter
	HasRetryAfter bool
}

// Error returns "code: detail", or "" after a delivery.
func (r *Result) Error() string {
	if r.Code == "" {
		return ""
	}
	return string(r.Code) + ": " + r.Detail
}

// fault is an attempt's failure on its way to the Result: a code and a fixed
// text. Values are package variables, so that failing costs no allocation and
// no text can carry what a peer sent.
type fault struct {
	code   Code
	detail string
}

func (f *fault) Error() string { return "transport: " + string(f.code) + ": " + f.detail }

var (
	faultBlocked        = &fault{CodeAddressBlocked, "the target's address is not allowed"}
	faultTimeoutDNS     = &fault{CodeTimeout, "no address of the target within the timeout"}
	faultTimeoutConnect = &fault{CodeTimeout, "no connection within the timeout"}
	faultTimeoutTLS     = &fault{CodeTimeout, "no TLS session within the timeout"}
	faultTimeoutWrite   = &fault{CodeTimeout, "the target did not take the request within the timeout"}
	faultTimeoutRead    = &fault{CodeTimeout, "no response within the timeout"}
	faultRefused        = &fault{CodeConnectionRefused, "the target refused the connection"}
	faultUnreachable    = &fault{CodeConnectionRefused, "the target's network or host cannot be reached"}
	faultNoResources    = &fault{CodeConnectionRefused, "no local socket for the connection"}
	faultClosed         = &fault{CodeConnectionRefused, "the transport is closed"}
	faultReset          = &fault{CodeConnectionReset, "the target closed the connection before its response"}
	faultResetInHead    = &fault{CodeConnectionReset, "the target closed the connection inside its response"}
	faultResetInRequest = &fault{CodeConnectionReset, "the target closed the connection while the request was sent"}
	faultUnasked        = &fault{CodeConnectionReset, "the connection carried a response to no request"}
	faultNotFound       = &fault{CodeDNSFailure, "the target's name has no address"}
	faultLookup         = &fault{CodeDNSFailure, "the target's name could not be looked up"}
	faultGarbage        = &fault{CodeInvalidResponse, "the response is not HTTP/1.1"}
	faultHead           = &fault{CodeInvalidResponse, "the response head is malformed"}
	faultHeadTooLarge   = &fault{CodeInvalidResponse, "the response head is larger than 16 KiB"}
	faultInterim        = &fault{CodeInvalidResponse, "the response is informational only"}
	faultStatus         = &fault{CodeInvalidResponse, "the response status is out of range"}
	faultTLS            = &fault{CodeTLSFailure, "the TLS handshake failed"}
	faultTLSName        = &fault{CodeTLSFailure, "the certificate is not valid for the target's name"}
	faultTLSAuthority   = &fault{CodeTLSFailure, "the certificate is signed by an unknown authority"}
	faultTLSExpired     = &fault{CodeTLSFailure, "the certificate has expired or is not valid yet"}
	faultTLSCertificate = &fault{CodeTLSFailure, "the certificate is not acceptable"}
	faultTLSNot         = &fault{CodeTLSFailure, "the target does not speak TLS"}
	faultTLSAlert       = &fault{CodeTLSFailure, "the target refused the TLS session"}
	faultTLSClosed      = &fault{CodeTLSFailure, "the target closed the connection during the TLS handshake"}
)
