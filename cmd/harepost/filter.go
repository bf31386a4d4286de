package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/harepost/harepost/client"
)

// filterFlags select deliveries; what is given must all match. Who embeds them
// sets the statuses that there are to select.
type filterFlags struct {
	Status         selector `name:"status" placeholder:"STATUS" help:"Only these: ${statuses}."`
	Target         selector `name:"target" placeholder:"PREFIX" help:"Only targets that begin so."`
	Host           selector `name:"host" placeholder:"HOST" help:"Only this host."`
	Label          selector `name:"label" placeholder:"LABEL" help:"Only with this label."`
	IdempotencyKey selector `name:"idempotency-key" placeholder:"KEY" help:"Only with this key."`
	OrderingKey    selector `name:"ordering-key" placeholder:"KEY" help:"Only with this ordering key."`
	Since          moment   `name:"since" placeholder:"TIME" help:"Only accepted then or later: 2026-06-10T14:30:00Z, 2026-06-10, or 90m for that long ago."`
	Until          moment   `name:"until" placeholder:"TIME" help:"Only accepted before: as --since."`
}

// A selector is the value of a filter's flag. It may not be empty: in a script,
// that is a variable that was not set, and would select everything.
type selector string

// UnmarshalText reads the flag.
func (s *selector) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		return errors.New("must not be empty: leave the flag out to select everything")
	}
	*s = selector(text)
	return nil
}

func (f filterFlags) filter(now time.Time) client.Filter {
	return client.Filter{
		Status: string(f.Status), Target: string(f.Target), Host: string(f.Host), Label: string(f.Label), IdempotencyKey: string(f.IdempotencyKey), OrderingKey: string(f.OrderingKey),
		Since: f.Since.ago(now), Until: f.Until.ago(now),
	}
}

// lister is the flags of commands that list deliveries.
type lister struct {
	filterFlags `embed:""`
	Limit       int    `name:"limit" default:"25" help:"How many, 1 to 100."`
	Cursor      string `name:"cursor" placeholder:"CURSOR" help:"Go on after the page that ended with this cursor."`
	All         bool   `name:"all" help:"Every page. With --json, one delivery in a line."`
}

// Validate refuses a page that the server would make another of.
func (l lister) Validate() error {
	if l.Limit < 1 || l.Limit > client.MaxPage {
		return fmt.Errorf("--limit must be from 1 to %d, not %d; --all has every page", client.MaxPage, l.Limit)
	}
	return nil
}

// A pager fetches one page.
type pager func(context.Context, client.Filter) (client.Page, error)

// list prints what fetch gives: one page, or with --all each as it comes.
func (l lister) list(sh *shell, c connection, api *session, fetch pager) error {
	f := l.filter(time.Now())
	f.Limit, f.Cursor = l.Limit, l.Cursor
	if l.All {
		return l.listAll(sh, c, api, f, fetch)
	}
	page, err := fetch(sh.ctx, f)
	if err != nil {
		return c.explain(err)
	}
	printWarnings(sh, page.Warnings)
	if c.JSON {
		return printJSON(sh.out, api.raw())
	}
	printPage(sh.out, painterFor(sh.out), "", page.Data)
	if page.NextCursor != nil {
		fmt.Fprintf(sh.err, "More: the same command with --all, or with --cursor %s\n", *page.NextCursor)
	}
	return nil
}

// listAll holds one page at a time. A page may be empty and not the last.
func (l lister) listAll(sh *shell, c connection, api *session, f client.Filter, fetch pager) error {
	f.Limit = client.MaxPage
	p := painterFor(sh.out)
	t := newSummaryTable()
	for first := true; ; first = false {
		page, err := fetch(sh.ctx, f)
		if err != nil {
			return c.explain(err)
		}
		if first {
			printWarnings(sh, page.Warnings)
		}
		if c.JSON {
			if err := printRows(sh, api); err != nil {
				return err
			}
		} else if first || len(page.Data) > 0 {
			addSummaries(t, p, page.Data)
			t.write(sh.out, p, "")
			t = t.next()
		}
		if page.NextCursor == nil {
			return nil
		}
		f.Cursor = *page.NextCursor
	}
}

// printWarnings tells what an answer says beside success.
func printWarnings(sh *shell, warnings []string) {
	for _, w := range warnings {
		fmt.Fprintf(sh.err, "warning: %s\n", printable(w))
	}
}

// printRows prints a page of a list, one element in a line.
func printRows(sh *shell, api *session) error {
	rows, err := api.rows()
	for _, row := range rows {
		err = errors.Join(err, printJSONLine(sh.out, row))
	}
	return err
}

func newSummaryTable() *table {
	return newTable("QUEUE_ID", "STATUS", "LAST", "ATTEMPTS", "UPDATED", "TARGET")
}

func addSummaries(t *table, p painter, deliveries []client.Summary) {
	for _, d := range deliveries {
		t.add(plain(d.QueueID), cell{d.Status, p.status}, plain(statusText(d.LastStatus)), plain(strconv.Itoa(d.Attempts)),
			plain(timeText(&d.UpdatedAt)), plain(d.Method+" "+printable(d.Target)))
	}
}

func printPage(w io.Writer, p painter, indent string, deliveries []client.Summary) {
	t := newSummaryTable()
	addSummaries(t, p, deliveries)
	t.write(w, p, indent)
}
