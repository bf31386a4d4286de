package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"reflect"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/alecthomas/kong"

	"github.com/harepost/harepost/client"
)

type sendCmd struct {
	keyed  `embed:""`
	waiter `embed:""`
	Target string `arg:"" optional:"" help:"The URL to send to."`
	Batch  string `name:"batch" placeholder:"FILE" help:"Send every line of a file, each the JSON of one send as POST /v1/send takes it; - is the standard input."`

	Method         string   `name:"method" short:"X" placeholder:"METHOD" help:"POST, PUT, PATCH, DELETE or GET. Default: POST."`
	Data           *string  `name:"data" short:"d" xor:"data" placeholder:"TEXT" help:"The body, sent as it is. @FILE reads it from a file, - from the standard input. JSON gets its Content-Type if no header gives one."`
	DataFile       string   `name:"data-file" xor:"data" placeholder:"FILE" help:"Read the body from a file, whatever its name; - is the standard input."`
	Headers        []string `name:"header" short:"H" sep:"none" placeholder:"NAME:VALUE" help:"A header for the target; may be repeated."`
	IdempotencyKey string   `name:"idempotency-key" placeholder:"KEY" help:"Repeating the send with the same key queues it once."`
	Sign           bool     `name:"sign" help:"Sign the delivery with the account's secret."`
	Metadata       string   `name:"metadata" placeholder:"JSON" help:"A JSON object to keep with the delivery; not sent."`
	Labels         []string `name:"label" sep:"none" placeholder:"LABEL" help:"A label to find the delivery by; may be repeated."`

	OrderingKey string `name:"ordering-key" placeholder:"KEY" help:"Deliver after those that were accepted before it with the same key."`
	OnFailure   string `name:"on-failure" enum:",block,skip" default:"" placeholder:"WORD" help:"block or skip: whether those after it with its ordering key wait if it ends dead. Default: block."`

	MaxAttempts  int           `name:"max-attempts" placeholder:"N" help:"1 to 25. Default: the server's, 5."`
	Backoff      string        `name:"backoff" enum:",exponential,fixed" default:"" placeholder:"WORD" help:"exponential or fixed. Default: exponential."`
	BaseDelay    time.Duration `name:"base-delay" placeholder:"DURATION" help:"First retry delay. Default: 1s."`
	MaxDelay     time.Duration `name:"max-delay" placeholder:"DURATION" help:"Longest retry delay. Default: 1h."`
	Jitter       string        `name:"jitter" enum:",full,none" default:"" placeholder:"WORD" help:"full or none. Default: full."`
	TryTimeout   time.Duration `name:"attempt-timeout" placeholder:"DURATION" help:"How long one attempt may take. Default: 10s."`
	NoRetryAfter bool          `name:"ignore-retry-after" help:"Do not let the target's Retry-After replace the delay."`

	Delay     time.Duration `name:"delay" placeholder:"DURATION" help:"Do not try before this has passed."`
	NotBefore moment        `name:"not-before" placeholder:"TIME" help:"Do not try before: 2026-06-10T14:30:00Z, 2026-06-10, or 90m for that long from now."`
	ExpiresAt moment        `name:"expires-at" placeholder:"TIME" help:"Do not try from then on, as --not-before: the delivery becomes a dead letter."`

	FlowKey     string  `name:"flow-key" placeholder:"KEY" help:"Share one lane and its limits with all sends of this key, whatever their targets."`
	Rate        float64 `name:"rate" placeholder:"N" help:"Attempts of the flow started per second from now on, 0.001 to 100000. Default: as it is."`
	Parallelism int     `name:"parallelism" placeholder:"N" help:"Attempts of the flow under way at once from now on, 1 to 10000. Default: as it is."`
}

// sendBodyBytes bounds what is read for a body, above any server's limit that
// makes sense for one JSON request.
const sendBodyBytes = 64 << 20

// Validate refuses a batch with what belongs to one send.
func (c *sendCmd) Validate(ctx *kong.Context) error {
	if err := c.waiter.Validate(ctx); err != nil {
		return err
	}
	switch {
	case c.Target == "" && c.Batch == "":
		return errors.New("expected \"<target>\", or --batch FILE")
	case c.FlowKey == "" && (c.Rate != 0 || c.Parallelism != 0):
		return errors.New("--rate and --parallelism are for --flow-key")
	case c.Batch == "":
		return nil
	}
	alone := sendCmd{keyed: c.keyed, waiter: waiter{WaitTimeout: c.WaitTimeout}, Batch: c.Batch}
	if !reflect.DeepEqual(*c, alone) {
		return errors.New("--batch stands alone: each line of the file has its own target, body, headers and policy, and nothing is waited for")
	}
	return nil
}

// Run sends, and waits where asked to.
func (c *sendCmd) Run(sh *shell) error {
	api, err := c.dial()
	if err != nil {
		return err
	}
	if c.Batch != "" {
		return c.runBatch(sh, api.Client)
	}
	send, err := c.build(sh.input(), time.Now())
	if sh.ctx.Err() != nil {
		return errInterrupted
	}
	if err != nil {
		return exitWith(exitUsage, err)
	}
	receipt, err := api.Send(sh.ctx, send)
	if err != nil {
		return c.explain(err)
	}
	printWarnings(sh, append(c.clamped(), receipt.Warnings...))
	if c.Wait {
		d, waited := c.await(sh.ctx, api.Client, client.Delivery{QueueID: receipt.QueueID, Status: receipt.Status})
		return c.report(c.connection, d, waited, func() error { return printDelivery(sh, c.connection, api, d) })
	}
	if c.JSON {
		return printJSON(sh.out, api.raw())
	}
	p := painterFor(sh.out)
	fmt.Fprintf(sh.out, "%s  %s", p.bold(receipt.QueueID), p.status(receipt.Status))
	if receipt.Duplicate {
		fmt.Fprint(sh.out, p.dim("  duplicate of an earlier send, nothing new was queued"))
	}
	fmt.Fprintln(sh.out)
	return nil
}

// build turns the flags into a send.
func (c *sendCmd) build(in io.Reader, now time.Time) (client.Send, error) {
	headers, err := parseHeaders(c.Headers)
	if err != nil {
		return client.Send{}, err
	}
	s := client.Send{
		Target: c.Target, Method: c.Method, Headers: headers, IdempotencyKey: c.IdempotencyKey,
		OrderingKey: c.OrderingKey, OnFailure: c.OnFailure,
		Sign: c.Sign, Labels: c.Labels, Delivery: c.policy(),
		DelayMS: c.Delay.Milliseconds(), NotBefore: c.NotBefore.ahead(now), ExpiresAt: c.ExpiresAt.ahead(now),
		FlowKey: c.FlowKey, Rate: c.Rate, Parallelism: c.Parallelism,
	}
	if c.Metadata != "" {
		if !json.Valid([]byte(c.Metadata)) {
			return client.Send{}, errors.New("--metadata is not JSON")
		}
		s.Metadata = json.RawMessage(c.Metadata)
	}
	body, given, err := c.body(in)
	if err != nil || !given {
		return s, err
	}
	if !utf8.ValidString(body) {
		return client.Send{}, errors.New("the body is not UTF-8 text, which a JSON request cannot carry")
	}
	s.Body = body
	if !hasHeader(s.Headers, "Content-Type") && json.Valid([]byte(body)) {
		s.Headers["Content-Type"] = "application/json"
	}
	return s, nil
}

func (c *sendCmd) policy() *client.Policy {
	p := client.Policy{
		MaxAttempts: c.MaxAttempts, Backoff: c.Backoff, Jitter: c.Jitter,
		BaseDelayMS: c.BaseDelay.Milliseconds(), MaxDelayMS: c.MaxDelay.Milliseconds(), TimeoutMS: c.TryTimeout.Milliseconds(),
	}
	if c.NoRetryAfter {
		p.RespectRetryAfter = new(bool)
	}
	if p == (client.Policy{}) {
		return nil
	}
	return &p
}

// clamped says which flags the server takes for other numbers than they are.
func (c *sendCmd) clamped() (warnings []string) {
	within := func(flag string, given, lowest, highest time.Duration) {
		if taken := min(max(given, lowest), highest); given != 0 && taken != given {
			warnings = append(warnings, fmt.Sprintf("%s %s counts as %s: the server allows %s to %s", flag, given, taken, lowest, highest))
		}
	}
	if n := c.MaxAttempts; n != 0 && (n < 1 || n > 25) {
		warnings = append(warnings, fmt.Sprintf("--max-attempts %d counts as %d: the server allows 1 to 25", n, min(max(n, 1), 25)))
	}
	within("--base-delay", c.BaseDelay, 100*time.Millisecond, time.Minute)
	within("--max-delay", c.MaxDelay, time.Second, 12*time.Hour)
	within("--attempt-timeout", c.TryTimeout, time.Second, 30*time.Second)
	return warnings
}

// body reads the body from where the flags say.
func (c *sendCmd) body(in io.Reader) (body string, given bool, err error) {
	switch {
	case c.DataFile != "":
		body, err = readBody(in, "--data-file", c.DataFile)
	case c.Data == nil:
		return "", false, nil
	case *c.Data == "-":
		body, err = readBody(in, "--data", "-")
	case strings.HasPrefix(*c.Data, "@"):
		body, err = readBody(in, "--data", (*c.Data)[1:])
	default:
		body = *c.Data
	}
	return body, err == nil, err
}

// readBody reads a file; - is the standard input.
func readBody(in io.Reader, flag, name string) (string, error) {
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return "", fmt.Errorf("%s: %w", flag, err)
		}
		defer f.Close()
		in = f
	}
	b, err := io.ReadAll(io.LimitReader(in, sendBodyBytes+1))
	if err != nil {
		return "", fmt.Errorf("%s: %w", flag, err)
	}
	if len(b) > sendBodyBytes {
		return "", fmt.Errorf("%s: more than %s", flag, bytesText(sendBodyBytes))
	}
	return string(b), nil
}

// parseHeaders reads "Name: value" lines. A name can stand once: the API's
// headers are a JSON object.
func parseHeaders(lines []string) (map[string]string, error) {
	headers := make(map[string]string, len(lines)+1)
	for _, line := range lines {
		name, value, ok := strings.Cut(line, ":")
		name = strings.TrimSpace(name)
		if !ok || name == "" {
			return nil, fmt.Errorf("--header %q is not NAME:VALUE", line)
		}
		if hasHeader(headers, name) {
			return nil, fmt.Errorf("--header %s is given twice", name)
		}
		headers[name] = strings.TrimSpace(value)
	}
	return headers, nil
}

func hasHeader(headers map[string]string, name string) bool {
	for n := range headers {
		if http.CanonicalHeaderKey(n) == http.CanonicalHeaderKey(name) {
			return true
		}
	}
	return false
}
