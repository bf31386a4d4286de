package bench

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"

	"github.com/valyala/fasthttp"

	"github.com/harepost/harepost/bench/report"
)

// ReceiverOptions configure a Receiver.
type ReceiverOptions struct {
	// Run is the run whose marks are counted; all others are strangers.
	Run uint32
	// Seed decides which arrivals fail, where a behaviour lets some fail.
	Seed uint64
	// Targets is the number of ports for http: each is a destination of its own
	// to the engine. Default 1, if there are no TLSTargets.
	Targets int
	// TLSTargets is the number of further ports, for https.
	TLSTargets int
	// Hosts is the number of addresses at which each port can be reached, from
	// 127.1.0.0 up: each again a destination of its own. Default 1, 127.0.0.1.
	Hosts int
	// Names gives each host a name, which the receiver's own name server tells.
	Names bool
	// Listen is the address, or address:port, to listen on where there is one
	// host. Default 127.0.0.1, a free port.
	Listen string
	// ParkedConns bounds the connections that are never answered; beyond it they
	// are closed. Default 16,384.
	ParkedConns int
}

func (o ReceiverOptions) withDefaults() (ReceiverOptions, error) {
	if o.TLSTargets == 0 {
		setDefault(&o.Targets, 1)
	}
	setDefault(&o.Hosts, 1)
	setDefault(&o.ParkedConns, 1<<14)
	if o.Targets < 0 || o.TLSTargets < 0 || o.Hosts < 1 || o.Hosts > maxReceiverHosts || (o.Targets+o.TLSTargets)*o.Hosts > maxReceiverHosts {
		return o, fmt.Errorf("bench: receiver: %d http and %d https ports at %d addresses, want up to %d in all",
			o.Targets, o.TLSTargets, o.Hosts, maxReceiverHosts)
	}
	if o.Listen != "" && o.Hosts > 1 {
		return o, fmt.Errorf("bench: receiver: listen on %s, and have %d addresses", o.Listen, o.Hosts)
	}
	return o, nil
}

// listen is where each port listens, with port 0 for a free one.
func (o ReceiverOptions) listen() (netip.AddrPort, error) {
	if o.Hosts > 1 {
		return netip.AddrPortFrom(netip.IPv4Unspecified(), 0), nil
	}
	if o.Listen == "" {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), 0), nil
	}
	if addr, err := netip.ParseAddr(o.Listen); err == nil {
		return netip.AddrPortFrom(addr, 0), nil
	}
	at, err := netip.ParseAddrPort(o.Listen)
	if err == nil && at.Port() != 0 && o.Targets+o.TLSTargets > 1 {
		err = fmt.Errorf("one port for %d targets", o.Targets+o.TLSTargets)
	}
	if err != nil {
		return at, fmt.Errorf("bench: receiver: listen on %q: %w", o.Listen, err)
	}
	return at, nil
}

// A Receiver answers every request as the behaviour in its path says, and 200
// without one. It counts the marks in the payloads: how many sends arrived, how
// many of them again, in what order, and when.
//
// It owns a goroutine for each door, one for each connection that is open, that of
// the parking, and those of the name server.
type Receiver struct {
	options   ReceiverOptions
	http      fasthttp.Server
	doors     []*door
	parking   *parking
	authority *authority  // nil without TLSTargets
	names     *nameServer // nil without Names
	serving   sync.WaitGroup
	failed    chan error    // what Serve returned, one per door
	closing   chan struct{} // ends the delays
	closeOnce sync.Once
	closeErr  error

	began      moment
	behaviours behaviours
	seen       *sequenceSet // what was answered well
	numbers    arrivalNumbers
	groups     [maxGroups]atomic.Pointer[tally]
	newest     []atomic.Uint32 // sequence number seen last, plus 1, of each destination
	strangers  atomic.Uint64   // payloads without a mark of this run
}

// ReceiverCounts is what has arrived up to the moment At.
type ReceiverCounts struct {
	At moment `json:"at"`
	Counts
	Strangers uint64        `json:"strangers"`        // without a mark of the run
	Open      int           `json:"open_connections"` // those that are never answered among them
	Lookups   uint64        `json:"lookups"`          // questions that the name server was asked
	Groups    []GroupCounts `json:"groups"`           // of which anything has arrived
}

// receiverReport is the end of a round: everything a Receiver knows.
type receiverReport struct {
	ReceiverCounts
	Seen        sequences           `json:"seen"`
	LastArrival moment              `json:"last_arrival"`
	Latency     report.Distribution `json:"latency"` // of all groups
	PerGroup    []groupReport       `json:"per_group"`
}

// NewReceiver listens on free ports and serves until Close.
func NewReceiver(o ReceiverOptions) (*Receiver, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	at, err := o.listen()
	if err != nil {
		return nil, err
	}
	ports := o.Targets + o.TLSTargets
	r := &Receiver{
		options: o, seen: newSequenceSet(), began: now(),
		failed: make(chan error, ports), closing: make(chan struct{}),
		newest: make([]atomic.Uint32, ports*o.Hosts),
	}
	// No timeouts, because each costs a system-wide timer update per request and
	// its only clients are our own; connections are bounded by Concurrency.
	r.http = fasthttp.Server{
		Handler: r.handle, Name: "receiver", Concurrency: 1 << 16, MaxRequestBodySize: 16 << 20,
		NoDefaultContentType: true, DisablePreParseMultipartForm: true, Logger: quiet{},
	}
	if r.parking, err = newParking(o.ParkedConns); err != nil {
		return nil, err
	}
	if o.TLSTargets > 0 {
		if r.authority, err = newAuthority(); err != nil {
			return nil, errors.Join(err, r.Close())
		}
	}
	if o.Names {
		if r.names, err = newNameServer(o.Hosts); err != nil {
			return nil, errors.Join(err, r.Close())
		}
	}
	for i := range ports {
		if err := r.addDoor(i, at); err != nil {
			return nil, errors.Join(err, r.Close())
		}
	}
	return r, nil
}

func (r *Receiver) addDoor(index int, at netip.AddrPort) error {
	d, err := newDoor(index, r.options.Hosts, at, r.parking)
	if err != nil {
		return err
	}
	r.doors = append(r.doors, d)
	var l net.Listener = d
	if index >= r.options.Targets {
		l = tls.NewListener(d, r.authority.config())
	}
	r.serving.Go(func() { r.failed <- r.http.Serve(l) })
	return nil
}

// Targets returns the URLs that deliveries may go to, to which a behaviour may be
// added: those of the first port, one for each host, then those of the next.
func (r *Receiver) Targets() []string {
	urls := make([]string, 0, len(r.newest))
	for i, d := range r.doors {
		scheme := "http://"
		if i >= r.options.Targets {
			scheme = "https://"
		}
		for host := range r.options.Hosts {
			at := d.host(host)
			if r.names != nil {
				urls = append(urls, fmt.Sprintf("%s%s:%d/", scheme, hostName(host), at.Port()))
				continue
			}
			urls = append(urls, scheme+at.String()+"/")
		}
	}
	return urls
}

// Resolver is the address of the name server; empty where there is none.
func (r *Receiver) Resolver() string {
	if r.names == nil {
		return ""
	}
	return r.names.addr()
}

// Prove has the name server answer that text record for every name in the domain of
// the hosts.
func (r *Receiver) Prove(text string) error {
	if r.names == nil {
		return errors.New("bench: receiver: no names, nothing to prove")
	}
	r.names.proof.Store(&text)
	return nil
}

// CA is the certificate, as PEM, that those who deliver to TLS targets have to
// trust; empty where there are none.
func (r *Receiver) CA() string {
	if r.authority == nil {
		return ""
	}
	return string(r.authority.pem)
}

// Down is the behaviour, for Switch, of a host that refuses connections.
const Down = "down"

// Switch changes how the port of that number, from 0, behaves from now on:
// [Down], any words of a behaviour ("fail=1:503") whatever the paths say, or, for
// an empty text, as the paths say. What it was before ends: a port that was down
// is so no more.
func (r *Receiver) Switch(port int, to string) error {
	if port < 0 || port >= len(r.doors) {
		return fmt.Errorf("bench: receiver: switch port %d of %d", port, len(r.doors))
	}
	d := r.doors[port]
	if to == Down {
		return d.shut()
	}
	var manners *behaviour
	if to != "" {
		var err error
		if manners, err = parseBehaviour(behaviourPrefix + to); err != nil {
			return fmt.Errorf("bench: receiver: switch port %d: %w", port, err)
		}
	}
	d.manners.Store(manners)
	return d.open()
}

// Counts returns what has arrived so far.
func (r *Receiver) Counts() ReceiverCounts {
	c := ReceiverCounts{At: now(), Strangers: r.strangers.Load(), Open: r.parking.count()}
	for _, d := range r.doors {
		c.Open += d.openConns()
	}
	if r.names != nil {
		c.Lookups = r.names.queries.Load()
	}
	for i := range r.groups {
		if t := r.groups[i].Load(); t != nil {
			g := GroupCounts{Group: i, Counts: t.counts()}
			c.Groups = append(c.Groups, g)
			c.add(g.Counts)
		}
	}
	return c
}

// Measure forgets the latencies recorded so far, those of the warm-up.
func (r *Receiver) Measure() {
	for i := range r.groups {
		if t := r.groups[i].Load(); t != nil {
			t.measure()
		}
	}
}

// Recent returns the latencies of all groups since a reader, 0 or 1, last called it.
func (r *Receiver) Recent(reader int) report.Distribution {
	all := newHistogram(3)
	for i := range r.groups {
		if t := r.groups[i].Load(); t != nil {
			t.takeRecent(all, reader)
		}
	}
	return distributionOf(all)
}

func (r *Receiver) report() receiverReport {
	all := newHistogram(3)
	said := receiverReport{ReceiverCounts: r.Counts(), Seen: r.seen.export()}
	for _, counts := range said.Groups {
		own := newHistogram(3)
		line, last := r.groups[counts.Group].Load().addTo(own)
		all.Merge(own)
		said.LastArrival = max(said.LastArrival, last)
		said.PerGroup = append(said.PerGroup, groupReport{counts, distributionOf(own), line})
	}
	said.Latency = distributionOf(all)
	return said
}

// Close stops listening and closes the connections once their requests are
// answered, those that wait out a delay at once. It may be called twice.
func (r *Receiver) Close() error {
	r.closeOnce.Do(func() { r.closeErr = r.close() })
	return r.closeErr
}

func (r *Receiver) close() error {
	close(r.closing)
	ctx, cancel := context.WithTimeout(context.Background(), closeWait)
	defer cancel()
	err := r.http.ShutdownWithContext(ctx)
	for _, d := range r.doors {
		// Shutdown knows only the doors whose Serve has begun.
		err = errors.Join(err, d.Close(), d.shut())
	}
	if r.names != nil {
		err = errors.Join(err, r.names.Close())
	}
	r.serving.Wait()
	for range r.doors {
		err = errors.Join(err, notClosed(<-r.failed))
	}
	return errors.Join(err, r.parking.Close())
}
