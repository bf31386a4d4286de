package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/harepost/harepost/client"
)

type destinationsCmd struct {
	List   destinationsListCmd   `cmd:"" help:"List destinations and flows, those with the most pending first."`
	Get    destinationsGetCmd    `cmd:"" help:"Show all that is known of a destination."`
	Pause  destinationsPauseCmd  `cmd:"" help:"Start no attempts to a destination. Sends are accepted."`
	Resume destinationsResumeCmd `cmd:"" help:"Let the attempts to a destination go on, few at first."`
	Set    destinationsSetCmd    `cmd:"" help:"Limit the attempts to a destination."`
}

// An owned connection acts for an account, by its key, or for the operator.
type owned struct {
	keyed      `embed:""`
	AccountID  string `name:"account-id" env:"HAREPOST_ACCOUNT_ID" placeholder:"acc_..." help:"Whose destinations, with the admin token instead of a key."`
	AdminToken string `name:"admin-token" env:"HAREPOST_ADMIN_TOKEN" placeholder:"TOKEN" help:"The server's admin token, for --account-id. Better given as the variable."`
}

func (o owned) dial() (*session, error) {
	if o.AccountID == "" {
		return o.keyed.dial()
	}
	s, err := operated{connection: o.connection, AdminToken: o.AdminToken}.dial()
	if err == nil {
		s.Client = s.ForAccount(o.AccountID)
	}
	return s, err
}

type destinationsListCmd struct {
	owned  `embed:""`
	Host   string `name:"host" placeholder:"HOST" help:"Destinations at this host."`
	Prefix string `name:"prefix" placeholder:"TEXT" help:"Destinations whose name begins so."`
	State  string `name:"state" enum:",paused,breaker,failing,waiting" default:"" placeholder:"WORD" help:"paused, breaker (not closed), failing, or waiting (something is due)."`
	Limit  int    `name:"limit" default:"25" help:"How many, 1 to 100."`
	All    bool   `name:"all" help:"All of them, in no order. With --json, one in a line."`
}

// Validate refuses a page that the server would make another of.
func (c *destinationsListCmd) Validate() error {
	if c.Limit < 1 || c.Limit > client.MaxPage {
		return fmt.Errorf("--limit must be from 1 to %d, not %d; --all has every destination", client.MaxPage, c.Limit)
	}
	return nil
}

// Run lists destinations.
func (c *destinationsListCmd) Run(sh *shell) error {
	api, err := c.dial()
	if err != nil {
		return err
	}
	f := client.DestinationFilter{Host: c.Host, Prefix: c.Prefix, State: c.State, ByPending: true, Limit: c.Limit}
	if c.All {
		f.ByPending, f.Limit = false, client.MaxPage
		return c.listAll(sh, api, f)
	}
	page, err := api.DestinationsPage(sh.ctx, f)
	if err != nil {
		return c.explain(err)
	}
	if c.JSON {
		return printJSON(sh.out, api.raw())
	}
	p := painterFor(sh.out)
	t := newDestinationTable()
	addDestinations(t, p, page.Data)
	t.write(sh.out, p, "")
	return nil
}

// listAll holds one page at a time.
func (c *destinationsListCmd) listAll(sh *shell, api *session, f client.DestinationFilter) error {
	p := painterFor(sh.out)
	t := newDestinationTable()
	t.least = []int{len("1,000,000"), len("10.0 min"), len("10 of 160"), len("breaker open"), len("99.99 %"), len("100 ms"), len("100 ms")}
	for first := true; ; first = false {
		page, err := api.DestinationsPage(sh.ctx, f)
		if err != nil {
			return c.explain(err)
		}
		if c.JSON {
			if err := printRows(sh, api); err != nil {
				return err
			}
		} else if first || len(page.Data) > 0 {
			addDestinations(t, p, page.Data)
			t.write(sh.out, p, "")
			t = t.next()
		}
		if page.NextCursor == nil {
			return nil
		}
		f.Cursor = *page.NextCursor
	}
}

func newDestinationTable() *table {
	return newTable("PENDING", "OLDEST", "AT ONCE", "STATE", "OK", "P50", "P99", "DESTINATION")
}

func addDestinations(t *table, p painter, list []client.Destination) {
	for i := range list {
		d := &list[i]
		t.add(plain(countText(d.Pending)), plain(ageText(d)), plain(atOnceText(d)), cell{stateText(d), p.destination},
			plain(ratioText(d.SuccessRatio)), plain(millisText(d.P50MS)), plain(millisText(d.P99MS)), plain(printable(d.Destination)))
	}
}

// destination colours the state of a destination by what it means for the reader.
func (p painter) destination(state string) string {
	switch state {
	case "idle", "turn", "due":
		return state
	case "paused", "breaker open":
		return p.red(state)
	}
	return p.yellow(state)
}

// stateText is what holds a destination up, or failing that how it is.
func stateText(d *client.Destination) string {
	switch {
	case d.Paused:
		return "paused"
	case d.Breaker == "open":
		return "breaker open"
	case d.Breaker == "half_open":
		return "probing"
	case d.WaitingFor != nil && *d.WaitingFor != "due" && *d.WaitingFor != "turn":
		return printable(strings.ReplaceAll(*d.WaitingFor, "_", " "))
	case d.FailingSince != nil:
		return "failing"
	case d.WaitingFor != nil:
		return printable(*d.WaitingFor)
	}
	return "idle"
}

// ageText is for how long the oldest has been due.
func ageText(d *client.Destination) string {
	if d.OldestDueAgeSeconds == nil || *d.OldestDueAgeSeconds == 0 {
		return "-"
	}
	return shortDuration(time.Duration(*d.OldestDueAgeSeconds * float64(time.Second)))
}

// atOnceText is how many attempts are under way, of how many.
func atOnceText(d *client.Destination) string {
	if d.Limit == nil {
		return strconv.Itoa(d.InFlight)
	}
	return fmt.Sprintf("%d of %d", d.InFlight, *d.Limit)
}

func ratioText(ratio *float64) string {
	if ratio == nil {
		return "-"
	}
	return numberText(math.Round(10_000**ratio)/100) + " %"
}

func millisText(ms *float64) string {
	if ms == nil {
		return "-"
	}
	return shortDuration(time.Duration(*ms * float64(time.Millisecond)))
}

func numberText(n float64) string { return strconv.FormatFloat(n, 'f', -1, 64) }

// A named connection is about one destination.
type named struct {
	owned       `embed:""`
	Destination string `arg:"" help:"A host, host:port or scheme://host:port, or flow:KEY."`
}

// call makes a call about the destination and shows its lanes.
func (n named) call(sh *shell, do func(*client.Client, context.Context, string) ([]client.Destination, error)) error {
	api, err := n.dial()
	if err != nil {
		return err
	}
	list, err := do(api.Client, sh.ctx, n.Destination)
	if err != nil {
		return n.explainOf("destination", n.Destination, err)
	}
	if n.JSON {
		return printJSON(sh.out, api.raw())
	}
	for i := range list {
		printDestination(sh.out, &list[i], time.Now())
	}
	return nil
}

// printDestination shows all that is known of a lane, and nothing of what is not.
func printDestination(w io.Writer, d *client.Destination, now time.Time) {
	p := painterFor(w)
	fmt.Fprintf(w, "%s  %s\n", p.bold(printable(d.Destination)), p.destination(stateText(d)))
	line := func(name, text string) { fmt.Fprintf(w, "  %s %s\n", p.dim(fmt.Sprintf("%-12s", name)), text) }
	line("pending", countText(d.Pending))
	line("under way", atOnceText(d))
	if d.OldestDueAt != nil {
		line("oldest due", momentText(d.OldestDueAt, now))
	}
	if d.Rate != nil {
		line("rate", numberText(*d.Rate)+" per second, as set")
	}
	if d.Parallelism != nil {
		line("parallelism", strconv.Itoa(*d.Parallelism)+", as set")
	}
	if d.Pace != nil {
		line("pace", numberText(*d.Pace)+" per second, as found")
	}
	if d.ProbeAt != nil {
		line("probe", momentText(d.ProbeAt, now))
	}
	if d.RetryAfterUntil != nil {
		line("retry after", momentText(d.RetryAfterUntil, now))
	}
	if d.SuccessRatio != nil {
		line("success", ratioText(d.SuccessRatio)+" of the last minute")
	}
	if d.P50MS != nil {
		line("took", fmt.Sprintf("half below %s, 99 of 100 below %s", millisText(d.P50MS), millisText(d.P99MS)))
	}
	if d.FailingSince != nil {
		line("failing", "since "+momentText(d.FailingSince, now))
	}
	if e := d.LastError; e != nil {
		text := printable(e.Code)
		if e.HTTPStatus != nil {
			text += " " + strconv.Itoa(*e.HTTPStatus)
		}
		line("last error", text+", "+momentText(&e.At, now))
	}
}

type destinationsGetCmd struct {
	named `embed:""`
}

// Run shows the destination.
func (c *destinationsGetCmd) Run(sh *shell) error { return c.call(sh, (*client.Client).Destination) }

type destinationsPauseCmd struct {
	named `embed:""`
}

// Run pauses the destination.
func (c *destinationsPauseCmd) Run(sh *shell) error {
	return c.call(sh, (*client.Client).PauseDestination)
}

type destinationsResumeCmd struct {
	named `embed:""`
}

// Run resumes the destination.
func (c *destinationsResumeCmd) Run(sh *shell) error {
	return c.call(sh, (*client.Client).ResumeDestination)
}

type destinationsSetCmd struct {
	named         `embed:""`
	Rate          *float64 `name:"rate" xor:"rate" placeholder:"N" help:"Attempts started per second, 0.001 to 100000."`
	NoRate        bool     `name:"no-rate" xor:"rate" help:"Take the rate away. Sends may set it again."`
	Parallelism   *int     `name:"parallelism" xor:"parallelism" placeholder:"N" help:"Attempts at once, 1 to 10000."`
	NoParallelism bool     `name:"no-parallelism" xor:"parallelism" help:"Take the parallelism away. Sends may set it again."`
}

// Validate refuses a change of nothing, and what cannot be sent.
func (c *destinationsSetCmd) Validate() error {
	switch {
	case c.Rate == nil && c.Parallelism == nil && !c.NoRate && !c.NoParallelism:
		return errors.New("nothing to change: give --rate, --no-rate, --parallelism or --no-parallelism")
	case c.Rate != nil && (math.IsNaN(*c.Rate) || math.IsInf(*c.Rate, 0)): // no JSON
		return fmt.Errorf("--rate must be a number from 0.001 to 100000, not %v", *c.Rate)
	}
	return nil
}

// Run sets the limits.
func (c *destinationsSetCmd) Run(sh *shell) error {
	change := client.DestinationChange{Rate: c.Rate, Parallelism: c.Parallelism, NoRate: c.NoRate, NoParallelism: c.NoParallelism}
	return c.call(sh, func(api *client.Client, ctx context.Context, name string) ([]client.Destination, error) {
		return api.ChangeDestination(ctx, name, change)
	})
}
