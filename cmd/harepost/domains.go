package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/harepost/harepost/client"
)

type domainsCmd struct {
	Add    domainsAddCmd    `cmd:"" help:"Add a domain, and show the TXT record that proves it is yours."`
	Verify domainsVerifyCmd `cmd:"" help:"Look the TXT record up. Exit status 5 while it is not there."`
	List   domainsListCmd   `cmd:"" help:"List the account's domains."`
	Get    domainsGetCmd    `cmd:"" help:"Show one domain, with the TXT record while it is pending."`
	Delete domainsDeleteCmd `cmd:"" help:"Remove a domain: later attempts to it are rejected."`
}

type domainsAddCmd struct {
	keyed  `embed:""`
	Domain string `arg:"" help:"The domain, as in your-app.com. It covers its subdomains."`
}

// Run adds the domain.
func (c *domainsAddCmd) Run(sh *shell) error {
	api, err := c.dial()
	if err != nil {
		return err
	}
	d, err := api.AddDomain(sh.ctx, c.Domain)
	if err != nil {
		return c.explain(err)
	}
	if c.JSON {
		return printJSON(sh.out, api.raw())
	}
	p := painterFor(sh.out)
	fmt.Fprintf(sh.out, "%s is %s\n", d.Domain, p.status(d.Status))
	if d.Record != nil && d.VerifiedAt == nil {
		printRecord(sh, *d.Record)
		fmt.Fprintf(sh.err, "Publish this record, then: harepost domains verify %s\n", d.Domain)
	}
	return nil
}

func printRecord(sh *shell, r client.Record) {
	t := newTable("TYPE", "NAME", "VALUE")
	t.add(plain(r.Type), plain(r.Name), plain(r.Value))
	t.write(sh.out, painterFor(sh.out), "")
}

type domainsVerifyCmd struct {
	keyed  `embed:""`
	Domain string `arg:"" help:"A domain that was added."`
}

// Run verifies the domain.
func (c *domainsVerifyCmd) Run(sh *shell) error {
	api, err := c.dial()
	if err != nil {
		return err
	}
	d, err := api.VerifyDomain(sh.ctx, c.Domain)
	if e, ok := errors.AsType[*client.Error](err); ok && e.Status == http.StatusConflict {
		if c.JSON && json.Valid(e.Body) { // it has the record to publish
			if err := printJSON(sh.out, json.RawMessage(e.Body)); err != nil {
				return err
			}
		}
		return exitWith(exitNotNow, fmt.Errorf("%s is still pending: %w; DNS may take some minutes, then verify again", c.Domain, err))
	}
	if err != nil {
		return c.explainOf("domain", c.Domain, err)
	}
	if c.JSON {
		return printJSON(sh.out, api.raw())
	}
	fmt.Fprintf(sh.out, "%s is %s\n", d.Domain, painterFor(sh.out).status(d.Status))
	return nil
}

type domainsListCmd struct {
	keyed `embed:""`
}

// Run lists the domains.
func (c *domainsListCmd) Run(sh *shell) error {
	api, err := c.dial()
	if err != nil {
		return err
	}
	domains, err := api.Domains(sh.ctx)
	if err != nil {
		return c.explain(err)
	}
	if c.JSON {
		return printJSON(sh.out, api.raw())
	}
	p := painterFor(sh.out)
	t := newTable("DOMAIN", "STATUS", "ADDED", "VERIFIED")
	for _, d := range domains {
		t.add(plain(d.Domain), cell{d.Status, p.status}, plain(timeText(&d.CreatedAt)), plain(timeText(d.VerifiedAt)))
	}
	t.write(sh.out, p, "")
	return nil
}

type domainsGetCmd struct {
	keyed  `embed:""`
	Domain string `arg:"" help:"A domain that was added."`
}

// Run shows the domain.
func (c *domainsGetCmd) Run(sh *shell) error {
	api, err := c.dial()
	if err != nil {
		return err
	}
	d, err := api.Domain(sh.ctx, c.Domain)
	if err != nil {
		return c.explainOf("domain", c.Domain, err)
	}
	if c.JSON {
		return printJSON(sh.out, api.raw())
	}
	p := painterFor(sh.out)
	fmt.Fprintf(sh.out, "%s is %s\n", d.Domain, p.status(d.Status))
	fmt.Fprintf(sh.out, "%s %s\n", p.dim("added   "), momentText(&d.CreatedAt, time.Now()))
	if d.VerifiedAt != nil {
		fmt.Fprintf(sh.out, "%s %s\n", p.dim("verified"), momentText(d.VerifiedAt, time.Now()))
	}
	if d.Record != nil && d.VerifiedAt == nil {
		printRecord(sh, *d.Record)
	}
	return nil
}

type domainsDeleteCmd struct {
	keyed  `embed:""`
	Domain string `arg:"" help:"A domain that was added."`
}

// Run removes the domain.
func (c *domainsDeleteCmd) Run(sh *shell) error {
	api, err := c.dial()
	if err != nil {
		return err
	}
	if err := api.DeleteDomain(sh.ctx, c.Domain); err != nil {
		return c.explainOf("domain", c.Domain, err)
	}
	if c.JSON {
		return printJSON(sh.out, api.raw())
	}
	fmt.Fprintf(sh.out, "%s is removed\n", c.Domain)
	return nil
}
