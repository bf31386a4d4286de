package main

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/harepost/harepost/api"
	"github.com/harepost/harepost/engine"
)

type eventFlags struct {
	EventsURL          string        `name:"events-url" placeholder:"URL" help:"Where operator events are sent to, as signed webhooks. Its host needs no verified domain. Without it they are in the log only."`
	EventsSecret       string        `name:"events-secret" placeholder:"SECRET" help:"Signs them: whsec_ and base64 of 24 to 64 bytes. Without it the first start makes one. Better given as the variable, or by --events-secret-file."`
	EventsSecretFile   string        `name:"events-secret-file" placeholder:"FILE" type:"path" help:"File with that secret."`
	EventsFailingAfter string        `name:"events-failing-after" default:"1h,6h,24h" help:"After how long without a success a destination is told of, once for each. 0s: never."`
	EventsLag          time.Duration `name:"events-lag" default:"5m" help:"Age of a due delivery above which it is told of, if nothing speaks against attempting it. 0s: never."`
	EventsDeadLetters  int           `name:"events-dead-letters" default:"100" help:"Dead letters and rejected deliveries of all accounts within an hour above which they are told of. 0: never."`
}

// eventOptions checks the flags and returns them as the engine takes them, where 0
// is a default.
func (c *serveCmd) eventOptions() (o engine.EventOptions, err error) {
	if o.Target, err = c.eventTarget(); err != nil {
		return o, err
	}
	if o.Secret, err = c.eventSecret(); err != nil {
		return o, err
	}
	if o.FailingAfter, err = c.eventTimes(); err != nil {
		return o, err
	}
	if c.EventsLag < 0 || c.EventsDeadLetters < 0 {
		return o, fmt.Errorf("--events-lag and --events-dead-letters must not be negative (0 is never), not %s and %d", c.EventsLag, c.EventsDeadLetters)
	}
	if o.Lag = c.EventsLag; o.Lag == 0 {
		o.Lag = -1
	}
	if o.DeadLetters = c.EventsDeadLetters; o.DeadLetters == 0 {
		o.DeadLetters = -1
	}
	return o, nil
}

// eventTimes reads --events-failing-after.
func (c *serveCmd) eventTimes() ([]time.Duration, error) {
	times := []time.Duration{}
	if c.EventsFailingAfter == "0s" || c.EventsFailingAfter == "0" {
		return times, nil
	}
	last := time.Duration(0)
	for text := range strings.SplitSeq(c.EventsFailingAfter, ",") {
		d, err := time.ParseDuration(strings.TrimSpace(text))
		if err != nil || d <= last {
			return nil, fmt.Errorf("--events-failing-after must be durations above 0s in ascending order, as in 1h,6h, or 0s alone, which is never; not %q", c.EventsFailingAfter)
		}
		times, last = append(times, d), d
	}
	return times, nil
}

func (c *serveCmd) eventTarget() (*engine.Target, error) {
	if c.EventsURL == "" {
		return nil, nil
	}
	t, err := api.OperatorTarget(c.EventsURL, c.AllowHTTPTargets)
	if err != nil {
		return nil, fmt.Errorf("--events-url: %w", err)
	}
	return &t, nil
}

func (c *serveCmd) eventSecret() (string, error) {
	secret, flag := c.EventsSecret, "--events-secret"
	switch {
	case c.EventsURL == "" && (c.EventsSecret != "" || c.EventsSecretFile != ""):
		return "", errors.New("--events-secret and --events-secret-file are for --events-url, which is not given")
	case c.EventsSecret != "" && c.EventsSecretFile != "":
		return "", errors.New("--events-secret and --events-secret-file are the same secret: give one of them")
	case c.EventsSecretFile != "":
		text, err := os.ReadFile(c.EventsSecretFile)
		if err != nil {
			return "", fmt.Errorf("--events-secret-file: %w", err)
		}
		secret, flag = strings.TrimSpace(string(text)), "--events-secret-file"
	case c.EventsSecret == "":
		return "", nil
	}
	if err := engine.CheckSigningSecret(secret); err != nil {
		return "", fmt.Errorf("%s: %w", flag, err)
	}
	return secret, nil
}
