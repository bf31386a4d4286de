package engine

import (
	"context"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

func lastUsed(t testing.TB, e *Engine, a AccountID) time.Time {
	t.Helper()
	keys, err := e.Keys(context.Background(), a)
	if err != nil || len(keys) != 1 {
		t.Fatalf("%d keys, %v", len(keys), err)
	}
	return keys[0].LastUsed
}

// When a key was last used is known after a restart; a crash forgets an hour at
// most.
func TestLastUseIsKeptOverARestart(t *testing.T) {
	fs := vfs.NewCrashableMem()
	var clock wallClock
	o := testOptions(t, fs)
	o.Now, o.Failed = clock.now, nil
	e, err := Open("data", o)
	if err != nil {
		t.Fatal(err)
	}
	made, err := e.CreateAccount(context.Background(), "test")
	if err != nil {
		t.Fatal(err)
	}
	a := made.Account.ID
	if at := lastUsed(t, e, a); !at.IsZero() {
		t.Errorf("a new key was used at %s", at)
	}
	use := func() time.Time {
		for range 1000 {
			if got, err := e.Authenticate([]byte(made.APIKey)); err != nil || got != a {
				t.Fatalf("authenticate: %s, %v", got, err)
			}
		}
		return lastUsed(t, e, a)
	}
	first := use()
	if since := clock.now().Sub(first); since < 0 || since > time.Minute {
		t.Errorf("a key used now was used %s ago", since)
	}
	e.keepLastUse()
	clock.set(lastUseEvery - time.Second)
	e.keepLastUse()
	clock.set(lastUseEvery)
	e.keepLastUse()
	clock.set(2 * lastUseEvery)
	before := e.log.(walLog).Log.LastIndex()
	e.keepLastUse()
	if after := e.log.(walLog).Log.LastIndex(); after != before {
		t.Errorf("an hour without requests wrote %d entries to the log", after-before)
	}

	// A crash: what was put on record is known.
	o.FS = fs.CrashClone(vfs.CrashCloneCfg{})
	crashed, err := Open("data", o)
	if err != nil {
		t.Fatal(err)
	}
	if at := lastUsed(t, crashed, a); !at.Equal(first) {
		t.Errorf("after a crash the last use is %s, want %s", at, first)
	}
	if err := crashed.Close(); err != nil {
		t.Fatal(err)
	}

	// A stop: all is.
	second := use()
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	o.FS = fs
	e = openEngine(t, o)
	if at := lastUsed(t, e, a); !at.Equal(second) || !second.After(first) {
		t.Errorf("after a restart the last use is %s, want %s", at, second)
	}
}

// What is noted of keys that are gone is forgotten: the notes are bounded by
// the keys.
func TestLastUseForgetsRevokedKeys(t *testing.T) {
	e := openEngine(t, testOptions(t, vfs.NewMem()))
	e.lastUse.set(1, 2, time.Now())
	if uses := e.changedUses(); len(uses) != 0 {
		t.Errorf("uses of no key: %v", uses)
	}
	if _, ok := e.lastUse.m.Load(KeyID(2)); ok {
		t.Error("a key that is not there is still noted")
	}
}
