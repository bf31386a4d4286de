package main

import (
	"fmt"
	"time"
)

type keysCmd struct {
	Create keysCreateCmd `cmd:"" help:"Make another key for the account. It is shown once."`
	List   keysListCmd   `cmd:"" help:"List the account's keys, without their secret part."`
	Revoke keysRevokeCmd `cmd:"" help:"Make a key invalid."`
}

type keysCreateCmd struct {
	keyed `embed:""`
}

// Run makes a key.
func (c *keysCreateCmd) Run(sh *shell) error {
	api, err := c.dial()
	if err != nil {
		return err
	}
	k, err := api.CreateKey(sh.ctx)
	if err != nil {
		return c.explain(err)
	}
	if c.JSON {
		err = printJSON(sh.out, api.raw())
	} else {
		_, err = fmt.Fprintf(sh.out, "%s  %s\n", k.ID, k.APIKey)
	}
	if err != nil {
		return fmt.Errorf("the key %[1]s was made and is lost, revoke it (harepost keys revoke %[1]s): %[2]w", k.ID, err)
	}
	if !c.JSON {
		fmt.Fprintln(sh.err, "The key is not shown again.")
	}
	return nil
}

type keysListCmd struct {
	keyed `embed:""`
}

// Run lists the keys.
func (c *keysListCmd) Run(sh *shell) error {
	api, err := c.dial()
	if err != nil {
		return err
	}
	keys, err := api.Keys(sh.ctx)
	if err != nil {
		return c.explain(err)
	}
	if c.JSON {
		return printJSON(sh.out, api.raw())
	}
	now := time.Now()
	t := newTable("ID", "BEGINS", "CREATED", "LAST USED")
	for _, k := range keys {
		t.add(plain(k.ID), plain(k.Prefix), plain(timeText(&k.CreatedAt)), plain(momentText(k.LastUsedAt, now)))
	}
	t.write(sh.out, painterFor(sh.out), "")
	return nil
}

type keysRevokeCmd struct {
	keyed `embed:""`
	ID    string `arg:"" help:"The key's id, as in key_... (see keys list)."`
}

// Run revokes the key.
func (c *keysRevokeCmd) Run(sh *shell) error {
	api, err := c.dial()
	if err != nil {
		return err
	}
	if err := api.DeleteKey(sh.ctx, c.ID); err != nil {
		return c.explainOf("key", c.ID, err)
	}
	if c.JSON {
		return printJSON(sh.out, api.raw())
	}
	fmt.Fprintf(sh.out, "%s is revoked\n", c.ID)
	return nil
}
