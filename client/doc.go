// Package client is for programs that use Harepost: a client of its REST API.
// It needs nothing but the standard library.
//
//	c, err := client.New("https://harepost.example", apiKey, client.Options{})
//	receipt, err := c.Send(ctx, client.Send{
//		Target:         "https://your-app.com/webhook",
//		Body:           order,
//		IdempotencyKey: "ord_123-paid",
//		Sign:           true,
//	})
//
// A call makes one request and takes a context. An answer other than 2xx is an
// [*Error], which errors.Is tells apart by [ErrNotFound], [ErrRateLimited] and
// so on; any other error means that no complete answer came, and so that
// nothing is known: a send that ended so may have been accepted. It is safe to
// repeat if it has an idempotency key, because Harepost then answers with the
// first send's receipt. Nothing is repeated unless [Options.Retries] asks for
// it, and then only what reads, and sends with a key. Redirects are not
// followed, and an answer is read up to 16 MiB: that to a batch further, in
// proportion to the batch.
//
// Many sends go out as one with [Client.SendBatch]; a [Batcher] makes batches
// of what many goroutines send one by one. Lists are iterators over all their
// pages, such as [Client.Deliveries], or one page, such as
// [Client.DeliveriesPage]. Replays, cancels and purges by filter are jobs on
// the server: [Client.StartReplay], [Client.WaitJob]. [Client.WaitDelivery] waits for
// one delivery.
//
// A receiver of deliveries checks that they are Harepost's with the package
// webhook below this one.
//
// A Client is safe for concurrent use. It starts no goroutine of its own; its
// idle connections are those of its [http.Client]. A Batcher has a goroutine
// for each of its requests under way, and has to be closed.
package client
