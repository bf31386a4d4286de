package main

type deadLettersCmd struct {
	List   deadLettersListCmd   `cmd:"" help:"List dead letters, newest first: what ran out of attempts, and what was rejected."`
	Replay deadLettersReplayCmd `cmd:"" help:"Try dead letters again, each with a new budget of attempts."`
	Purge  deadLettersPurgeCmd  `cmd:"" help:"Remove dead letters for good."`
}

type deadLettersListCmd struct {
	keyed  `embed:""`
	lister `embed:"" set:"statuses=dead_letter, rejected"`
}

// Run lists dead letters.
func (c *deadLettersListCmd) Run(sh *shell) error {
	api, err := c.dial()
	if err != nil {
		return err
	}
	return c.list(sh, c.connection, api, api.DeadLettersPage)
}

type deadLettersReplayCmd struct {
	keyed       `embed:""`
	filterFlags `embed:"" set:"statuses=dead_letter, rejected"`
	bulk        `embed:""`
	DryRun      bool `name:"dry-run" help:"Only show how many it would be."`
}

// Run replays what the filter selects.
func (c *deadLettersReplayCmd) Run(sh *shell) error {
	api, err := c.dial()
	if err != nil {
		return err
	}
	return c.run(sh, c.connection, api, c.filterFlags, operation{
		verb: "replay", past: "replayed", consent: consent{Yes: true, DryRun: c.DryRun}, call: api.StartReplay,
	})
}

type deadLettersPurgeCmd struct {
	keyed       `embed:""`
	filterFlags `embed:"" set:"statuses=dead_letter, rejected"`
	bulk        `embed:""`
	consent     `embed:""`
}

// Run purges what the filter selects.
func (c *deadLettersPurgeCmd) Run(sh *shell) error {
	api, err := c.dial()
	if err != nil {
		return err
	}
	return c.run(sh, c.connection, api, c.filterFlags, operation{
		verb: "purge", past: "purged", consent: c.consent, call: api.Purge,
	})
}
