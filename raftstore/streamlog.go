package raftstore

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Why a handshake failed, where no error of others says it.
var (
	errPeerHasTLS   = errors.New("it speaks TLS, and this node has no certificates (--cluster-cert, --cluster-key, --cluster-ca)")
	errServerHasTLS = errors.New("it wants TLS, and this node has no certificates (--cluster-cert, --cluster-key, --cluster-ca)")
	errNotANode     = errors.New("it does not speak as a node does")
	errPeerHasNone  = errors.New("it does not speak TLS: has it no certificates?")
	errNotServing   = errors.New("internal HTTP is not served any more")
	errQueueFull    = errors.New("too many connections wait to be accepted")
)

// refused logs a connection from ip that did not get through its handshake,
// naming both ends.
func (l *StreamLayer) refused(ip netip.Addr, err error) {
	switch {
	case errors.Is(err, io.EOF):
		return // a port that is looked at, as health checks do
	case errors.Is(err, errNotServing):
		return // shutting down; the other side is told by its dial
	case errors.Is(err, os.ErrDeadlineExceeded):
		err = fmt.Errorf("it did not finish within %s", l.o.HandshakeTimeout)
	}
	l.log.warn("refused "+ip.String(), "a connection of another node was refused",
		"node", l.o.NodeID, "from", ip, "claims", claimed(err), "error", err)
}

// claimed is the node id that a certificate has which was not believed.
func claimed(err error) string {
	if e, ok := errors.AsType[*wrongNodeError](err); ok {
		return e.got
	}
	if e, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return claimedID(e.UnverifiedCertificates)
	}
	return ""
}

func claimedID(chain []*x509.Certificate) string {
	id, err := nodeIDOf(chain)
	if err != nil {
		return ""
	}
	return id
}

// explainDial says what an error in the dialing side of a handshake means. p
// has got as far as it has got.
func (l *StreamLayer) explainDial(p *peerConn, err error) error {
	var record tls.RecordHeaderError
	var op *net.OpError
	switch {
	case errors.As(err, &record):
		return errPeerHasNone
	case errors.As(err, &op) && op.Op == "remote error":
		return fmt.Errorf("it refused this node's certificate (node %q, ends %s): %w",
			l.o.TLS.NodeID(), l.o.TLS.NotAfter().UTC().Format(time.RFC3339), err)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return fmt.Errorf("it closed the connection in the handshake, its log may say why: %w", err)
	}
	if id := claimed(err); id != "" && !strings.Contains(err.Error(), id) {
		return fmt.Errorf("the certificate of node %q: %w", id, err)
	}
	return err
}

// rareLog logs what peers can bring about as often as they like: of one kind,
// one line in rareLogPause, which tells how many were left out.
type rareLog struct {
	log *slog.Logger
	now func() time.Time

	mu    sync.Mutex
	kinds map[string]*rareKind // at most rareLogKinds, and one for all others
}

const (
	rareLogPause = 30 * time.Second
	rareLogKinds = 128
)

type rareKind struct {
	said time.Time
	left int // out, since
}

func newRareLog(log *slog.Logger) *rareLog {
	return &rareLog{log: log, now: time.Now, kinds: make(map[string]*rareKind)}
}

func (r *rareLog) warn(kind, text string, args ...any) {
	left, say := r.may(kind)
	if !say {
		return
	}
	if left > 0 {
		args = append(args, "left_out", left)
	}
	r.log.Warn(text, args...)
}

// may reports whether kind may be said now, and how often it was not since it
// last was.
func (r *rareLog) may(kind string) (left int, say bool) {
	now := r.now()
	r.mu.Lock()
	defer r.mu.Unlock()
	k := r.kinds[kind]
	if k == nil && len(r.kinds) >= rareLogKinds {
		for name, k := range r.kinds {
			if now.Sub(k.said) >= rareLogPause {
				delete(r.kinds, name)
			}
		}
		if len(r.kinds) >= rareLogKinds {
			kind = ""
			k = r.kinds[kind]
		}
	}
	if k == nil {
		r.kinds[kind] = &rareKind{said: now}
		return 0, true
	}
	if now.Sub(k.said) < rareLogPause {
		k.left++
		return 0, false
	}
	left = k.left
	k.said, k.left = now, 0
	return left, true
}
