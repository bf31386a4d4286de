package client_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/harepost/harepost/api"
	"github.com/harepost/harepost/api/apitest"
	"github.com/harepost/harepost/client"
	"github.com/harepost/harepost/client/internal/live"
	"github.com/harepost/harepost/engine/backup"
)

// TestARealServerUnderstandsEveryCall goes through all of them once: that the
// answers of the other tests are those of a server, and as documented.
func TestARealServerUnderstandsEveryCall(t *testing.T) {
	document, err := apitest.New(api.OpenAPI())
	if err != nil {
		t.Fatal(err)
	}
	checked := &http.Client{Transport: document.Transport(http.DefaultTransport.(*http.Transport).Clone(), func(err error) { t.Error(err) })}
	t.Cleanup(checked.CloseIdleConnections)
	operator, err := client.New(theServer().URL, "", client.Options{AdminToken: live.AdminToken, HTTPClient: checked})
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	made, err := operator.CreateAccount(ctx, "every call")
	if err != nil {
		t.Fatal(err)
	}
	c, err := client.New(theServer().URL, made.APIKey, client.Options{HTTPClient: checked})
	if err != nil {
		t.Fatal(err)
	}

	t.Run("secret and keys", func(t *testing.T) { checkSecrets(t, c, made) })
	t.Run("domains", func(t *testing.T) { checkDomains(t, c) })
	t.Run("deliveries", func(t *testing.T) { checkDeliveries(t, c) })
	t.Run("jobs", func(t *testing.T) { checkJobs(t, c) })
	t.Run("accounts", func(t *testing.T) { checkAccounts(t, operator, c, made) })
	t.Run("backup", func(t *testing.T) {
		var b bytes.Buffer
		if err := operator.Backup(ctx, &b); err != nil {
			t.Fatal(err)
		}
		if seen, err := backup.Read(&b, nil); err != nil || seen.Files == 0 {
			t.Errorf("%+v, %v", seen, err)
		}
		if err := c.Backup(ctx, &b); !errors.Is(err, client.ErrUnauthorized) {
			t.Errorf("without the admin token: %v", err)
		}
	})
}

func checkSecrets(t *testing.T, c *client.Client, made client.NewAccount) {
	ctx := t.Context()
	secret, err := c.SigningSecret(ctx)
	same(t, secret, err, made.SigningSecret)
	rotated, err := c.RotateSigningSecret(ctx, 0)
	if err != nil || rotated.SigningSecret == secret || rotated.PreviousExpireAt.IsZero() {
		t.Errorf("%+v, %v", rotated, err)
	}
	key, err := c.CreateKey(ctx)
	if err != nil || key.APIKey == "" {
		t.Fatalf("%+v, %v", key, err)
	}
	if keys, err := c.Keys(ctx); err != nil || len(keys) != 2 {
		t.Errorf("%+v, %v", keys, err)
	}
	if err := c.DeleteKey(ctx, key.ID); err != nil {
		t.Error(err)
	}
	if err := c.DeleteKey(ctx, key.ID); !errors.Is(err, client.ErrNotFound) {
		t.Errorf("deleted twice: %v", err)
	}
}

func checkDomains(t *testing.T, c *client.Client) {
	ctx := t.Context()
	added, err := c.AddDomain(ctx, "your-app.example.com")
	if err != nil || added.Record == nil {
		t.Fatalf("%+v, %v", added, err)
	}
	if d, err := c.Domain(ctx, added.Domain); err != nil || *d.Record != *added.Record {
		t.Errorf("%+v, %v", d, err)
	}
	if list, err := c.Domains(ctx); err != nil || len(list) != 1 {
		t.Errorf("%+v, %v", list, err)
	}
	if err := c.DeleteDomain(ctx, added.Domain); err != nil {
		t.Error(err)
	}
}

// waiting is a send that is not tried while the tests run.
var waiting = client.Send{Target: "http://127.0.0.1:9999/hook", Body: "text", DelayMS: 3_600_000, Labels: []string{"waiting"}}

func checkDeliveries(t *testing.T, c *client.Client) {
	ctx := t.Context()
	receipt, err := c.Send(ctx, waiting)
	if err != nil {
		t.Fatal(err)
	}
	d, err := c.DeliveryWithPayload(ctx, receipt.QueueID)
	if payload, _ := d.Payload(); err != nil || string(payload) != "text" || d.Labels[0] != "waiting" {
		t.Errorf("%+v, %v", d, err)
	}
	if _, err := c.Replay(ctx, receipt.QueueID); !errors.Is(err, client.ErrConflict) {
		t.Errorf("replay of a pending one: %v", err)
	}
	if d, err := c.Cancel(ctx, receipt.QueueID); err != nil || d.Status != "canceled" {
		t.Errorf("%+v, %v", d, err)
	}
	results, err := c.SendLines(ctx, []byte(`{"target":"http://127.0.0.1:9999/hook","delay_ms":3600000}`+"\n\n"+`{"target":1}`+"\n"))
	if err != nil || len(results) != 2 || results[0].Receipt.QueueID == "" || !errors.Is(results[1].Err, client.ErrInvalid) {
		t.Errorf("%+v, %v", results, err)
	}
	n := 0
	for _, err := range c.Deliveries(ctx, client.Filter{Limit: 1}) {
		if n++; err != nil {
			t.Fatal(err)
		}
	}
	if n != 2 {
		t.Errorf("%d deliveries", n)
	}
	for d, err := range c.DeadLetters(ctx, client.Filter{Host: "127.0.0.1"}) {
		t.Errorf("%+v, %v", d, err)
	}
}

func checkJobs(t *testing.T, c *client.Client) {
	ctx := t.Context()
	if _, err := c.SendBatch(ctx, []client.Send{waiting, waiting}); err != nil {
		t.Fatal(err)
	}
	labelled := client.Filter{Label: "waiting"}
	counted, err := c.CancelAll(ctx, client.Bulk{Filter: labelled, DryRun: true})
	if err != nil || !counted.DryRun || *counted.Matched != 2 {
		t.Fatalf("%+v, %v", counted, err)
	}
	j, err := c.CancelAll(ctx, client.Bulk{Filter: labelled, RatePerSecond: 1000})
	if err == nil {
		j, err = c.WaitJob(ctx, j, nil)
	}
	if err != nil || j.Status != client.JobDone || j.Done != 2 || *j.RatePerSecond != 1000 {
		t.Errorf("%+v, %v", j, err)
	}
	for _, start := range []func(context.Context, client.Bulk) (client.Job, error){c.StartReplay, c.Purge} {
		j, err := start(ctx, client.Bulk{All: true})
		if err == nil {
			j, err = c.WaitJob(ctx, j, nil)
		}
		if err != nil || j.Status != client.JobDone || j.Done != 0 {
			t.Errorf("%+v, %v", j, err)
		}
	}
	if list, err := c.Jobs(ctx); err != nil || len(list) != 3 {
		t.Errorf("%+v, %v", list, err)
	}
	if _, err := c.CancelJob(ctx, j.JobID); err != nil && !errors.Is(err, client.ErrConflict) {
		t.Errorf("cancel of a job that has ended: %v", err)
	}
}

func checkAccounts(t *testing.T, operator, c *client.Client, made client.NewAccount) {
	ctx := t.Context()
	found := false
	for a, err := range operator.Accounts(ctx) {
		if err != nil {
			t.Fatal(err)
		}
		found = found || a.AccountID == made.AccountID
	}
	if !found {
		t.Error("the account is not listed")
	}
	a, err := operator.ChangeAccount(ctx, made.AccountID, client.AccountChange{Name: ptr("other"), Suspended: ptr(true), RateLimitPerMinute: ptr(60)})
	if err != nil || a.Name != "other" || !a.Suspended || *a.RateLimitPerMinute != 60 {
		t.Errorf("%+v, %v", a, err)
	}
	if _, err := c.Send(ctx, waiting); !errors.Is(err, client.ErrForbidden) {
		t.Errorf("a suspended account's send: %v", err)
	}
	a, err = operator.ChangeAccount(ctx, made.AccountID, client.AccountChange{DefaultRateLimit: true})
	if err != nil || a.RateLimitPerMinute != nil || !a.Suspended {
		t.Errorf("%+v, %v", a, err)
	}
	if err := operator.DeleteAccount(ctx, made.AccountID); err != nil {
		t.Error(err)
	}
	if _, err := operator.Account(ctx, made.AccountID); !errors.Is(err, client.ErrNotFound) {
		t.Errorf("a deleted account: %v", err)
	}
}

// What the client reads of the answer to a batch is bounded by the batch. Here is
// what makes an answer longest: sixteen names that are no fields, of characters
// that an answer has to escape twice; a field of one letter; a key.
func TestAServersAnswerToABatchIsInProportion(t *testing.T) {
	operator, err := client.New(theServer().URL, "", client.Options{AdminToken: live.AdminToken})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(operator.CloseIdleConnections)
	made, err := operator.CreateAccount(t.Context(), "proportion")
	if err != nil {
		t.Fatal(err)
	}
	answered := 0
	c, err := client.New(theServer().URL, made.APIKey, client.Options{Answered: func(body []byte) { answered = len(body) }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.CloseIdleConnections)
	f := func(name, send string) {
		t.Helper()
		lines := strings.Repeat(send+"\n", 100)
		results, err := c.SendLines(t.Context(), []byte(lines))
		if err != nil || len(results) != 100 {
			t.Fatalf("%s: %d results, %v", name, len(results), err)
		}
		// The 16 MiB of any answer are there beside: 1.6 KiB for each of 10,000.
		if most := 8*len(lines) + 100*1600; answered > most {
			t.Errorf("%s: %d bytes were sent, %d answered: %s", name, len(lines), answered, results[0].Receipt.Warnings)
		}
		t.Logf("%s: %d bytes were sent, %d answered", name, len(lines), answered)
	}
	const target = `{"target":"http://127.0.0.1:9999/","delay_ms":3600000`
	unknown := func(name string) string {
		text := target
		for i := range 16 {
			text += fmt.Sprintf(`,"%s%c":0`, name, 'a'+i)
		}
		return text + "}"
	}
	f("none", target+"}")
	f("short names", unknown(""))
	f("deleted", unknown(strings.Repeat("\x7f", 199)))
	f("much deleted", unknown(strings.Repeat("\x7f", 40)))
	f("zero width", unknown(strings.Repeat("\u200b", 66)))
	f("quotes", unknown(strings.Repeat(`\"`, 199)))
	f("refused", `{"target":1}`)
	f("refused, long", `{"target":"http://127.0.0.1:9999/","method":"`+strings.Repeat("\x7f", 199)+`"}`)
	f("no send", "x")
}
