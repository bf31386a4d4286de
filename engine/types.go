package engine

import (
	"errors"
	"fmt"
	"time"

	"github.com/harepost/harepost/engine/account"
	"github.com/harepost/harepost/engine/delivery"
	"github.com/harepost/harepost/engine/job"
	"github.com/harepost/harepost/engine/lane"
)

// The engine's nouns live in packages of their own, below the state that
// keeps them; these are their names for the rooms above.
type (
	AccountID  = account.ID
	KeyID      = account.KeyID
	Account    = account.Account
	Secret     = account.Secret
	Domain     = account.Domain
	DeliveryID = delivery.ID
	Status     = delivery.Status
	Outcome    = delivery.Outcome
	Policy     = delivery.Policy
	Backoff    = delivery.Backoff
	Jitter     = delivery.Jitter
	Header     = delivery.Header
	Target     = delivery.Target
	Timing     = delivery.Timing
	Attempt    = delivery.Attempt
	Delivery   = delivery.Delivery
	Filter     = delivery.Filter
	Job        = job.Job
	JobID      = job.ID
	JobKind    = job.Kind
	JobStatus  = job.Status
	Page       = delivery.Page
)

// See package delivery.
const (
	StatusQueued     = delivery.Queued
	StatusRetrying   = delivery.Retrying
	StatusDelivered  = delivery.Delivered
	StatusRejected   = delivery.Rejected
	StatusDeadLetter = delivery.DeadLetter
	StatusCanceled   = delivery.Canceled

	OutcomeDelivered = delivery.OutcomeDelivered
	OutcomeFailed    = delivery.OutcomeFailed
	OutcomeRejected  = delivery.OutcomeRejected

	BackoffExponential = delivery.Exponential
	BackoffFixed       = delivery.Fixed

	JitterFull = delivery.FullJitter
	JitterNone = delivery.NoJitter

	JobReplay = job.Replay
	JobCancel = job.Cancel
	JobPurge  = job.Purge

	JobRunning  = job.Running
	JobDone     = job.Done
	JobCanceled = job.Canceled
)

// Bounds of what may be set for a lane, see package lane.
const (
	LeastRate       = lane.LeastRate
	MostRate        = lane.MostRate
	MostParallelism = lane.MostParallelism
)

// ParseDeliveryID reads a queue_id.
func ParseDeliveryID(s string) (DeliveryID, error) { return delivery.ParseID(s) }

// ParseAccountID reads the public form of an account's id.
func ParseAccountID(s string) (AccountID, error) { return account.ParseID(s) }

// ParseJobID reads the public form of a job's id.
func ParseJobID(s string) (JobID, error) { return job.ParseID(s) }

// ParseKeyID reads the public form of a key's id.
func ParseKeyID(s string) (KeyID, error) { return account.ParseKeyID(s) }

// ParseStatus reads the public word for a status.
func ParseStatus(word string) (Status, bool) { return delivery.ParseStatus(word) }

// A Send is a validated request to deliver. The engine keeps nothing of it
// after [Engine.Send] returns, so its slices and strings may alias the
// request's buffers. The policy is taken as it is: ranges are the API's to
// clamp.
type Send struct {
	Target         Target
	Method         string // POST, PUT, PATCH, DELETE or GET
	Headers        []Header
	Body           []byte // exact bytes to send; nil for GET
	Policy         Policy
	IdempotencyKey string // empty: none
	Sign           bool
	Metadata       []byte // raw JSON object, nil: none
	Labels         []string
	NotBefore      time.Time // zero: now
	ExpiresAt      time.Time // zero: never
	OrderingKey    string    // deliveries of one key go out one after another; empty: none
	SkipFailed     bool      // if it ends dead, the others of its key do not wait for it
	Flow           Flow      // zero: the lane is the target's
}

// A Flow puts a send into a lane of its own name, beside the others with the same
// key, whatever their targets.
type Flow struct {
	Key string // empty: none

	// Limits of the flow from now on, unless an operator has set others; 0: as
	// they are. See package lane for their bounds.
	Rate        float64 // attempts started per second
	Parallelism int     // attempts at once
}

// A Receipt answers a Send that is durable.
type Receipt struct {
	ID        DeliveryID
	CreatedAt time.Time
	// Duplicate says that the id is of an earlier send with the same
	// idempotency key, target, method and body.
	Duplicate bool
}

// A Key is an API key without its secret.
type Key struct {
	ID        KeyID
	Prefix    string // first characters, for recognition
	CreatedAt time.Time
	LastUsed  time.Time // zero: never; a crash may forget the last hour
}

// NewAccount is what CreateAccount returns, once: of the key only a hash is
// kept.
type NewAccount struct {
	Account       Account
	APIKey        string // "hp_live_" and 32 characters of base62
	SigningSecret string // "whsec_" and base64 of 32 bytes
}

// ReadOptions says what Delivery reads beside the record.
type ReadOptions struct {
	Payload bool // headers and body
}

// Errors that callers branch on.
var (
	ErrNotFound     = errors.New("not found")       // absent, or another account's
	ErrUnauthorized = errors.New("invalid API key") //
	ErrOverloaded   = errors.New("overloaded")      // nothing was accepted; try again
	ErrUnknown      = errors.New("outcome unknown") // may or may not be durable; the process is about to end, or another node leads
	ErrNotLeader    = errors.New("another node leads")
	ErrClosed       = errors.New("engine is closed")
	ErrTooMany      = errors.New("too many") // a bound on domains, keys, secrets or jobs is reached
	ErrSuspended    = errors.New("account is suspended")
	ErrPending      = errors.New("delivery is still pending")
	ErrFinished     = errors.New("already finished")
	ErrPayloadGone  = errors.New("payload is no longer kept")

	ErrTooLarge      = errors.New("larger than the log takes")   // nothing was accepted; see Options.LogSegmentBytes
	ErrStorageFull   = errors.New("storage limit reached")       // nothing was accepted; see Options.MaxDataBytes
	ErrBackupRunning = errors.New("a backup is already running") // one at a time
)

// A DomainNotVerifiedError says that the target's host is not covered by a
// verified domain of the account.
type DomainNotVerifiedError struct{ Host string }

func (e *DomainNotVerifiedError) Error() string {
	return fmt.Sprintf("no verified domain covers %s", e.Host)
}

// An AddressBlockedError says that the target is, or resolves to, an address
// that the server does not connect to. It never names the address.
type AddressBlockedError struct{ Host string }

func (e *AddressBlockedError) Error() string {
	return fmt.Sprintf("%s is not an allowed destination", e.Host)
}

// A RateLimitedError says when the account may send again.
type RateLimitedError struct{ RetryAfter time.Duration }

func (e *RateLimitedError) Error() string {
	return fmt.Sprintf("rate limit passed, retry after %s", e.RetryAfter)
}

// A DomainPendingError says why a domain could not be verified yet.
type DomainPendingError struct {
	Domain Domain
	Detail string // what the lookup found or why it failed
}

func (e *DomainPendingError) Error() string {
	return fmt.Sprintf("domain %s is pending: %s", e.Domain.Name, e.Detail)
}
