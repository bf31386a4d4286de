package raftstore

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
)

// A leader whose summons may still be heard is certain of nothing.
func TestSummonsVoidTheLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := summons{now: time.Now, election: 2 * time.Second}
		sending, answer := make(chan struct{}), make(chan error)
		for _, c := range []struct {
			err  error
			open time.Duration
		}{{nil, 2 * time.Second}, {errors.New("no answer"), 2*time.Second + heardLate}} {
			if s.open() {
				t.Fatal("open before anybody was called")
			}
			go func() {
				_ = s.send(func() error { close(sending); return <-answer })
			}()
			<-sending
			time.Sleep(time.Minute)
			if !s.open() {
				t.Error("not open while it is sent")
			}
			answer <- c.err
			synctest.Wait()
			time.Sleep(c.open - 1)
			if !s.open() {
				t.Errorf("answered with %v: not open any more before %s", c.err, c.open)
			}
			time.Sleep(time.Nanosecond)
			sending = make(chan struct{})
		}
		if s.open() {
			t.Error("open for ever")
		}
	})
}

// bareTransport hands over what a test puts in.
type bareTransport struct {
	raft.Transport
	in chan raft.RPC
}

func (b bareTransport) Consumer() <-chan raft.RPC { return b.in }

// A node that has just started may have told a leader that it follows, the moment before
// it was stopped. The leader rests on that for the time of a lease, in which this node
// gives no vote; all else it does at once.
func TestNoVoteRightAfterAStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const lease = 500 * time.Millisecond
		in := make(chan raft.RPC)
		n := newNoting(bareTransport{in: in}, &contacts{now: time.Now}, nil, lease)
		defer n.Close()
		go func() {
			for {
				select {
				case rpc := <-n.Consumer():
					rpc.Respond(nil, nil)
				case <-n.closed:
					return
				}
			}
		}()
		ask := func(command any) error {
			answer := make(chan raft.RPCResponse, 1)
			in <- raft.RPC{Command: command, RespChan: answer}
			return (<-answer).Error
		}
		votes := []any{&raft.RequestVoteRequest{}, &raft.RequestPreVoteRequest{}}
		for _, wait := range []time.Duration{0, lease - 1} {
			time.Sleep(wait)
			for _, v := range votes {
				if err := ask(v); !errors.Is(err, errNoVote) {
					t.Errorf("%T %s after the start: %v", v, wait, err)
				}
			}
			if err := ask(&raft.AppendEntriesRequest{}); err != nil {
				t.Errorf("entries %s after the start: %v", wait, err)
			}
		}
		time.Sleep(time.Nanosecond)
		for _, v := range votes {
			if err := ask(v); err != nil {
				t.Errorf("%T after a lease: %v", v, err)
			}
		}
	})
}
