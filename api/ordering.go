package api

import "strconv"

// orderingKeyChars bounds an ordering key. It is kept with every delivery.
const orderingKeyChars = 255

// failure reads what is to become of the others of a key if this one ends dead.
func (r *sendRequest) failure() error {
	v, given, err := r.str("on_failure")
	if err != nil || !given {
		return err
	}
	switch string(v) {
	case "block":
	case "skip":
		r.send.SkipFailed = true
	default:
		return invalid("on_failure", quoted(v), "block or skip")
	}
	r.onFailure = true
	return nil
}

// ordering checks ordering_key, and that on_failure has one to speak of.
func (r *sendRequest) ordering() error {
	if !r.ordered {
		if r.onFailure {
			return refused("on_failure", "it says what a failure means for others with the same ordering_key, and there is none")
		}
		return nil
	}
	chars, ok := isPrintable(r.orderingKey)
	if !ok || chars == 0 || chars > orderingKeyChars {
		return refused("ordering_key", "it must have 1 to "+strconv.Itoa(orderingKeyChars)+
			" printable characters, without a space at either end")
	}
	r.send.OrderingKey = alias(r.orderingKey)
	return nil
}
