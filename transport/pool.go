package transport

import (
	"hash/maphash"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// destination is what connections are shared by: scheme, host and port.
type destination struct {
	host string // normal form
	port uint16
	tls  bool
}

// pool keeps idle connections, newest first: a destination that needs few
// connections uses few, and the rest grow old and are closed.
//
//	shard = hash(host) ── destinations, LRU ── idle connections, a stack
//
// A destination is in the pool only while it has, or lately had, an idle
// connection. Connections in use are known to nobody but their attempt.
type pool struct {
	shards [poolShards]poolShard
	seed   maphash.Seed

	hostConns int
	idleConns int64
	idleFor   time.Duration // how long a connection may be idle
	connFor   time.Duration // how old it may become

	open  atomic.Int64 // connections, in use or idle
	idle  atomic.Int64
	hosts atomic.Int64

	closed atomic.Bool
}

const poolShards = 32

type poolShard struct {
	mu    sync.Mutex
	hosts *lru[destination, *idleStack]
}

// idleStack holds a destination's idle connections; the last is the newest.
type idleStack struct{ conns []*conn }

func newPool(o Options) *pool {
	p := &pool{
		seed:      maphash.MakeSeed(),
		hostConns: o.HostConns,
		idleConns: int64(o.IdleConns),
		idleFor:   o.IdleConnDuration,
		connFor:   o.ConnDuration,
	}
	for i := range p.shards {
		p.shards[i].hosts = newLRU[destination, *idleStack](max(1, o.Hosts/poolShards))
	}
	return p
}

func (p *pool) shard(d destination) *poolShard {
	return &p.shards[maphash.String(p.seed, d.host)%poolShards]
}

// get takes the newest idle connection to d out of the pool, or returns nil.
// The caller must ask it whether it is fresh.
func (p *pool) get(d destination) *conn {
	s := p.shard(d)
	s.mu.Lock()
	defer s.mu.Unlock()
	stack, ok := s.hosts.get(d)
	if !ok || len(stack.conns) == 0 {
		return nil
	}
	last := len(stack.conns) - 1
	c := stack.conns[last]
	stack.conns[last] = nil
	stack.conns = stack.conns[:last]
	p.idle.Add(-1)
	return c
}

// put gives c back after an attempt that left it in order. It is closed
// instead of kept when it is old or a bound is reached.
func (p *pool) put(c *conn, now time.Time) {
	if now.Sub(c.made) >= p.connFor || p.idle.Load() >= p.idleConns {
		p.drop(c)
		return
	}
	c.idle = now
	s := p.shard(c.dest)
	s.mu.Lock()
	stack, ok := s.hosts.get(c.dest)
	var evicted *idleStack
	if !ok {
		stack = &idleStack{}
		var full bool
		if evicted, full = s.hosts.set(c.dest, stack); !full {
			p.hosts.Add(1)
		}
	}
	// closed is read under the lock, so that close finds what was put before.
	kept := len(stack.conns) < p.hostConns && !p.closed.Load()
	if kept {
		stack.conns = append(stack.conns, c)
		p.idle.Add(1)
	}
	s.mu.Unlock()

	if !kept {
		p.drop(c)
	}
	if evicted != nil {
		p.retire(evicted.conns)
	}
}

// drop closes a connection that is not in the pool.
func (p *pool) drop(c *conn) {
	p.open.Add(-1)
	c.abort()
}

// retire closes connections that were taken out of the pool idle.
func (p *pool) retire(conns []*conn) {
	p.idle.Add(-int64(len(conns)))
	p.open.Add(-int64(len(conns)))
	for _, c := range conns {
		c.retire()
	}
}

// sweep closes what has been idle too long by now and forgets destinations
// without idle connections.
func (p *pool) sweep(now time.Time) {
	for i := range p.shards {
		s := &p.shards[i]
		var old []*conn
		s.mu.Lock()
		s.hosts.each(func(it *lruItem[destination, *idleStack]) bool {
			stack := it.value
			n := 0
			for n < len(stack.conns) && now.Sub(stack.conns[n].idle) >= p.idleFor {
				n++
			}
			if n > 0 {
				old = append(old, stack.conns[:n]...)
				stack.conns = slices.Delete(stack.conns, 0, n)
			}
			if len(stack.conns) == 0 {
				s.hosts.remove(it)
				p.hosts.Add(-1)
			}
			return true
		})
		s.mu.Unlock()
		p.retire(old)
	}
}

// close closes every idle connection; those in use are closed when given back.
func (p *pool) close() {
	p.closed.Store(true)
	for i := range p.shards {
		s := &p.shards[i]
		var all []*conn
		s.mu.Lock()
		s.hosts.each(func(it *lruItem[destination, *idleStack]) bool {
			all = append(all, it.value.conns...)
			s.hosts.remove(it)
			p.hosts.Add(-1)
			return true
		})
		s.mu.Unlock()
		p.retire(all)
	}
}
