package raftstore

import (
	"context"
	"fmt"
	"net"
	"syscall"
	"time"

	"github.com/hashicorp/raft"
)

// dialTimeout is for who gives none.
const dialTimeout = 10 * time.Second

// keepAlive finds a connection whose other side is gone, machine and all, in
// half a minute, where nothing is under way that would find it sooner.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 3}

// longAgo is a deadline that ends reads and writes under way.
var longAgo = time.Unix(1, 0)

// Dial connects to the raft of the node at address, handshake included, within
// timeout.
func (l *StreamLayer) Dial(address raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	if timeout <= 0 {
		timeout = dialTimeout
	}
	ctx, cancel := context.WithTimeout(l.ctx, timeout)
	defer cancel()
	p, err := l.dial(ctx, string(address), kindRaft)
	if err != nil {
		return nil, err
	}
	return p, nil
}

// DialHTTP connects to the internal HTTP server of the node at address. When it
// returns an error, the node has not heard of any request.
func (l *StreamLayer) DialHTTP(ctx context.Context, address string) (net.Conn, error) {
	p, err := l.dialHTTP(ctx, address)
	if err != nil {
		return nil, err
	}
	return p, nil
}

func (l *StreamLayer) dialHTTP(ctx context.Context, address string) (*peerConn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	stop := context.AfterFunc(l.ctx, cancel)
	defer stop()
	return l.dial(ctx, address, kindHTTP)
}

// dial connects to address for kind. ctx has a deadline, and ends with the layer.
func (l *StreamLayer) dial(ctx context.Context, address string, kind byte) (*peerConn, error) {
	want := "" // internal HTTP asks who is there
	if kind == kindRaft {
		want, _ = l.o.NodeOf(address)
	}
	p, err := l.connect(ctx, address, want, kind)
	if err == nil && !l.register(p, false) {
		p.Close()
		err = net.ErrClosed
	}
	if err != nil {
		who := ""
		if want != "" {
			who = fmt.Sprintf(" (node %q)", want)
		}
		return nil, fmt.Errorf("raftstore: node %q connects to %s%s: %w", l.o.NodeID, address, who, err)
	}
	return p, nil
}

func (l *StreamLayer) connect(ctx context.Context, address, want string, kind byte) (*peerConn, error) {
	d := net.Dialer{KeepAliveConfig: keepAlive}
	if l.o.TLS == nil {
		d.Control = loopbackOnly
	}
	c, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	p, err := l.introduce(ctx, c.(*net.TCPConn), want, kind)
	if err != nil {
		c.Close()
		if ctx.Err() != nil {
			err = fmt.Errorf("%w (%w)", context.Cause(ctx), err)
		}
		return nil, err
	}
	return p, nil
}

// introduce makes the dialing side of a handshake with the node want, or any
// if want is empty.
func (l *StreamLayer) introduce(ctx context.Context, c *net.TCPConn, want string, kind byte) (*peerConn, error) {
	stop := context.AfterFunc(ctx, func() { c.SetDeadline(longAgo) })
	defer stop()
	p, err := newPeerConn(l, c)
	if err != nil {
		return nil, err
	}
	if l.o.TLS != nil {
		if err := p.secureDialed(l.o.TLS.client(want)); err != nil {
			return nil, l.explainDial(p, err)
		}
	}
	if _, err := p.Write([]byte{kind}); err != nil {
		return nil, l.explainDial(p, err)
	}
	var answer [1]byte
	if _, err := p.Read(answer[:]); err != nil {
		return nil, l.explainDial(p, err)
	}
	if answer[0] != accepted {
		if l.o.TLS == nil && answer[0] == wantsTLS {
			return nil, errServerHasTLS
		}
		return nil, fmt.Errorf("%w: it answers with the byte %#x", errNotANode, answer[0])
	}
	if !stop() {
		return nil, context.Cause(ctx)
	}
	return p, nil
}

// loopbackOnly refuses to connect to other machines. What a name stands for is
// known here.
func loopbackOnly(_, address string, _ syscall.RawConn) error {
	host, _, err := net.SplitHostPort(address)
	if err != nil || !loopback(host) {
		return fmt.Errorf("%s is not on loopback: %s", address, withoutTLS)
	}
	return nil
}
