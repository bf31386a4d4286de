package main

import (
	"fmt"
	"io"
	"net/http"
	"strings"
)

type healthCmd struct {
	connection `embed:""`
}

// Help is shown by kong under the usage line.
func (c *healthCmd) Help() string {
	return `Asks GET /readyz and needs no key. Exit status 0 when the server accepts sends, 1 when it does not, whatever the reason: what container runtimes want of a health check.`
}

// healthAnswerBytes is more than /readyz ever says.
const healthAnswerBytes = 4 << 10

// Run asks once. All but a wrong flag ends with status 1: Docker reserves the
// others.
func (c *healthCmd) Run(sh *shell) error {
	base, h, err := c.http()
	if err != nil {
		return err
	}
	defer h.CloseIdleConnections()
	req, err := http.NewRequestWithContext(sh.ctx, http.MethodGet, strings.TrimRight(base, "/")+"/readyz", nil)
	if err != nil {
		return exitWith(exitUsage, err)
	}
	resp, err := h.Do(req)
	if err != nil {
		return exitWith(exitFailed, fmt.Errorf("health: %w", err))
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, healthAnswerBytes))
	if err != nil {
		return exitWith(exitFailed, fmt.Errorf("health: %w", err))
	}
	if resp.StatusCode != http.StatusOK {
		return exitWith(exitFailed, fmt.Errorf("health: %s does not accept sends: /readyz answered %s %s",
			c.URL, resp.Status, printable(strings.TrimSpace(string(answer)))))
	}
	if c.JSON {
		_, err = fmt.Fprintln(sh.out, strings.TrimSpace(string(answer)))
	} else {
		_, err = fmt.Fprintln(sh.out, "ready")
	}
	return err
}
