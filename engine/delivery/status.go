package delivery

// Status is where a delivery stands. The zero Status is none.
type Status uint8

// The statuses. Their numbers are part of the state's format.
const (
	Queued     Status = 1 + iota // accepted, no attempt finished yet
	Retrying                     // at least one attempt failed, more to come
	Delivered                    // final: the target answered 2xx
	Rejected                     // final: the target, or a rule, refused it for good
	DeadLetter                   // final: attempts used up, or expired
	Canceled                     // final: the account cancelled it
)

// Statuses are all of them, in the order of their numbers.
var Statuses = [...]Status{Queued, Retrying, Delivered, Rejected, DeadLetter, Canceled}

var statusNames = [...]string{"", "queued", "retrying", "delivered", "rejected", "dead_letter", "canceled"}

// String is the public word.
func (s Status) String() string {
	if int(s) < len(statusNames) {
		return statusNames[s]
	}
	return "invalid"
}

// ParseStatus reads the public word.
func ParseStatus(word string) (Status, bool) {
	for _, s := range Statuses {
		if statusNames[s] == word {
			return s, true
		}
	}
	return 0, false
}

// Valid reports whether s is one of the statuses.
func (s Status) Valid() bool { return s >= Queued && s <= Canceled }

// Final reports whether nothing more will be attempted.
func (s Status) Final() bool { return s >= Delivered }

// Dead reports whether the delivery is in the dead-letter queue.
func (s Status) Dead() bool { return s == Rejected || s == DeadLetter }

// Outcome is how one attempt ended.
type Outcome uint8

// The outcomes. Their numbers are part of the state's format.
const (
	OutcomeDelivered Outcome = 1 + iota // the target answered 2xx
	OutcomeFailed                       // may be tried again
	OutcomeRejected                     // final, not tried again
)

// String is the public word.
func (o Outcome) String() string {
	switch o {
	case OutcomeDelivered:
		return "delivered"
	case OutcomeFailed:
		return "failed"
	case OutcomeRejected:
		return "rejected"
	}
	return "invalid"
}
