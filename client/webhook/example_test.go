package webhook_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"

	"github.com/harepost/harepost/client"
	"github.com/harepost/harepost/client/webhook"
)

func ExampleVerifier_Middleware() {
	server := theServer() // as serve --dev starts one
	v, err := webhook.New(webhook.Options{Secrets: []string{server.Secret}})
	if err != nil {
		log.Fatal(err)
	}
	ids := make(chan string, 1)
	target := httptest.NewServer(v.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		d, _ := webhook.FromContext(r.Context())
		body, err := io.ReadAll(r.Body)
		if err != nil {
			http.Error(w, "cannot read the body", http.StatusInternalServerError)
			return
		}
		fmt.Printf("attempt %d, id signed %t: %s\n", d.Attempt, d.Signed, body)
		ids <- d.ID
	})))
	defer target.Close()

	c, err := client.New(server.URL, server.APIKey, client.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer c.CloseIdleConnections()
	receipt, err := c.Send(context.Background(), client.Send{Target: target.URL, Body: map[string]string{"event": "paid"}, Sign: true})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("its id is the receipt's:", <-ids == receipt.QueueID)
	// Output:
	// attempt 1, id signed true: {"event":"paid"}
	// its id is the receipt's: true
}

func ExampleVerifier_SetSecrets() {
	v, err := webhook.New(webhook.Options{Secrets: []string{"whsec_b2xk"}})
	if err != nil {
		log.Fatal(err)
	}
	// "harepost secret rotate" printed a new one: take both.
	fmt.Println(v.SetSecrets("whsec_bmV3", "whsec_b2xk"))
	// Once the overlap is over:
	fmt.Println(v.SetSecrets("whsec_bmV3"))
	// Output:
	// <nil>
	// <nil>
}
