package main

import (
	"fmt"
)

type accountsCmd struct {
	Create accountsCreateCmd `cmd:"" help:"Create an account. Its key and signing secret are shown once."`
}

type accountsCreateCmd struct {
	connection `embed:""`
	AdminToken string `name:"admin-token" env:"HAREPOST_ADMIN_TOKEN" placeholder:"TOKEN" help:"The server's admin token. Not needed where sign-up is open."`
	Name       string `arg:"" help:"Name of the account."`
}

// Run creates the account.
func (c *accountsCreateCmd) Run(sh *shell) error {
	api, err := c.dial("", c.AdminToken)
	if err != nil {
		return err
	}
	a, err := api.CreateAccount(sh.ctx, c.Name)
	if err != nil {
		return c.explain(err)
	}
	if c.JSON {
		return printJSON(sh.out, a)
	}
	p := painterFor(sh.out)
	fmt.Fprintf(sh.out, "%s  %s\n", p.dim("account       "), a.AccountID)
	fmt.Fprintf(sh.out, "%s  %s\n", p.dim("API key       "), a.APIKey)
	fmt.Fprintf(sh.out, "%s  %s\n", p.dim("signing secret"), a.SigningSecret)
	fmt.Fprintf(sh.err, "The key is not shown again. Next:\n  export HAREPOST_API_KEY=%s\n  harepost domains add your-app.com\n", a.APIKey)
	return nil
}
