package client_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"time"

	"github.com/harepost/harepost/client"
)

// example is a client of a server in this process, as serve --dev starts one.
func example(o client.Options) *client.Client {
	c, err := client.New(theServer().URL, theServer().APIKey, o)
	if err != nil {
		log.Fatal(err)
	}
	return c
}

// ended waits for a delivery to end.
func ended(ctx context.Context, c *client.Client, queueID string) client.Delivery {
	for {
		d, err := c.Delivery(ctx, queueID)
		if err != nil {
			log.Fatal(err)
		}
		if d.Status != "queued" && d.Status != "retrying" {
			return d
		}
		<-time.After(5 * time.Millisecond)
	}
}

func ExampleClient_Send() {
	target := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusNoContent)
	}))
	defer target.Close()
	c := example(client.Options{Retries: 3}) // client.New(url, apiKey, ...)
	defer c.CloseIdleConnections()
	ctx := context.Background()

	send := client.Send{
		Target:         target.URL + "/orders",
		Body:           map[string]any{"event": "paid", "order": 123},
		IdempotencyKey: "ord_123-paid", // so that it may be repeated
		Sign:           true,
	}
	first, err := c.Send(ctx, send)
	if err != nil {
		log.Fatal(err)
	}
	again, err := c.Send(ctx, send)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(first.Status, again.Duplicate, first.QueueID == again.QueueID)
	fmt.Println(ended(ctx, c, first.QueueID).Status)
	// Output:
	// queued true true
	// delivered
}

func ExampleClient_SendBatch() {
	c := example(client.Options{})
	defer c.CloseIdleConnections()
	results, err := c.SendBatch(context.Background(), []client.Send{
		{Target: "http://127.0.0.1:9999/orders", DelayMS: 3_600_000},
		{Target: "gopher://127.0.0.1/"},
	})
	if err != nil {
		log.Fatal(err) // nothing is known of any
	}
	for _, r := range results {
		switch {
		case errors.Is(r.Err, client.ErrRateLimited), errors.Is(r.Err, client.ErrUnavailable):
			fmt.Println("send it again later")
		case r.Err != nil:
			fmt.Println("refused:", errors.Is(r.Err, client.ErrInvalid))
		default:
			fmt.Println(r.Receipt.Status)
		}
	}
	// Output:
	// queued
	// refused: true
}

func ExampleBatcher() {
	c := example(client.Options{Retries: 3, GenerateKeys: true})
	defer c.CloseIdleConnections()
	b, err := c.NewBatcher(client.BatcherOptions{MaxLinger: 2 * time.Millisecond})
	if err != nil {
		log.Fatal(err)
	}
	ctx := context.Background()
	var all sync.WaitGroup
	for order := range 100 {
		all.Go(func() {
			s := client.Send{Target: "http://127.0.0.1:9999/orders", Body: order, DelayMS: 3_600_000, Labels: []string{"example"}}
			if _, err := b.Send(ctx, s); err != nil {
				log.Println(err)
			}
		})
	}
	all.Wait()
	if err := b.Close(ctx); err != nil {
		log.Fatal(err)
	}

	queued := 0
	for d, err := range c.Deliveries(ctx, client.Filter{Label: "example"}) {
		if err != nil {
			log.Fatal(err)
		}
		if d.Status == "queued" {
			queued++
		}
	}
	fmt.Println(queued, "queued")
	// Output: 100 queued
}

func ExampleClient_StartReplay() {
	var mended atomic.Bool
	target := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if !mended.Load() {
			w.WriteHeader(http.StatusGone) // rejected: never tried again by itself
		}
	}))
	defer target.Close()
	c := example(client.Options{})
	defer c.CloseIdleConnections()
	ctx := context.Background()
	receipt, err := c.Send(ctx, client.Send{Target: target.URL + "/replayed"})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(ended(ctx, c, receipt.QueueID).Status)

	mended.Store(true)
	work := client.Bulk{Filter: client.Filter{Target: target.URL + "/replayed"}, RatePerSecond: 500}
	count := work
	count.DryRun = true
	counted, err := c.StartReplay(ctx, count)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(*counted.Matched, "would be replayed")

	job, err := c.StartReplay(ctx, work)
	if err != nil {
		log.Fatal(err)
	}
	job, err = c.WaitJob(ctx, job, nil)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(job.Status, job.Done)
	fmt.Println(ended(ctx, c, receipt.QueueID).Status)
	// Output:
	// rejected
	// 1 would be replayed
	// done 1
	// delivered
}

func ExampleError() {
	c := example(client.Options{})
	defer c.CloseIdleConnections()
	_, err := c.Send(context.Background(), client.Send{Target: "https://not-yours.example/hook"})
	if refused, ok := errors.AsType[*client.Error](err); ok {
		fmt.Println(refused.Status, refused.Message)
	}
	fmt.Println(errors.Is(err, client.ErrForbidden))
	// Output:
	// 403 destination domain is not verified
	// true
}
