package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"time"
)

// healthCmd has the flags of connection, but for where the server is: beside it,
// in a container, it goes by what the server goes by.
type healthCmd struct {
	URL     string        `name:"url" env:"HAREPOST_URL" placeholder:"URL" help:"The server: http://, https://, or unix:///path/to/socket. Default: what HAREPOST_LISTEN, HAREPOST_TLS_CERT and HAREPOST_UNIX_SOCKET tell serve, on this machine."`
	CAFile  string        `name:"tls-ca" env:"HAREPOST_CA_FILE" placeholder:"FILE" type:"path" help:"With --url: PEM file of certificate authorities that the server may have, beside the system's."`
	Timeout time.Duration `name:"timeout" env:"HAREPOST_TIMEOUT" default:"30s" help:"How long one request to the server may take."`
	JSON    bool          `name:"json" env:"HAREPOST_JSON" help:"Print the server's answer as JSON."`
}

// Help is shown by kong under the usage line.
func (c *healthCmd) Help() string {
	return `Asks GET /readyz and needs no key. Exit status 0 when the server can be asked, also while it takes no sends for want of room, and says so; 1 when it cannot, whatever the reason: what container runtimes want of a health check.

Without --url it asks the server of this machine, and does not verify its certificate, which is made out to the name that others know it by: the question carries no secret. Settings that serve has from a file are not known here; then give --url.`
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
	text := strings.TrimSpace(string(answer))
	if resp.StatusCode != http.StatusOK {
		return exitWith(exitFailed, fmt.Errorf("health: %s is not ready: /readyz answered %s %s", base, resp.Status, printable(text)))
	}
	if !c.JSON {
		text = readiness(answer)
	}
	_, err = fmt.Fprintln(sh.out, text)
	return err
}

// readiness is an answer of /readyz for a person.
func readiness(answer []byte) string {
	var ready struct {
		AcceptingSends *bool  `json:"accepting_sends"` // nil: of a server from before there was one
		Detail         string `json:"detail"`
		Node           struct {
			ID     string `json:"node_id"` // empty: it runs alone
			Role   string
			Leader string `json:"leader_id"`
		}
	}
	text := "ready"
	if json.Unmarshal(answer, &ready) != nil {
		return text
	}
	if n := ready.Node; n.ID != "" {
		text += printable(fmt.Sprintf(": node %s, %s, leader %s", n.ID, n.Role, n.Leader))
	}
	if ready.AcceptingSends != nil && !*ready.AcceptingSends {
		text += ", but takes no sends: " + printable(ready.Detail)
	}
	return text
}

// http is how the server is reached.
func (c *healthCmd) http() (base string, h *http.Client, err error) {
	to := connection{URL: c.URL, CAFile: c.CAFile, Timeout: c.Timeout}
	if c.URL != "" {
		return to.http()
	}
	if to.URL, err = ownURL(os.LookupEnv); err != nil {
		return "", nil, err
	}
	if base, h, err = to.http(); err == nil {
		h.Transport.(*http.Transport).TLSClientConfig.InsecureSkipVerify = true // see Help
		h.Transport.(*http.Transport).Proxy = nil
	}
	return base, h, err
}

// ownURL is where serve listens that has these variables. They are serve's, and
// no flags here: none of them changes what health does.
func ownURL(lookup func(string) (string, bool)) (string, error) {
	listen, given := lookup("HAREPOST_LISTEN")
	socket, _ := lookup("HAREPOST_UNIX_SOCKET")
	cert, _ := lookup("HAREPOST_TLS_CERT")
	switch {
	case !given:
		listen = "127.0.0.1:8080" // serve's default
	case listen == "" && socket != "":
		return "unix://" + socket, nil
	}
	host, port, err := splitAddress("HAREPOST_LISTEN", listen)
	if err != nil {
		return "", exitWith(exitUsage, err)
	}
	if ip, err := netip.ParseAddr(host); host == "" || err == nil && ip.IsUnspecified() {
		host = "127.0.0.1" // [::] takes IPv4 as well
	}
	scheme := "http://"
	if cert != "" {
		scheme = "https://"
	}
	return scheme + net.JoinHostPort(host, port), nil
}
