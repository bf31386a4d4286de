package main

import (
	"fmt"
	"net"
	neturl "net/url"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// announce logs what an operator wants to know about this start.
func (p *program) announce() {
	b := readBuildInfo()
	p.log.Info("serving", "url", p.url(), "addresses", p.addresses(), "version", b.Version, "revision", b.Revision,
		"dev", p.cfg.Dev, "memory_limit_bytes", debug.SetMemoryLimit(-1))
	p.warnOfExposure()
	p.warnOfSignUp()
	p.warnOfFewFiles()
}

// addresses are where the API is reached, as text.
func (p *program) addresses() []string {
	var texts []string
	for _, ln := range p.listeners.all() {
		texts = append(texts, ln.Addr().String())
	}
	return texts
}

// curl is the beginning of a curl line that reaches path of the API from this
// machine. The certificate of one's own, which no authority vouches for, is
// taken for its own authority. One that is not for the address is asked for by a
// name that it has.
func (p *program) curl(path string) string {
	const curl = "curl -sS "
	if a := p.listeners.address(); !a.IsValid() {
		return curl + "--unix-socket " + shellWord(p.listeners.unix.Addr().String()) + " http://localhost" + path
	}
	if p.listeners.cert == nil {
		return curl + p.url() + path
	}
	options := "--cacert " + shellWord(p.cfg.TLSCert) + " "
	url, err := neturl.Parse(p.url())
	leaf := p.listeners.cert.current.Load().Leaf
	if err == nil && leaf.VerifyHostname(url.Hostname()) != nil && len(leaf.DNSNames) > 0 {
		host := strings.Replace(leaf.DNSNames[0], "*", "harepost", 1)
		options += fmt.Sprintf("--resolve %s:%s:%s ", host, url.Port(), url.Hostname())
		url.Host = net.JoinHostPort(host, url.Port())
	}
	return curl + options + url.String() + path
}

// shellWord quotes s where a shell would not take it as one word as it is.
func shellWord(s string) string {
	odd := func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("/._-:@%+=,", r)
	}
	if s != "" && !strings.ContainsFunc(s, odd) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// warnOfExposure is about who can reach what.
func (p *program) warnOfExposure() {
	if a := p.listeners.address(); a.IsValid() && !a.Addr().IsLoopback() && p.listeners.cert == nil {
		p.log.Warn("the API is plain HTTP on an address that others may reach, and keys travel in clear: give --tls-cert and --tls-key, or put TLS in front of it", "address", a.String())
	}
	if p.listeners.cert != nil && time.Now().After(p.listeners.cert.notAfter()) {
		p.log.Warn("the TLS certificate has expired: clients will refuse it", "not_after", p.listeners.cert.notAfter())
	}
	for _, prefix := range p.cfg.egressAllow {
		if prefix.Bits() == 0 {
			p.log.Warn("--egress-allow covers every address: accounts can reach this network and the cloud's metadata service", "prefix", prefix.String())
		}
	}
}

// warnOfSignUp is about who can make or use accounts.
func (p *program) warnOfSignUp() {
	if p.cfg.Dev {
		return
	}
	if !p.cfg.OpenSignup && p.cfg.AdminToken == "" {
		p.log.Warn("sign-up is closed: POST /v1/accounts is refused until --admin-token or --open-signup is given")
	}
	if n := len(p.cfg.AdminToken); n > 0 && n < 16 {
		p.log.Warn("the admin token is shorter than 16 characters and may be guessed")
	}
	if _, err := os.Stat(filepath.Join(p.cfg.DataDir, devAccountFile)); err == nil {
		p.log.Warn("this directory was used with --dev: the key in its file is valid until it is revoked", "file", devAccountFile)
	}
}

// stateFiles is about how many files log and state keep open.
const stateFiles = 1024

// warnOfFewFiles tells early what would show late, under load: each connection
// and each attempt needs a file. (Go has raised the soft limit to the hard one.)
func (p *program) warnOfFewFiles() {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return // only a warning is lost
	}
	need := uint64(p.cfg.MaxConnections + p.cfg.MaxInFlight + stateFiles)
	if limit.Cur < need {
		p.log.Warn("the limit of open files is below what --max-connections and --max-in-flight may need: raise it (ulimit -n, LimitNOFILE=)",
			"limit", limit.Cur, "need", need)
	}
}
