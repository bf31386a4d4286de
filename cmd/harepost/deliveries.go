package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/alecthomas/kong"

	"github.com/harepost/harepost/client"
	"github.com/harepost/harepost/engine"
)

type deliveriesCmd struct {
	Get    deliveriesGetCmd    `cmd:"" help:"Show a delivery with its attempts."`
	List   deliveriesListCmd   `cmd:"" help:"List deliveries, newest first."`
	Replay deliveriesReplayCmd `cmd:"" help:"Try finished deliveries again, each with a new budget of attempts."`
	Cancel deliveriesCancelCmd `cmd:"" help:"Cancel pending deliveries, by their ids or by a filter."`
}

// A waiter is the flags of commands that can wait for a delivery to end.
type waiter struct {
	Wait        bool          `name:"wait" help:"Wait until the delivery has ended: exit status 0 when it was delivered, 6 when not, 7 when the wait was over first."`
	WaitTimeout time.Duration `name:"wait-timeout" default:"1m" help:"How long --wait waits."`
}

// Validate refuses a time for what is not waited for. The variable may be set
// for the commands that wait.
func (w waiter) Validate(ctx *kong.Context) error {
	for _, p := range ctx.Path {
		if !w.Wait && p.Flag != nil && p.Flag.Name == "wait-timeout" {
			return errors.New("--wait-timeout is for --wait")
		}
	}
	return nil
}

type deliveriesGetCmd struct {
	keyed   `embed:""`
	waiter  `embed:""`
	QueueID string `arg:"" name:"queue_id" help:"The delivery, as in hr_..."`
	Payload bool   `name:"payload" help:"Show the headers and the body too, while they are kept."`
}

// Run shows the delivery.
func (c *deliveriesGetCmd) Run(sh *shell) error {
	api, err := c.dial()
	if err != nil {
		return err
	}
	get := api.Delivery
	if c.Payload && !c.Wait {
		get = api.DeliveryWithPayload
	}
	d, err := get(sh.ctx, c.QueueID)
	if err != nil {
		return c.explainOf("delivery", c.QueueID, err)
	}
	if !c.Wait {
		return c.show(sh, api, d)
	}
	d, waited := c.await(sh.ctx, api.Client, d)
	if c.Payload && (waited == nil || errors.Is(waited, errStillPending)) {
		if d, err = api.DeliveryWithPayload(sh.ctx, c.QueueID); err != nil {
			return c.explainOf("delivery", c.QueueID, err)
		}
	}
	return c.report(c.connection, d, waited, func() error { return c.show(sh, api, d) })
}

// show prints the delivery, and its payload where that was asked for.
func (c *deliveriesGetCmd) show(sh *shell, api *session, d client.Delivery) error {
	if err := printDelivery(sh, c.connection, api, d); err != nil || c.JSON || !c.Payload {
		return err
	}
	return printPayload(sh, d)
}

// printPayload shows what is sent: header lines, an empty line, the body.
func printPayload(sh *shell, d client.Delivery) error {
	p := painterFor(sh.out)
	body, err := d.Payload()
	text := bodyText(p, "", body, len(body))
	switch {
	case errors.Is(err, client.ErrBodyDropped):
		text = p.dim("the body was dropped by retention")
	case err != nil:
		return err
	}
	fmt.Fprintln(sh.out)
	for _, name := range slices.Sorted(maps.Keys(d.Headers)) {
		fmt.Fprintf(sh.out, "%s %s\n", p.dim(name+":"), printable(d.Headers[name]))
	}
	fmt.Fprintf(sh.out, "\n%s\n", text)
	return nil
}

// errStillPending says that a wait was over before the delivery ended.
var errStillPending = errors.New("still pending")

// await waits until the delivery has ended or WaitTimeout is over, which is
// errStillPending. A server that restarts meanwhile is waited for too.
func (w waiter) await(ctx context.Context, api *client.Client, d client.Delivery) (client.Delivery, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, w.WaitTimeout, errStillPending)
	defer cancel()
	d, err := api.WaitDelivery(ctx, d)
	if err != nil {
		return d, cmp.Or(context.Cause(ctx), err)
	}
	return d, nil
}

// report shows what a wait found and turns it into an exit status.
func (w waiter) report(c connection, d client.Delivery, waited error, show func() error) error {
	pending := errors.Is(waited, errStillPending)
	if waited != nil && !pending {
		return c.explain(waited)
	}
	if err := show(); err != nil {
		return err
	}
	switch {
	case pending:
		return exitWith(exitStillPending, fmt.Errorf("%s is still %s after %s", d.QueueID, d.Status, w.WaitTimeout))
	case d.Status != engine.StatusDelivered.String():
		return exitWith(exitUndelivered, nil)
	}
	return nil
}

func printDelivery(sh *shell, c connection, api *session, d client.Delivery) error {
	if c.JSON {
		return printJSON(sh.out, api.raw())
	}
	p := painterFor(sh.out)
	fmt.Fprintf(sh.out, "%s  %s\n", p.bold(d.QueueID), p.status(d.Status))
	if d.Target == "" { // no more than its receipt is known
		return nil
	}
	fmt.Fprintf(sh.out, "%s %s\n", d.Method, printable(d.Target))
	now := time.Now()
	fmt.Fprintf(sh.out, "%s %s", p.dim("accepted"), momentText(&d.CreatedAt, now))
	if d.NextAttemptAt != nil {
		fmt.Fprintf(sh.out, "%s %s", p.dim(", next attempt"), momentText(d.NextAttemptAt, now))
	}
	if d.WaitingFor != "" {
		fmt.Fprintf(sh.out, "%s %s", p.dim(", waits for"), printable(d.WaitingFor))
	}
	fmt.Fprintln(sh.out)
	if len(d.Attempts) > 0 {
		fmt.Fprintln(sh.out)
		printAttempts(sh.out, p, "", d)
		printLastResponse(sh.out, p, d.Attempts[len(d.Attempts)-1])
	}
	return nil
}

// printLastResponse shows what the target said to the last attempt, where it
// is kept: of failures.
func printLastResponse(w io.Writer, p painter, a client.Attempt) {
	body, err := a.Response()
	if err != nil || len(body) == 0 {
		return // a table is there already; --json has the bytes
	}
	fmt.Fprintf(w, "\n%s\n%s\n", p.dim(fmt.Sprintf("answer to attempt %d", a.Attempt)), bodyText(p, "  ", body, 1024))
}

// printAttempts shows the attempts as a table.
func printAttempts(w io.Writer, p painter, indent string, d client.Delivery) {
	t := newTable("ATTEMPT", "OUTCOME", "STATUS", "LATENCY", "STARTED", "ERROR")
	for _, a := range d.Attempts {
		t.add(plain(strconv.Itoa(a.Attempt)), cell{a.Outcome, p.status}, plain(statusText(a.HTTPStatus)),
			plain(shortDuration(time.Duration(a.LatencyMS)*time.Millisecond)), plain(timeText(&a.StartedAt)), cell{errorText(a.Error), p.dim})
	}
	t.write(w, p, indent)
}

func statusText(status *int) string {
	if status == nil || *status == 0 {
		return "-"
	}
	return strconv.Itoa(*status)
}

func errorText(text *string) string {
	if text == nil {
		return ""
	}
	return printable(*text)
}

type deliveriesListCmd struct {
	keyed  `embed:""`
	lister `embed:"" set:"statuses=queued, retrying, delivered, rejected, dead_letter, canceled"`
}

// Run lists deliveries.
func (c *deliveriesListCmd) Run(sh *shell) error {
	api, err := c.dial()
	if err != nil {
		return err
	}
	return c.list(sh, c.connection, api, api.DeliveriesPage)
}

type deliveriesReplayCmd struct {
	keyed    `embed:""`
	QueueIDs []string `arg:"" name:"queue_id" help:"The deliveries, as in hr_... Each is tried, whatever came of the others."`
}

// Run replays them one after the other.
func (c *deliveriesReplayCmd) Run(sh *shell) error {
	api, err := c.dial()
	if err != nil {
		return err
	}
	return changeEach(sh, c.connection, api, c.QueueIDs, api.Replay)
}

// changeEach makes one change to each delivery, tells what came of each, and
// ends with the highest of their statuses. It stops early only where the others
// would fare the same: without an answer, or with a key that is not taken.
func changeEach(sh *shell, c connection, api *session, ids []string, change func(context.Context, string) (client.Delivery, error)) error {
	worst := exitOK
	for i, id := range ids {
		d, err := change(sh.ctx, id)
		if err == nil {
			if err := printChanged(sh, c, api, d); err != nil {
				return err
			}
			continue
		}
		explained := c.explain(fmt.Errorf("%s: %w", id, err))
		if len(ids) == 1 || sh.ctx.Err() != nil {
			return explained
		}
		fmt.Fprintln(sh.err, explained)
		worst = max(worst, statusOf(explained))
		if _, answered := errors.AsType[*client.Error](err); answered && !errors.Is(err, client.ErrUnauthorized) {
			continue
		}
		if rest := ids[i+1:]; len(rest) > 0 {
			fmt.Fprintf(sh.err, "not tried: %s\n", strings.Join(rest, " "))
		}
		break
	}
	if worst != exitOK {
		return exitWith(worst, nil)
	}
	return nil
}

func printChanged(sh *shell, c connection, api *session, d client.Delivery) error {
	if c.JSON {
		return printJSONLine(sh.out, api.raw())
	}
	p := painterFor(sh.out)
	_, err := fmt.Fprintf(sh.out, "%s  %s\n", p.bold(d.QueueID), p.status(d.Status))
	return err
}

type deliveriesCancelCmd struct {
	keyed       `embed:""`
	filterFlags `embed:"" set:"statuses=queued, retrying"`
	bulk        `embed:""`
	consent     `embed:""`
	QueueIDs    []string `arg:"" optional:"" name:"queue_id" help:"The deliveries, as in hr_...; none: those that the filter selects."`
}

// Validate refuses ids and a filter together: which of them is meant?
func (c *deliveriesCancelCmd) Validate() error {
	if len(c.QueueIDs) > 0 && (c.filterFlags != filterFlags{} || c.DryRun || c.bulk != bulk{}) {
		return errors.New("ids and a filter, --all, --dry-run, --rate or --detach exclude each other")
	}
	return c.bulk.Validate()
}

// Run cancels them. An attempt that is under way is not cut off.
func (c *deliveriesCancelCmd) Run(sh *shell) error {
	api, err := c.dial()
	if err != nil {
		return err
	}
	if len(c.QueueIDs) > 0 {
		return changeEach(sh, c.connection, api, c.QueueIDs, api.Cancel)
	}
	return c.run(sh, c.connection, api, c.filterFlags, operation{
		verb: "cancel", past: "cancelled", consent: c.consent, call: api.CancelAll,
	})
}
