package main

import (
	"fmt"
	"time"
)

type secretCmd struct {
	Show   secretShowCmd   `cmd:"" help:"Show the account's signing secret, as for harepost listen --secret."`
	Rotate secretRotateCmd `cmd:"" help:"Make a new signing secret. Deliveries carry signatures of both until the overlap is over."`
}

type secretShowCmd struct {
	keyed `embed:""`
}

// Run shows the secret, alone in a line so that a script can take it.
func (c *secretShowCmd) Run(sh *shell) error {
	api, err := c.dial()
	if err != nil {
		return err
	}
	secret, err := api.SigningSecret(sh.ctx)
	if err != nil {
		return c.explain(err)
	}
	if c.JSON {
		return printJSON(sh.out, api.raw())
	}
	fmt.Fprintln(sh.out, secret)
	return nil
}

type secretRotateCmd struct {
	keyed   `embed:""`
	Overlap time.Duration `name:"overlap" default:"24h" help:"How long the old secret still signs, in whole seconds. 0s where it has leaked."`
}

// Validate refuses what would be rounded.
func (c *secretRotateCmd) Validate() error {
	if c.Overlap < 0 || c.Overlap%time.Second != 0 {
		return fmt.Errorf("--overlap %s is not in whole seconds from 0", c.Overlap)
	}
	return nil
}

// Run rotates the secret.
func (c *secretRotateCmd) Run(sh *shell) error {
	api, err := c.dial()
	if err != nil {
		return err
	}
	r, err := api.RotateSigningSecret(sh.ctx, c.Overlap)
	if err != nil {
		return c.explain(err)
	}
	if c.JSON {
		return printJSON(sh.out, api.raw())
	}
	fmt.Fprintln(sh.out, r.SigningSecret)
	fmt.Fprintf(sh.err, "Earlier secrets sign until %s. Give receivers the new one before.\n", momentText(&r.PreviousExpireAt, time.Now()))
	return nil
}
