package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/harepost/harepost/engine"
	"github.com/harepost/harepost/engine/seal"
)

// serveCmd is the flags of serve. Config turns them into what the rooms take.
type serveCmd struct {
	Config string `name:"config" placeholder:"FILE" help:"File of \"flag = value\" lines. The command line and the environment go before it."`

	DataDir    string `name:"data-dir" required:"" placeholder:"DIR" help:"Directory of the log and the state. Made when absent."`
	Listen     string `name:"listen" default:"127.0.0.1:8080" help:"Address of the API. Plain HTTP without --tls-cert. Empty: only --unix-socket."`
	UnixSocket string `name:"unix-socket" placeholder:"PATH" type:"path" help:"Serve the API on this Unix socket too, for a proxy on this machine: plain HTTP, mode 0660."`
	TLSCert    string `name:"tls-cert" placeholder:"FILE" type:"path" help:"PEM file of the certificate and its chain: the API speaks HTTPS, TLS 1.2 and up. Read again when it changes."`
	TLSKey     string `name:"tls-key" placeholder:"FILE" type:"path" help:"PEM file of the certificate's key. Read again when it changes."`

	EncryptionKeyFile string `name:"encryption-key-file" placeholder:"FILE" type:"path" help:"File of master keys, the active one first: payloads, headers, kept responses and signing secrets are encrypted on disk. Make a line with: harepost encryption-key."`

	Dev        bool   `name:"dev" help:"For one's own machine: loopback targets are allowed over http and count as verified, sign-up is open, and a key and a curl line are printed."`
	DevPublic  bool   `name:"dev-public" help:"Let --dev listen on an address that is not loopback. Everyone who reaches it can send."`
	AdminToken string `name:"admin-token" placeholder:"TOKEN" help:"Token of the operator's routes: accounts are made, listed, limited, suspended and deleted with it, and backups read, which hold everything. Better given as the variable: command lines are visible to other users."`
	OpenSignup bool   `name:"open-signup" help:"Anyone may create accounts."`

	EgressAllow      []string `name:"egress-allow" sep:"," placeholder:"CIDR" help:"Address ranges that may be sent to although they are private, loopback or otherwise refused."`
	EgressCA         string   `name:"egress-ca" placeholder:"FILE" type:"path" help:"PEM file of certificate authorities that targets may have, beside the system's."`
	AllowHTTPTargets bool     `name:"allow-http-targets" help:"Targets may be http. Without it only https (and with --dev, loopback) is."`
	DNSRate          int      `name:"dns-lookups-per-second" default:"10000" help:"DNS lookups per second, each of two questions; more wait for their turn."`
	DNSResolver      string   `name:"dns-resolver" placeholder:"HOST:PORT" help:"DNS server for every lookup. Default: those of resolv.conf."`

	limitFlags  `embed:"" group:"Limits"`
	policyFlags `embed:"" group:"Deliveries"`
	logFlags    `embed:"" group:"Running"`
	eventFlags  `embed:"" group:"Operator events"`

	clusterFlags `embed:"" group:"Cluster"`
}

type limitFlags struct {
	RateLimit       int `name:"rate-limit" default:"0" help:"Sends per minute and account. 0: no limit."`
	LaneConcurrency int `name:"lane-concurrency" default:"160" help:"Most attempts at once from one account to one destination. Each adapts below it."`
	BreakerFailures int `name:"breaker-failures" default:"10" help:"Failures in a row, of different deliveries, after which a destination is only probed until it answers. 0: never."`
	MaxInFlight     int `name:"max-in-flight" default:"4096" help:"Attempts at once in all."`
	MaxSends        int `name:"max-concurrent-sends" default:"0" help:"Sends and batches being accepted at once; more wait, up to a second and four times as many, and then get 503. 0: 64 per processor, at least 256."`
	MaxRequestBytes int `name:"max-request-bytes" default:"1048576" help:"Largest request body; larger ones get 413."`
	MaxBatchBytes   int `name:"max-batch-bytes" default:"16777216" help:"Largest body of a batch of sends; larger ones get 413. At least --max-request-bytes."`
	MaxBatchSends   int `name:"max-batch-sends" default:"10000" help:"Most sends in a batch; more get 413."`

	MaxBodyBytes        int64 `name:"max-body-bytes-in-flight" default:"268435456" help:"Request bodies above 16 KiB that are in memory at once; more get 503 before they are read."`
	MaxAccountBodyBytes int64 `name:"max-account-body-bytes-in-flight" default:"67108864" help:"Those of one account. Within --max-body-bytes-in-flight, and one of the largest size always fits."`
	MinBodyRate         int   `name:"min-body-bytes-per-second" default:"262144" help:"Least rate at which such bodies have to arrive, beside five seconds; slower ones get 408."`

	MaxConnections   int `name:"max-connections" default:"4096" help:"Connections to the API at once; more get 503, but for /healthz, /readyz and /metrics."`
	MaxURLChars      int `name:"max-url-chars" default:"2048" help:"Longest target URL."`
	MaxHeaders       int `name:"max-headers" default:"64" help:"Most headers in a send."`
	MaxHeaderBytes   int `name:"max-header-bytes" default:"16384" help:"Most bytes of headers in a send."`
	MaxMetadataBytes int `name:"max-metadata-bytes" default:"16384" help:"Most bytes of metadata in a send."`
	MaxKeyChars      int `name:"max-idempotency-key-chars" default:"255" help:"Longest idempotency key."`
	MaxLabels        int `name:"max-labels" default:"8" help:"Most labels of a send."`
	MaxLabelChars    int `name:"max-label-chars" default:"64" help:"Longest label."`
}

type policyFlags struct {
	IdempotencyWindow time.Duration `name:"idempotency-window" default:"24h" help:"How long a send with the same idempotency key, target, method and body answers with the first one's id."`
	RetentionFinished time.Duration `name:"retention-finished" default:"168h" help:"How long delivered and cancelled deliveries can be read."`
	RetentionDead     time.Duration `name:"retention-dead" default:"720h" help:"How long dead letters and rejected deliveries can be read."`
	RetentionPayload  time.Duration `name:"retention-payload" default:"0s" help:"How long the bodies of delivered and cancelled deliveries are kept, if less than the deliveries themselves. 0: as long."`
	MaxDataBytes      int64         `name:"max-data-bytes" default:"0" help:"What the data directory may take. Above it the oldest finished deliveries are dropped early; when none is left, sends get 507 and deliveries go on. 0: no limit."`
}

type logFlags struct {
	DrainDelay   time.Duration `name:"drain-delay" default:"0s" help:"On SIGTERM, wait so long between saying not ready and refusing connections."`
	DrainTimeout time.Duration `name:"drain-timeout" default:"30s" help:"On SIGTERM, how long requests and attempts may take to end. What is left is tried again after the next start."`
	LogLevel     string        `name:"log-level" default:"info" enum:"debug,info,warn,error" help:"Least level that is logged: debug, info, warn, error."`
	LogFormat    string        `name:"log-format" default:"auto" enum:"auto,text,json" help:"text, json, or auto: text on a terminal, else JSON."`
	Pprof        string        `name:"pprof" placeholder:"HOST:PORT" help:"Serve Go's profiler on this loopback address."`
}

// Help is shown by kong under the usage line.
func (c *serveCmd) Help() string {
	return `Without --dev nothing is open: with neither --admin-token nor --open-signup no account can be created.

SIGTERM and SIGINT drain and end with status 0; a second one ends at once. Nothing accepted is lost either way.

GOGC and GOMEMLIMIT are honoured as in any Go program.`
}

// config is a checked serveCmd in the types of the rooms.
type config struct {
	serveCmd

	egressAllow []netip.Prefix
	rootCAs     *x509.CertPool // nil: the system's
	certificate *certificate   // nil: plain HTTP
	keyring     *seal.Keyring  // nil: nothing is encrypted on disk
	logger      *slog.Logger
	events      engine.EventOptions
	joinToken   string
}

// config checks the flags on their own and against each other. Nothing is
// opened yet but the files that flags name.
func (c *serveCmd) config(logs io.Writer) (config, error) {
	cfg := config{serveCmd: *c}
	checks := []func() error{
		c.checkListen,
		c.checkNumbers,
		c.checkResolver,
		func() (err error) { cfg.egressAllow, err = parsePrefixes(c.EgressAllow); return err },
		func() (err error) { cfg.events, err = c.eventOptions(); return err },
		c.checkCluster,
		func() (err error) { cfg.joinToken, err = c.joinToken(); return err },
		func() (err error) { cfg.rootCAs, err = readCAs("--egress-ca", c.EgressCA); return err },
	}
	for _, check := range checks {
		if err := check(); err != nil {
			return config{}, exitWith(exitUsage, err)
		}
	}
	if c.Dev {
		cfg.egressAllow = append(cfg.egressAllow, loopbackPrefixes()...)
	}
	if c.EncryptionKeyFile != "" {
		var err error
		if cfg.keyring, err = seal.OpenKeyring(c.EncryptionKeyFile); err != nil {
			return config{}, exitWith(exitUsage, fmt.Errorf("--encryption-key-file: %w", err))
		}
	}
	cfg.logger = newLogger(logs, c.LogLevel, c.LogFormat)
	if c.TLSCert != "" {
		var err error
		if cfg.certificate, err = openCertificate(c.TLSCert, c.TLSKey, cfg.logger); err != nil {
			return config{}, exitWith(exitUsage, err)
		}
	}
	return cfg, nil
}

func loopbackPrefixes() []netip.Prefix {
	return []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}
}

func (c *serveCmd) checkListen() error {
	switch {
	case c.Listen == "" && c.UnixSocket == "":
		return errors.New("--listen is empty and there is no --unix-socket: nobody could reach the API")
	case (c.TLSCert == "") != (c.TLSKey == ""):
		return errors.New("--tls-cert and --tls-key belong together: give both or neither")
	case c.TLSCert != "" && c.Listen == "":
		return errors.New("--tls-cert is for --listen, which is empty: a Unix socket is plain HTTP")
	}
	loopback := true
	if c.Listen != "" {
		var err error
		if loopback, err = isLoopback("--listen", c.Listen); err != nil {
			return err
		}
	}
	switch {
	case c.Dev && !loopback && !c.DevPublic:
		return fmt.Errorf("--dev lets everyone who reaches the server send, and %s is not only this machine: listen on 127.0.0.1, or add --dev-public if that is meant", c.Listen)
	case c.DevPublic && !c.Dev:
		return errors.New("--dev-public is only for --dev")
	case c.Dev && c.OpenSignup:
		return errors.New("--open-signup is part of --dev: give one of them")
	}
	if c.Pprof == "" {
		return nil
	}
	loopback, err := isLoopback("--pprof", c.Pprof)
	if err == nil && !loopback {
		err = fmt.Errorf("--pprof %s is not loopback: profiles show what is in memory, keys too", c.Pprof)
	}
	return err
}

// leastDataBytes is the smallest --max-data-bytes.
const leastDataBytes = 64 << 20

// What the log and its records have room for, whatever flags say: an entry of
// the log, which a batch is one of, takes 32 MiB; a record 256 labels, and 1,024
// headers, of which one may be ours.
const (
	mostBodyBytes  = 16 << 20
	mostBatchSends = 50_000
	mostLabels     = 256
	mostHeaders    = 1000
)

// breakerFailures is the flag as the engine has it, where 0 is the default.
func (c *serveCmd) breakerFailures() int {
	if c.BreakerFailures == 0 {
		return -1
	}
	return c.BreakerFailures
}

func (c *serveCmd) checkNumbers() error {
	positive := []struct {
		flag  string
		value int
	}{
		{"lane-concurrency", c.LaneConcurrency}, {"max-in-flight", c.MaxInFlight},
		{"dns-lookups-per-second", c.DNSRate},
		{"max-request-bytes", c.MaxRequestBytes}, {"max-connections", c.MaxConnections},
		{"max-url-chars", c.MaxURLChars}, {"max-headers", c.MaxHeaders},
		{"max-header-bytes", c.MaxHeaderBytes}, {"max-metadata-bytes", c.MaxMetadataBytes},
		{"max-idempotency-key-chars", c.MaxKeyChars}, {"max-batch-bytes", c.MaxBatchBytes},
		{"max-batch-sends", c.MaxBatchSends}, {"max-labels", c.MaxLabels}, {"max-label-chars", c.MaxLabelChars},
		{"min-body-bytes-per-second", c.MinBodyRate},
	}
	for _, p := range positive {
		if p.value <= 0 {
			return fmt.Errorf("--%s must be above 0, not %d", p.flag, p.value)
		}
	}
	bounded := []struct {
		flag        string
		value, most int
	}{
		{"max-request-bytes", c.MaxRequestBytes, mostBodyBytes}, {"max-batch-bytes", c.MaxBatchBytes, mostBodyBytes},
		{"max-batch-sends", c.MaxBatchSends, mostBatchSends}, {"max-labels", c.MaxLabels, mostLabels},
		{"max-headers", c.MaxHeaders, mostHeaders},
	}
	for _, b := range bounded {
		if b.value > b.most {
			return fmt.Errorf("--%s must be at most %d, which is what the log takes, not %d", b.flag, b.most, b.value)
		}
	}
	if largest := c.largestBody(); c.MaxBodyBytes < largest || c.MaxAccountBodyBytes <= 0 {
		return fmt.Errorf("--max-body-bytes-in-flight %d and --max-account-body-bytes-in-flight %d must be above 0, and the first one at least %d, for one body of the largest size",
			c.MaxBodyBytes, c.MaxAccountBodyBytes, largest)
	}
	durations := []struct {
		flag       string
		value, min time.Duration
	}{
		{"idempotency-window", c.IdempotencyWindow, time.Second},
		{"retention-finished", c.RetentionFinished, time.Second},
		{"retention-dead", c.RetentionDead, time.Second},
		{"drain-delay", c.DrainDelay, 0},
		{"drain-timeout", c.DrainTimeout, 100 * time.Millisecond},
	}
	for _, d := range durations {
		if d.value < d.min {
			return fmt.Errorf("--%s must be at least %s, not %s", d.flag, d.min, d.value)
		}
	}
	switch {
	case c.RetentionPayload < 0:
		return fmt.Errorf("--retention-payload must not be negative (0 is as long as the delivery), not %s", c.RetentionPayload)
	case c.MaxDataBytes != 0 && c.MaxDataBytes < leastDataBytes:
		return fmt.Errorf("--max-data-bytes must be 0 (no limit) or at least %d, which the log alone needs, not %d", leastDataBytes, c.MaxDataBytes)
	}
	if c.MaxSends < 0 {
		return fmt.Errorf("--max-concurrent-sends must not be negative (0 is by the number of processors), not %d", c.MaxSends)
	}
	if c.RateLimit < 0 {
		return fmt.Errorf("--rate-limit must not be negative (0 is no limit), not %d", c.RateLimit)
	}
	if c.BreakerFailures < 0 {
		return fmt.Errorf("--breaker-failures must not be negative (0 is never), not %d", c.BreakerFailures)
	}
	if c.LaneConcurrency > c.MaxInFlight {
		return fmt.Errorf("--lane-concurrency %d is above --max-in-flight %d, which bounds it", c.LaneConcurrency, c.MaxInFlight)
	}
	return nil
}

// largestBody is that of a batch, or of another request if that may be larger.
func (c *serveCmd) largestBody() int64 { return int64(max(c.MaxBatchBytes, c.MaxRequestBytes)) }

func (c *serveCmd) checkResolver() error {
	if c.DNSResolver == "" {
		return nil
	}
	host, _, err := splitAddress("--dns-resolver", c.DNSResolver)
	if err != nil {
		return err
	}
	if _, err := netip.ParseAddr(host); err != nil {
		return fmt.Errorf("--dns-resolver %s: the host must be an IP address, there is nobody else to ask for it", c.DNSResolver)
	}
	return nil
}

// splitAddress takes HOST:PORT apart and checks the port.
func splitAddress(flag, address string) (host, port string, err error) {
	host, port, err = net.SplitHostPort(address)
	if err != nil {
		return "", "", fmt.Errorf("%s %q is not HOST:PORT (as in 127.0.0.1:8080 or [::1]:8080)", flag, address)
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return "", "", fmt.Errorf("%s %q: the port must be a number from 0 to 65535", flag, address)
	}
	return host, port, nil
}

// isLoopback tells whether only this machine reaches address. A name counts
// only when it is localhost: what others resolve to may change.
func isLoopback(flag, address string) (bool, error) {
	host, _, err := splitAddress(flag, address)
	if err != nil {
		return false, err
	}
	if host == "localhost" {
		return true, nil
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback(), nil
}

// parsePrefixes reads --egress-allow. A single address is a range of one; an
// address with bits beyond its prefix is refused, since one of the two is wrong.
func parsePrefixes(texts []string) ([]netip.Prefix, error) {
	var prefixes []netip.Prefix
	for _, text := range texts {
		text = strings.TrimSpace(text)
		if ip, err := netip.ParseAddr(text); err == nil && ip.Zone() == "" {
			prefixes = append(prefixes, netip.PrefixFrom(ip, ip.BitLen()))
			continue
		}
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, fmt.Errorf("--egress-allow %q is not a CIDR range like 10.1.0.0/16", text)
		}
		if prefix != prefix.Masked() {
			return nil, fmt.Errorf("--egress-allow %s has bits set beyond /%d: %s is meant?", text, prefix.Bits(), prefix.Masked())
		}
		prefixes = append(prefixes, prefix)
	}
	return prefixes, nil
}

// readCAs adds the certificates of a PEM file to the system's; without one it
// is nil, which means the system's.
func readCAs(flag, file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", flag, err)
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		return nil, fmt.Errorf("%s: read the system's certificates: %w", flag, err)
	}
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s: %s holds no certificate in PEM form", flag, file)
	}
	return pool, nil
}

// newLogger logs text for a person and JSON for a program.
func newLogger(w io.Writer, level, format string) *slog.Logger {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		panic("harepost: log level " + level + " passed kong's enum") // the enum tag and slog disagree
	}
	options := &slog.HandlerOptions{Level: l, ReplaceAttr: durationsWithUnits}
	if format == "text" || format == "auto" && isTerminal(w) {
		return slog.New(slog.NewTextHandler(w, options))
	}
	return slog.New(slog.NewJSONHandler(w, options))
}

// durationsWithUnits keeps the JSON handler from writing bare nanoseconds.
func durationsWithUnits(_ []string, a slog.Attr) slog.Attr {
	if a.Value.Kind() == slog.KindDuration {
		a.Value = slog.StringValue(a.Value.Duration().String())
	}
	return a
}

// Run serves until the user ends it or the storage fails.
func (c *serveCmd) Run(sh *shell) error {
	cfg, err := c.config(sh.err)
	if err != nil {
		return err
	}
	p, err := openProgram(sh.ctx, cfg)
	if errors.Is(err, context.Canceled) && sh.ctx.Err() != nil {
		cfg.logger.Info("told to end while it waited for other nodes")
		return nil
	}
	if err != nil {
		return err
	}
	if c.Dev && !c.clustered() {
		err = p.showDevAccount(sh)
	}
	if err == nil {
		err = p.run(sh.ctx)
	}
	if statusOf(err) == exitStorageFailed {
		return err // as it is: closing would write
	}
	if err = errors.Join(err, p.close()); err != nil {
		return err
	}
	p.log.Info("closed, everything accepted is on disk")
	return nil
}
