package main

import "fmt"

type secretCmd struct {
	Show secretShowCmd `cmd:"" help:"Show the account's signing secret, as for harepost listen --secret."`
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
		return printJSON(sh.out, map[string]string{"signing_secret": secret})
	}
	fmt.Fprintln(sh.out, secret)
	return nil
}
