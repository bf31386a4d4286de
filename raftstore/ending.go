package raftstore

import (
	"reflect"
	"runtime"

	"github.com/hashicorp/raft"
)

// stableStore is the store as raft's StableStore once raft runs. raft panics when it is
// told that a term or a vote was not kept, and would answer the candidate if it were not.
// The store tells nothing before it is closed, after a failure that ends the process; the
// goroutine of raft that waits ends with it.
type stableStore struct{ *Store }

func (s stableStore) Set(key, value []byte) error {
	if err := s.Store.Set(key, value); err != nil {
		runtime.Goexit()
	}
	return nil
}

func (s stableStore) SetUint64(key []byte, value uint64) error {
	if err := s.Store.SetUint64(key, value); err != nil {
		runtime.Goexit()
	}
	return nil
}

// wait waits for what raft tells of f, which is raft.ErrRaftShutdown if raft ends
// before it does. raft (v1.8.0) forgets those that it has in a channel when it ends,
// though it has a field for this, which it sets for some.
func (n *Node) wait(f raft.Future) error {
	if v := reflect.Indirect(reflect.ValueOf(f)); v.Kind() == reflect.Struct {
		if end := v.FieldByName("ShutdownCh"); end.IsValid() && end.CanSet() && end.IsNil() {
			end.Set(reflect.ValueOf(n.gone))
		}
	}
	return f.Error()
}

// ended waits for the node's goroutines, after raft has ended.
func (n *Node) ended() error {
	close(n.gone)
	n.running.Wait()
	n.batcher.wait()
	return nil
}
