package api

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"
)

// smallBodyBytes is how much body is read before the caller has proved who
// it is, and on routes that never need more.
const smallBodyBytes = 16 << 10

// keptBytes is how large a buffer may have grown and still be kept for the next
// request of its connection. fasthttp keeps the largest that a connection ever
// needed, idle or not: Connections * RequestBytes in the end. What is let go is
// what bodies have counted.
const keptBytes = smallBodyBytes

// Options configure a Server. A zero field means the default beside it.
type Options struct {
	// Version is this server's, as backups name it.
	Version string

	// AdminToken is the bearer token of the routes of accounts. Without it
	// they are closed, but for POST with OpenSignup.
	AdminToken string
	OpenSignup bool // anyone may create an account, without a token

	AllowHTTPTargets bool // http targets are accepted beside https ones
	Dev              bool // http and IP literals are accepted for loopback targets, and localhost is a host

	RequestBytes         int           // body of one request; 1 MiB
	BatchSends           int           // sends of one batch; 10,000
	BatchBytes           int           // body of one batch; 16 MiB, or RequestBytes if that is more
	BodyBytes            int64         // bodies above 16 KiB in memory at once, the next is answered 503; 256 MiB, or AccountBodyBytes if that is more
	AccountBodyBytes     int64         // those of one account; a quarter of BodyBytes, or the largest body if that is more
	BodyBytesPerSecond   int           // least rate at which such a body has to arrive; 256 KiB
	Headers              int           // members of a send's headers; 64
	HeadersBytes         int           // names and values of them together; 16 KiB
	URLChars             int           // target; 2048
	MetadataBytes        int           // metadata as written; 16 KiB, or RequestBytes if that is less
	IdempotencyKeyChars  int           // idempotency_key; 255
	Labels               int           // labels of one send; 8
	LabelChars           int           // one label; 64
	Warnings             int           // warnings in one answer, the rest is counted; 16
	PrivateNames         []string      // host name suffixes that are refused as targets; DefaultPrivateNames
	MaxDelay             time.Duration // how far ahead delay_ms and not_before may lie; 365 days
	OverloadedRetryAfter time.Duration // Retry-After of a 503; 1 s

	Connections     int           // open connections, the next is answered 503; 4096
	ReadBufferBytes int           // per active connection, and the most a request's head may have; 8 KiB
	ReadTimeout     time.Duration // from a request's first byte to its last; 30 s
	WriteTimeout    time.Duration // to write an answer; 30 s
	IdleTimeout     time.Duration // between requests of a connection; 75 s
	RequestsPerConn int           // then the connection is closed; 0 is no bound
	LingerTimeout   time.Duration // how long a refused request is still read so that its answer arrives; 500 ms

	// Cluster is the cluster that this node is part of, and NodeID its id there;
	// nil for a server that runs alone.
	Cluster        Cluster
	NodeID         string
	LeaderPatience time.Duration // how long a request waits for a node that leads; 1 s
	LeaderWaiters  int           // requests that wait so, the next is answered 503; 1024
	ProxyTimeout   time.Duration // for the node that leads to answer what is handed on; 30 s
	ReadyLag       uint64        // entries that a node may be behind and be ready; 1000

	// Metrics writes what else belongs on GET /metrics, in Prometheus text
	// format; nil writes nothing. It runs on the request's goroutine.
	Metrics func(io.Writer)
	Logger  *slog.Logger // slog.Default()
}

// DefaultPrivateNames are the suffixes that mean "my own network" by standard
// or by habit. Addresses are checked whatever the name; this only makes the
// mistake visible early.
var DefaultPrivateNames = []string{"localhost", "local", "internal", "svc", "cluster.local"}

func (o Options) withDefaults() Options {
	orInt(&o.RequestBytes, 1<<20)
	orInt(&o.BatchSends, 10_000)
	orInt(&o.BatchBytes, max(16<<20, o.RequestBytes))
	orInt(&o.BodyBytesPerSecond, 256<<10)
	o.bodyDefaults()
	orInt(&o.Headers, 64)
	orInt(&o.HeadersBytes, 16<<10)
	orInt(&o.URLChars, 2048)
	orInt(&o.MetadataBytes, min(16<<10, o.RequestBytes))
	orInt(&o.IdempotencyKeyChars, 255)
	orInt(&o.Labels, 8)
	orInt(&o.LabelChars, 64)
	orInt(&o.Warnings, 16)
	orInt(&o.Connections, 4096)
	orInt(&o.ReadBufferBytes, 8<<10)
	orDuration(&o.MaxDelay, 365*24*time.Hour)
	orDuration(&o.OverloadedRetryAfter, time.Second)
	orDuration(&o.ReadTimeout, 30*time.Second)
	orDuration(&o.WriteTimeout, 30*time.Second)
	orDuration(&o.IdleTimeout, 75*time.Second)
	orDuration(&o.LingerTimeout, 500*time.Millisecond)
	orDuration(&o.LeaderPatience, time.Second)
	orInt(&o.LeaderWaiters, 1024)
	orDuration(&o.ProxyTimeout, 30*time.Second)
	if o.ReadyLag == 0 {
		o.ReadyLag = 1000
	}
	if o.PrivateNames == nil {
		o.PrivateNames = DefaultPrivateNames
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	return o
}

// bodyDefaults gives every account room for one body of the largest size.
func (o *Options) bodyDefaults() {
	largest := int64(max(o.RequestBytes, o.BatchBytes))
	if o.BodyBytes == 0 {
		o.BodyBytes = max(256<<20, o.AccountBodyBytes, largest)
	}
	if o.AccountBodyBytes == 0 {
		o.AccountBodyBytes = max(o.BodyBytes/4, largest)
	}
}

func orInt(v *int, def int) {
	if *v == 0 {
		*v = def
	}
}

func orDuration(v *time.Duration, def time.Duration) {
	if *v == 0 {
		*v = def
	}
}

// validate expects the defaults to be filled in.
func (o Options) validate() error {
	for name, v := range map[string]int{
		"RequestBytes": o.RequestBytes, "BatchSends": o.BatchSends, "BatchBytes": o.BatchBytes, "Headers": o.Headers, "HeadersBytes": o.HeadersBytes,
		"URLChars": o.URLChars, "MetadataBytes": o.MetadataBytes,
		"IdempotencyKeyChars": o.IdempotencyKeyChars, "Labels": o.Labels, "LabelChars": o.LabelChars,
		"Warnings": o.Warnings, "Connections": o.Connections, "ReadBufferBytes": o.ReadBufferBytes,
		"RequestsPerConn": o.RequestsPerConn, "BodyBytesPerSecond": o.BodyBytesPerSecond,
	} {
		if v < 0 {
			return fmt.Errorf("api: option %s is negative (%d)", name, v)
		}
	}
	for name, v := range map[string]time.Duration{
		"MaxDelay": o.MaxDelay, "OverloadedRetryAfter": o.OverloadedRetryAfter, "ReadTimeout": o.ReadTimeout,
		"WriteTimeout": o.WriteTimeout, "IdleTimeout": o.IdleTimeout, "LingerTimeout": o.LingerTimeout,
		"LeaderPatience": o.LeaderPatience, "ProxyTimeout": o.ProxyTimeout,
	} {
		if v < 0 {
			return fmt.Errorf("api: option %s is negative (%s)", name, v)
		}
	}
	switch {
	case o.MetadataBytes > o.RequestBytes:
		return fmt.Errorf("api: MetadataBytes (%d) is above RequestBytes (%d)", o.MetadataBytes, o.RequestBytes)
	case o.AccountBodyBytes < int64(max(o.RequestBytes, o.BatchBytes)):
		return fmt.Errorf("api: AccountBodyBytes (%d) is below the largest body (%d)", o.AccountBodyBytes, max(o.RequestBytes, o.BatchBytes))
	case o.BodyBytes < o.AccountBodyBytes:
		return fmt.Errorf("api: BodyBytes (%d) is below AccountBodyBytes (%d)", o.BodyBytes, o.AccountBodyBytes)
	case (o.Cluster == nil) != (o.NodeID == ""):
		return errors.New("api: Cluster and NodeID belong together")
	case o.ReadBufferBytes < 1024:
		return fmt.Errorf("api: ReadBufferBytes is %d, a request's head needs 1024", o.ReadBufferBytes)
	case o.AdminToken != strings.TrimSpace(o.AdminToken):
		return errors.New("api: AdminToken has white space around it, a header cannot carry that")
	}
	return nil
}
