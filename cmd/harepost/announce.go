package main

import (
	"os"
	"path/filepath"
	"runtime/debug"
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
