package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/harepost/harepost/client"
)

type accountsCmd struct {
	Create accountsCreateCmd `cmd:"" help:"Create an account. Its key and signing secret are shown once."`
	List   accountsListCmd   `cmd:"" help:"List all accounts. With --json, one in a line."`
	Get    accountsGetCmd    `cmd:"" help:"Show one account."`
	Set    accountsSetCmd    `cmd:"" help:"Change an account: its name, its rate limit, whether it is suspended."`
	Delete accountsDeleteCmd `cmd:"" help:"Delete an account with everything it has. Its keys end at once."`
}

// An operated connection acts for the operator of the server.
type operated struct {
	connection `embed:""`
	AdminToken string `name:"admin-token" env:"HAREPOST_ADMIN_TOKEN" placeholder:"TOKEN" help:"The server's admin token. Better given as the variable: command lines are visible to other users."`
}

func (o operated) dial() (*session, error) {
	if o.AdminToken == "" {
		return nil, usagef("no admin token: set HAREPOST_ADMIN_TOKEN to what the server was started with (--admin-token, HAREPOST_ADMIN_TOKEN)")
	}
	return o.connection.dial("", o.AdminToken)
}

type accountsCreateCmd struct {
	operated `embed:""`
	Name     string `arg:"" help:"Name of the account."`
}

// Help is shown by kong under the usage line.
func (c *accountsCreateCmd) Help() string {
	return `Where sign-up is open (serve --dev, --open-signup) no token is needed.`
}

// Run creates the account.
func (c *accountsCreateCmd) Run(sh *shell) error {
	api, err := c.connection.dial("", c.AdminToken)
	if err != nil {
		return err
	}
	a, err := api.CreateAccount(sh.ctx, c.Name)
	if err != nil {
		return c.explain(err)
	}
	if c.JSON {
		err = printJSON(sh.out, api.raw())
	} else {
		err = printNewAccount(sh, a)
	}
	if err != nil {
		return fmt.Errorf("the account %[1]s was made and its key is lost, delete it (harepost accounts delete %[1]s): %[2]w", a.AccountID, err)
	}
	if c.JSON {
		return nil
	}
	fmt.Fprintf(sh.err, "The key is not shown again. Next:\n  export HAREPOST_API_KEY=%s\n  harepost domains add your-app.com\n", a.APIKey)
	return nil
}

func printNewAccount(sh *shell, a client.NewAccount) error {
	p := painterFor(sh.out)
	_, err := fmt.Fprintf(sh.out, "%s  %s\n%s  %s\n%s  %s\n", p.dim("account       "), a.AccountID,
		p.dim("API key       "), a.APIKey, p.dim("signing secret"), a.SigningSecret)
	return err
}

type accountsListCmd struct {
	operated `embed:""`
}

// Run lists the accounts, one page in memory at a time.
func (c *accountsListCmd) Run(sh *shell) error {
	api, err := c.dial()
	if err != nil {
		return err
	}
	p := painterFor(sh.out)
	t := newTable("ACCOUNT", "STATE", "PER MINUTE", "CREATED", "NAME")
	cursor := ""
	for first := true; ; first = false {
		page, err := api.AccountsPage(sh.ctx, client.MaxPage, cursor)
		if err != nil {
			return c.explain(err)
		}
		if c.JSON {
			if err := printRows(sh, api); err != nil {
				return err
			}
		} else if first || len(page.Data) > 0 {
			for _, a := range page.Data {
				t.add(plain(a.AccountID), cell{accountState(a.Suspended), p.status}, plain(rateText(a.RateLimitPerMinute)),
					plain(timeText(&a.CreatedAt)), plain(printable(a.Name)))
			}
			t.write(sh.out, p, "")
			t = t.next()
		}
		if page.NextCursor == nil {
			return nil
		}
		cursor = *page.NextCursor
	}
}

func accountState(suspended bool) string {
	if suspended {
		return "suspended"
	}
	return "active"
}

// rateText is a rate limit; without one of its own, an account has the server's.
func rateText(perMinute *int) string {
	switch {
	case perMinute == nil:
		return "default"
	case *perMinute == 0:
		return "no limit"
	}
	return countText(int64(*perMinute))
}

func printAccount(sh *shell, c connection, api *session, a client.Account) error {
	if c.JSON {
		return printJSON(sh.out, api.raw())
	}
	p := painterFor(sh.out)
	fmt.Fprintf(sh.out, "%s  %s  %s\n", p.bold(a.AccountID), p.status(accountState(a.Suspended)), printable(a.Name))
	fmt.Fprintf(sh.out, "%s %s\n", p.dim("sends per minute"), rateText(a.RateLimitPerMinute))
	fmt.Fprintf(sh.out, "%s %s\n", p.dim("created         "), momentText(&a.CreatedAt, time.Now()))
	return nil
}

type accountsGetCmd struct {
	operated `embed:""`
	ID       string `arg:"" help:"The account, as in acc_..."`
}

// Run shows the account.
func (c *accountsGetCmd) Run(sh *shell) error {
	api, err := c.dial()
	if err != nil {
		return err
	}
	a, err := api.Account(sh.ctx, c.ID)
	if err != nil {
		return c.explainOf("account", c.ID, err)
	}
	return printAccount(sh, c.connection, api, a)
}

type accountsSetCmd struct {
	operated  `embed:""`
	ID        string  `arg:"" help:"The account, as in acc_..."`
	Name      *string `name:"name" placeholder:"NAME" help:"Another name."`
	RateLimit *int    `name:"rate-limit" xor:"rate" placeholder:"N" help:"Sends per minute. 0: no limit."`
	NoRate    bool    `name:"default-rate-limit" xor:"rate" help:"Back to the server's --rate-limit."`
	Suspend   bool    `name:"suspend" xor:"suspended" help:"Refuse its sends, and let what is pending wait."`
	Resume    bool    `name:"resume" xor:"suspended" help:"Lift the suspension."`
}

// Validate refuses a change of nothing.
func (c *accountsSetCmd) Validate() error {
	switch {
	case c.Name == nil && c.RateLimit == nil && !c.NoRate && !c.Suspend && !c.Resume:
		return errors.New("nothing to change: give --name, --rate-limit, --default-rate-limit, --suspend or --resume")
	case c.RateLimit != nil && *c.RateLimit < 0:
		return fmt.Errorf("--rate-limit must not be negative, not %d", *c.RateLimit)
	}
	return nil
}

// change has what was given.
func (c *accountsSetCmd) change() client.AccountChange {
	change := client.AccountChange{Name: c.Name, RateLimitPerMinute: c.RateLimit, DefaultRateLimit: c.NoRate}
	if c.Suspend || c.Resume {
		change.Suspended = &c.Suspend
	}
	return change
}

// Run changes the account.
func (c *accountsSetCmd) Run(sh *shell) error {
	api, err := c.dial()
	if err != nil {
		return err
	}
	a, err := api.ChangeAccount(sh.ctx, c.ID, c.change())
	if err != nil {
		return c.explainOf("account", c.ID, err)
	}
	return printAccount(sh, c.connection, api, a)
}

type accountsDeleteCmd struct {
	operated `embed:""`
	ID       string `arg:"" help:"The account, as in acc_..."`
	Yes      bool   `name:"yes" short:"y" help:"Do not ask. Without it a terminal is asked, and anything else is refused."`
}

// Run deletes the account, after showing whose it is.
func (c *accountsDeleteCmd) Run(sh *shell) error {
	api, err := c.dial()
	if err != nil {
		return err
	}
	a, err := api.Account(sh.ctx, c.ID)
	if err != nil {
		return c.explainOf("account", c.ID, err)
	}
	question := fmt.Sprintf("This would delete %s (%s) with all its deliveries, domains and keys.", a.AccountID, printable(a.Name))
	if err := (consent{Yes: c.Yes}).ask(sh, question); err != nil {
		return err
	}
	if err := api.DeleteAccount(sh.ctx, c.ID); err != nil {
		return c.explainOf("account", c.ID, err)
	}
	if c.JSON {
		return printJSON(sh.out, api.raw())
	}
	fmt.Fprintf(sh.out, "%s is deleted\n", c.ID)
	return nil
}
