package api

import (
	"encoding/base64"
	"strconv"

	"github.com/harepost/harepost/engine"
)

// appendDelivery appends the answer to a lookup: attempts are an array.
func appendDelivery(b []byte, d *engine.Delivery, payload bool) []byte {
	b = appendDeliveryHead(b, d)
	b = append(b, `,"attempts":[`...)
	for i := range d.Attempts {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendAttempt(b, &d.Attempts[i])
	}
	b = append(b, `],"metadata":`...)
	if d.Metadata == nil {
		b = append(b, "null"...)
	} else {
		b = append(b, d.Metadata...)
	}
	b = append(b, `,"labels":[`...)
	for i, label := range d.Labels {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendString(b, label)
	}
	b = append(b, `],"max_attempts":`...)
	b = strconv.AppendInt(b, int64(d.MaxAttempts), 10)
	b = append(b, `,"next_attempt_at":`...)
	b = appendTimeOrNull(b, d.NextAttemptAt)
	b = append(b, `,"expires_at":`...)
	b = appendTimeOrNull(b, d.ExpiresAt)
	if d.WaitingFor != "" {
		b = append(b, `,"waiting_for":`...)
		b = appendString(b, d.WaitingFor)
	}
	b = append(b, `,"flow_key":`...)
	b = appendStringOrNull(b, d.FlowKey)
	b = append(b, `,"body_bytes":`...)
	b = strconv.AppendInt(b, int64(d.BodyBytes), 10)
	if d.OrderingKey != "" {
		b = appendOrdering(b, d)
	}
	if payload {
		b = appendPayload(b, d)
	}
	return append(b, '}')
}

// appendListItem appends a delivery of a list: attempts are a count.
func appendListItem(b []byte, d *engine.Delivery) []byte {
	b = appendDeliveryHead(b, d)
	b = append(b, `,"attempts":`...)
	b = strconv.AppendInt(b, int64(len(d.Attempts)), 10)
	return append(b, '}')
}

// appendDeliveryHead opens the object with the fields that both shapes have.
func appendDeliveryHead(b []byte, d *engine.Delivery) []byte {
	b = append(b, `{"queue_id":`...)
	b = appendString(b, d.ID.String())
	b = append(b, `,"target":`...)
	b = appendString(b, d.Target)
	b = append(b, `,"method":`...)
	b = appendString(b, d.Method)
	b = append(b, `,"status":`...)
	b = appendString(b, d.Status.String())
	b = append(b, `,"last_status":`...)
	b = appendCodeOrNull(b, d.LastStatus)
	b = append(b, `,"idempotency_key":`...)
	b = appendStringOrNull(b, d.IdempotencyKey)
	b = append(b, `,"created_at":`...)
	b = appendTime(b, d.CreatedAt)
	b = append(b, `,"updated_at":`...)
	return appendTime(b, d.UpdatedAt)
}

func appendAttempt(b []byte, a *engine.Attempt) []byte {
	b = append(b, `{"attempt":`...)
	b = strconv.AppendInt(b, int64(a.Number), 10)
	b = append(b, `,"outcome":`...)
	b = appendString(b, a.Outcome.String())
	b = append(b, `,"http_status":`...)
	b = appendCodeOrNull(b, a.HTTPStatus)
	b = append(b, `,"latency_ms":`...)
	b = strconv.AppendInt(b, a.Latency.Milliseconds(), 10)
	b = append(b, `,"error":`...)
	b = appendStringOrNull(b, a.Error)
	b = append(b, `,"created_at":`...)
	b = appendTime(b, a.CreatedAt)
	b = append(b, `,"started_at":`...)
	b = appendTimeOrNull(b, a.StartedAt)
	b = append(b, `,"next_attempt_at":`...)
	b = appendTimeOrNull(b, a.NextAttemptAt)
	b = append(b, `,"timing":`...)
	b = appendTiming(b, &a.Timing)
	b = append(b, `,"remote_ip":`...)
	b = appendStringOrNull(b, a.RemoteIP)
	if len(a.ResponseBody) > 0 {
		b = append(b, ',')
		b = appendText(b, "response_body", a.ResponseBody)
		b = append(b, `,"response_body_truncated":`...)
		b = strconv.AppendBool(b, a.BodyTruncated)
	}
	return append(b, '}')
}

// appendTiming appends milliseconds with three decimals: on one's own network
// a whole millisecond says nothing.
func appendTiming(b []byte, t *engine.Timing) []byte {
	b = append(b, `{"dns_ms":`...)
	b = appendMillis(b, t.DNS)
	b = append(b, `,"connect_ms":`...)
	b = appendMillis(b, t.Connect)
	b = append(b, `,"tls_ms":`...)
	b = appendMillis(b, t.TLS)
	b = append(b, `,"first_byte_ms":`...)
	b = appendMillis(b, t.FirstByte)
	b = append(b, `,"reused":`...)
	b = strconv.AppendBool(b, t.Reused)
	return append(b, '}')
}

// appendOrdering appends what only a delivery with an ordering key has.
func appendOrdering(b []byte, d *engine.Delivery) []byte {
	b = append(b, `,"ordering_key":`...)
	b = appendString(b, d.OrderingKey)
	if d.SkipFailed {
		b = append(b, `,"on_failure":"skip"`...)
	} else {
		b = append(b, `,"on_failure":"block"`...)
	}
	if d.WaitsForOrder {
		b = append(b, `,"waiting_for":"order"`...)
	}
	return b
}

// appendPayload appends headers and body as they are sent.
func appendPayload(b []byte, d *engine.Delivery) []byte {
	b = append(b, `,"headers":{`...)
	for i, h := range d.Headers {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendString(b, h.Name)
		b = append(b, ':')
		b = appendString(b, h.Value)
	}
	b = append(b, '}', ',')
	if d.BodyDropped {
		return append(b, `"body":null,"body_dropped":true`...)
	}
	return appendText(b, "body", d.Body)
}

func appendCodeOrNull(b []byte, code int) []byte {
	if code == 0 {
		return append(b, "null"...)
	}
	return strconv.AppendInt(b, int64(code), 10)
}

func appendBase64(b, raw []byte) []byte {
	return base64.StdEncoding.AppendEncode(b, raw)
}
