package bench

import (
	"io"
	"strconv"
	"time"

	"github.com/valyala/fasthttp"
)

// handle is on the CPUs of what is measured: an arrival that behaves well takes
// its mark, one bit and one lock, and parses no path.
func (r *Receiver) handle(ctx *fasthttp.RequestCtx) {
	m, ok := readMark(ctx.PostBody())
	if !ok || m.Run != r.options.Run || m.Sequence >= maxSends {
		r.strangers.Add(1)
		return
	}
	b, err := r.behaviours.of(ctx.RequestURI())
	if err != nil {
		r.strangers.Add(1)
		ctx.Error(err.Error(), fasthttp.StatusBadRequest)
		return
	}
	conn := doorConnOf(ctx.Conn())
	group := r.group(b.group)
	if manners := conn.door.manners.Load(); manners != nil {
		b = manners
	}
	if b.behavesWell() {
		r.accept(group, m, conn)
		return
	}
	r.behave(ctx, b, group, m, conn)
}

// group is the tally of a group, made when it is first needed.
func (r *Receiver) group(n int) *tally {
	if t := r.groups[n].Load(); t != nil {
		return t
	}
	r.groups[n].CompareAndSwap(nil, newTally(r.began))
	return r.groups[n].Load()
}

// accept files an arrival that is answered well.
func (r *Receiver) accept(group *tally, m mark, conn *doorConn) {
	at := now()
	if !r.seen.add(m.Sequence) {
		group.again(m, at)
		return
	}
	group.arrived(m, at, r.overtaken(conn.lane, m.Sequence))
}

// overtaken reports whether the destination has seen a later send before.
func (r *Receiver) overtaken(lane int, sequence uint32) bool {
	newest := &r.newest[lane]
	for {
		old := newest.Load()
		if sequence < old {
			return true
		}
		if newest.CompareAndSwap(old, sequence+1) {
			return false
		}
	}
}

// behave answers an arrival that may fail, or wait.
func (r *Receiver) behave(ctx *fasthttp.RequestCtx, b *behaviour, group *tally, m mark, conn *doorConn) {
	d := dice{seed: r.options.Seed, sequence: m.Sequence}
	if b.fails() {
		d.arrival = r.numbers.next(m.Sequence)
	}
	how, turn := b.manner(d), time.Duration(0)
	if how == mannerWell && b.capacity != nil {
		how, turn = b.capacity.take(now())
	}
	if how == mannerWell {
		r.accept(group, m, conn)
	} else {
		group.failed(m, now(), how)
	}
	if turn > 0 {
		r.wait(turn)
	}
	if how != mannerHole && b.delay.middle > 0 {
		r.wait(b.delay.draw(d))
	}
	r.answer(ctx, b, how, conn)
}

// wait returns after d, or when the receiver closes.
func (r *Receiver) wait(d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-r.closing:
	}
}

// half is the first half of an answer.
const half = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Le"

// answer does to the request what was decided. A connection that is parked or
// reset is closed to fasthttp, which then fails to write its answer and goes on.
func (r *Receiver) answer(ctx *fasthttp.RequestCtx, b *behaviour, how manner, conn *doorConn) {
	switch {
	case how == mannerWell:
		if b.drip.bytes > 0 {
			ctx.SetBodyStream(&dripping{receiver: r, drip: b.drip}, -1)
		}
	case how == mannerHole:
		r.parking.park(conn)
	case how == mannerReset:
		conn.reset()
	case how == mannerHalf:
		_, _ = ctx.Conn().Write([]byte(half)) // a client that has gone needs no half of an answer
		conn.reset()
	default:
		ctx.SetStatusCode(int(how))
		if b.retryAfter > 0 {
			ctx.Response.Header.Set(fasthttp.HeaderRetryAfter, strconv.Itoa(b.retryAfter))
		}
	}
}

// dripping is the body of an answer that comes byte by byte: fasthttp sends each
// read as a chunk of its own.
type dripping struct {
	receiver *Receiver
	drip     drip
	sent     int
}

func (d *dripping) Read(p []byte) (int, error) {
	if d.sent == d.drip.bytes {
		return 0, io.EOF
	}
	d.receiver.wait(d.drip.pause)
	d.sent++
	p[0] = '.'
	return 1, nil
}
