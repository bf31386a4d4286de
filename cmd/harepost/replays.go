package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/harepost/harepost/client"
)

// replaysCmd is about bulk operations: replays, and also cancels and purges,
// which the server runs and shows in the same way.
type replaysCmd struct {
	List   replaysListCmd   `cmd:"" help:"List the account's bulk operations, newest first: replays, cancels, purges."`
	Get    replaysGetCmd    `cmd:"" help:"Show how far one has come."`
	Watch  replaysWatchCmd  `cmd:"" help:"Show its progress until it has ended. Exit status 1 when it was cancelled."`
	Cancel replaysCancelCmd `cmd:"" help:"Stop one. What it has done stays done."`
}

type replaysListCmd struct {
	keyed `embed:""`
}

// Run lists the operations.
func (c *replaysListCmd) Run(sh *shell) error {
	api, err := c.dial()
	if err != nil {
		return err
	}
	jobs, err := api.Jobs(sh.ctx)
	if err != nil {
		return c.explain(err)
	}
	if c.JSON {
		return printJSON(sh.out, api.raw())
	}
	p := painterFor(sh.out)
	t := newTable("ID", "KIND", "STATUS", "MATCHED", "DONE", "SKIPPED", "CREATED")
	for _, j := range jobs {
		t.add(plain(j.JobID), plain(j.Kind), cell{j.Status, p.status}, plain(matchedText(j.Matched)), plain(countText(j.Done)),
			plain(countText(j.Skipped)), plain(timeText(&j.CreatedAt)))
	}
	t.write(sh.out, p, "")
	return nil
}

// matchedText is how many there are to do, which the server may not know yet.
func matchedText(n *int64) string {
	if n == nil {
		return "-"
	}
	return countText(*n)
}

type replaysGetCmd struct {
	keyed `embed:""`
	ID    string `arg:"" help:"The operation, as in job_... (see replays list)."`
}

// Run shows the operation.
func (c *replaysGetCmd) Run(sh *shell) error {
	api, err := c.dial()
	if err != nil {
		return err
	}
	j, err := api.Job(sh.ctx, c.ID)
	if err != nil {
		return c.explainOf("operation", c.ID, err)
	}
	return printJob(sh, c.connection, api, j)
}

type replaysWatchCmd struct {
	keyed `embed:""`
	ID    string `arg:"" help:"The operation, as in job_... (see replays list)."`
}

// Run watches the operation.
func (c *replaysWatchCmd) Run(sh *shell) error {
	api, err := c.dial()
	if err != nil {
		return err
	}
	j, err := api.Job(sh.ctx, c.ID)
	if err != nil {
		return c.explainOf("operation", c.ID, err)
	}
	return follow(sh, c.connection, api, j)
}

type replaysCancelCmd struct {
	keyed `embed:""`
	ID    string `arg:"" help:"The operation, as in job_... (see replays list)."`
}

// Run stops the operation.
func (c *replaysCancelCmd) Run(sh *shell) error {
	api, err := c.dial()
	if err != nil {
		return err
	}
	j, err := api.CancelJob(sh.ctx, c.ID)
	if err != nil {
		return c.explainOf("operation", c.ID, err)
	}
	return printJob(sh, c.connection, api, j)
}

func printJob(sh *shell, c connection, api *session, j client.Job) error {
	if c.JSON {
		return printJSON(sh.out, api.raw())
	}
	p := painterFor(sh.out)
	now := time.Now()
	fmt.Fprintf(sh.out, "%s  %s  %s\n", p.bold(j.JobID), j.Kind, p.status(j.Status))
	fmt.Fprintf(sh.out, "%s %s, %s %s, %s %s, %s %s\n", p.dim("matched"), matchedText(j.Matched), p.dim("done"), countText(j.Done),
		p.dim("skipped"), countText(j.Skipped), p.dim("remaining"), matchedText(j.Remaining))
	fmt.Fprintf(sh.out, "%s %s, %s %s\n", p.dim("began"), momentText(&j.CreatedAt, now), p.dim("updated"), momentText(&j.UpdatedAt, now))
	return nil
}

// bulk is the flags of commands that start a bulk operation.
type bulk struct {
	Rate   int  `name:"rate" default:"0" help:"At most so many in a second. 0: as fast as it goes without being in the way of other sends."`
	All    bool `name:"all" help:"Say that there is no filter on purpose. Without a filter it is all of them anyway."`
	Detach bool `name:"detach" help:"Start it, print its id and return: see replays watch. Without it, wait until it has ended."`
}

// An operation is what a bulk command does.
type operation struct {
	verb, past string // replay, replayed
	consent    consent
	call       func(context.Context, client.Bulk) (client.Job, error)
}

// Validate refuses what the server would, at parse time.
func (b bulk) Validate() error {
	if b.Rate < 0 {
		return fmt.Errorf("--rate must not be negative, not %d", b.Rate)
	}
	return nil
}

// run counts where somebody wants to know, asks, starts the operation and
// follows it.
func (b bulk) run(sh *shell, c connection, api *session, flags filterFlags, op operation) error {
	if b.All && flags != (filterFlags{}) {
		return usagef("--all and a filter exclude each other")
	}
	// One filter for the count and for the work: "90m" is the same moment.
	work := client.Bulk{Filter: flags.filter(time.Now()), All: flags == filterFlags{}, RatePerSecond: b.Rate}
	if op.consent.DryRun || !op.consent.Yes {
		count := work
		count.DryRun = true
		counted, err := op.call(sh.ctx, count)
		if err != nil {
			return c.explain(err)
		}
		n := *counted.Matched
		if op.consent.DryRun {
			return printDryRun(sh, c, api, n, op.past)
		}
		if n == 0 {
			return printNothing(sh, c, api, op.past)
		}
		if err := op.consent.ask(sh, fmt.Sprintf("This would %s %s.", op.verb, deliveriesText(n))); err != nil {
			return err
		}
	}
	j, err := op.call(sh.ctx, work)
	if err != nil {
		return c.explain(err)
	}
	if b.Detach {
		return printJob(sh, c, api, j)
	}
	return follow(sh, c, api, j)
}

func printDryRun(sh *shell, c connection, api *session, n int64, past string) error {
	if c.JSON {
		return printJSON(sh.out, api.raw())
	}
	_, err := fmt.Fprintf(sh.out, "%s would be %s\n", deliveriesText(n), past)
	return err
}

// printNothing answers where there is nothing to ask about.
func printNothing(sh *shell, c connection, api *session, past string) error {
	if c.JSON {
		return printJSON(sh.out, api.raw())
	}
	_, err := fmt.Fprintf(sh.out, "nothing matches, nothing was %s\n", past)
	return err
}

// follow shows the progress of an operation until it has ended, and then what
// came of it.
func follow(sh *shell, c connection, api *session, j client.Job) error {
	bar := newProgress(sh.err, j.Kind, time.Now())
	j, err := api.WaitJob(sh.ctx, j, func(j client.Job) { bar.show(tallyOf(j), time.Now()) })
	bar.end()
	switch {
	case errors.Is(err, context.Canceled):
		return exitWith(exitFailed, fmt.Errorf("no longer watching; %s goes on: harepost replays watch %s, or cancel %s", j.JobID, j.JobID, j.JobID))
	case err != nil:
		return c.explain(err)
	}
	if err := printJob(sh, c, api, j); err != nil {
		return err
	}
	if j.Status != client.JobDone {
		return exitWith(exitFailed, fmt.Errorf("%s is %s before its end", j.JobID, j.Status))
	}
	return nil
}
