// Package webhook is for programs that receive what Harepost delivers: it
// verifies the signatures. It needs nothing but the standard library.
//
//	v, err := webhook.New(webhook.Options{Secrets: []string{secret}})
//	http.Handle("POST /hook", v.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
//		d, _ := webhook.FromContext(r.Context())
//		...
//	})))
//
// Behind [Verifier.Middleware] a handler sees only requests that were signed
// with one of the secrets, not long ago. It reads the body as if nobody had.
// Others are answered 401, too large ones 413. Both make Harepost give the
// delivery up: it is kept as a dead letter, and can be replayed once the
// receiver knows the right secret.
//
// # Schemes
//
// Harepost signs in two ways, see [VerifyHarepost] and [VerifyStandard]. At
// least one signature must be there, and what is there must be right. Signatures
// are compared in constant time, and their time must be within five minutes of
// the receiver's clock, unless [Options.Tolerance] says otherwise.
//
// # Rotation
//
// A Verifier takes several secrets. To rotate: make the new secret ("harepost
// secret rotate"), give it to receivers beside the old one, with
// [Verifier.SetSecrets] or a restart, and take the old one away when its overlap
// is over. Within the overlap Harepost signs with both, so that a receiver that
// knows either goes on.
//
// # The same delivery again
//
// A delivery may arrive more than once: after a lost answer or a crash, or from
// somebody who saw it and plays it again while its time is within the
// tolerance. No signature can tell; keeping the ids of what was done can, and is
// the receiver's to do. [Delivery.ID] is the same for all attempts and, where
// [Delivery.Signed], nobody can change it. Keep ids for longer than deliveries
// are tried, and remember one in the same transaction as what it caused.
package webhook
