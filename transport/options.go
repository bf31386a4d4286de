package transport

import (
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"time"
)

// Options configure a Transport. The zero value works: system resolver,
// system roots, no exceptions to the address guard.
type Options struct {
	// EgressAllow are exceptions to the address guard: an address inside one
	// of these prefixes may be dialled although the block list has it.
	EgressAllow []netip.Prefix
	// Forbidden are addresses that are refused whatever EgressAllow says:
	// our own listeners, the cluster peers. An unspecified address (0.0.0.0,
	// ::) forbids its port on every address of this machine.
	Forbidden []netip.AddrPort
	// RootCAs are the certificate authorities trusted; nil: the system's.
	RootCAs *x509.CertPool
	// Resolver, "host:port", is asked for every name (A, AAAA, TXT). Empty:
	// the servers of /etc/resolv.conf, after /etc/hosts.
	Resolver string
	// UserAgent is sent with every request that has none of its own. Default
	// "Harepost".
	UserAgent string
	// HostConns is the most idle connections kept for one destination.
	// Connections in use are not counted and never queued for: there are
	// exactly as many as callers inside Do. Default 1024.
	HostConns int
	// Hosts is the most destinations with kept connections; the one used
	// longest ago gives its connections up. Default 8192.
	Hosts int
	// IdleConns is the most idle connections kept in all; at the bound a
	// connection is closed after its attempt instead of kept. Default 16384.
	IdleConns int
	// IdleConnDuration is how long a connection is kept without use. Common
	// servers close theirs after 5 s; being first avoids the race. Default 4 s.
	IdleConnDuration time.Duration
	// ConnDuration is how long a connection is reused at all, so that a DNS
	// change takes effect. Default 5 min.
	ConnDuration time.Duration
	// BodyDuration is how long an attempt may spend on the response body
	// once the status is known; it never extends the attempt's deadline.
	// Default 1 s.
	BodyDuration time.Duration
	// Lookups is the most DNS lookups made at once; sixteen times as many may
	// wait, and what comes on top fails as a DNS failure. Default 256.
	Lookups int
	// LookupsPerSecond bounds the rate of DNS lookups, each of which is two
	// questions; those beyond it wait for their turn. Default 10,000.
	LookupsPerSecond int
	// DNSEntries is the most names cached. Default 131072.
	DNSEntries int
	// Logger hears of broken invariants only. Default slog.Default().
	Logger *slog.Logger
}

// withDefaults returns o with every zero field filled in, or says which
// field cannot be used.
func (o Options) withDefaults() (Options, error) {
	for _, p := range o.EgressAllow {
		if !p.IsValid() {
			return o, errors.New("transport: EgressAllow has an invalid prefix")
		}
	}
	for _, p := range o.Forbidden {
		if !p.IsValid() {
			return o, errors.New("transport: Forbidden has an invalid address")
		}
	}
	if o.Resolver != "" {
		if _, _, err := net.SplitHostPort(o.Resolver); err != nil {
			return o, fmt.Errorf("transport: Resolver %q is not host:port: %w", o.Resolver, err)
		}
	}
	if o.UserAgent == "" {
		o.UserAgent = "Harepost"
	}
	if !validHeader("User-Agent", o.UserAgent) {
		return o, fmt.Errorf("transport: UserAgent %q is not a legal header value", o.UserAgent)
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	counts := []struct {
		name      string
		value     *int
		otherwise int
	}{
		{"HostConns", &o.HostConns, 1024},
		{"Hosts", &o.Hosts, 8192},
		{"IdleConns", &o.IdleConns, 16384},
		{"Lookups", &o.Lookups, 256},
		{"LookupsPerSecond", &o.LookupsPerSecond, 10_000},
		{"DNSEntries", &o.DNSEntries, 131072},
	}
	for _, c := range counts {
		if *c.value < 0 {
			return o, fmt.Errorf("transport: %s is negative", c.name)
		}
		if *c.value == 0 {
			*c.value = c.otherwise
		}
	}
	durations := []struct {
		name      string
		value     *time.Duration
		otherwise time.Duration
	}{
		{"IdleConnDuration", &o.IdleConnDuration, 4 * time.Second},
		{"ConnDuration", &o.ConnDuration, 5 * time.Minute},
		{"BodyDuration", &o.BodyDuration, time.Second},
	}
	for _, d := range durations {
		if *d.value < 0 {
			return o, fmt.Errorf("transport: %s is negative", d.name)
		}
		if *d.value == 0 {
			*d.value = d.otherwise
		}
	}
	return o, nil
}
