package raftstore

import (
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/harepost/harepost/engine"
)

// history is what clients asked and were told, in the order in which it happened, for
// each idempotency key and each domain by itself.
type history struct {
	mu    sync.Mutex
	clock int64
	parts map[string][]porcupine.Operation
}

// A pending operation of a history.
type pending struct {
	h      *history
	part   string
	client int
	call   int64
}

func (h *history) tick() int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.clock++
	return h.clock
}

// begin notes that a client asks now. Of what has no part nothing is kept.
func (h *history) begin(client int, part string) *pending {
	return &pending{h: h, part: part, client: client, call: h.tick()}
}

func (p *pending) note(op any, at int64) {
	if p.part == "" {
		return
	}
	p.h.mu.Lock()
	defer p.h.mu.Unlock()
	if p.h.parts == nil {
		p.h.parts = make(map[string][]porcupine.Operation)
	}
	p.h.parts[p.part] = append(p.h.parts[p.part], porcupine.Operation{ClientId: p.client, Input: op, Output: op, Call: p.call, Return: at})
}

func (p *pending) end(op any) { p.note(op, p.h.tick()) }

// never notes that it may have an effect at any time from its call on.
func (p *pending) never(op any) { p.note(op, math.MaxInt64) }

// drop notes nothing: it had no effect.
func (p *pending) drop() {}

type (
	sendOp struct {
		id        engine.DeliveryID
		duplicate bool
		unknown   bool
	}
	readOp struct {
		id    engine.DeliveryID
		found bool
	}
	domainOp struct {
		kind    string
		changed bool // or found
		unknown bool
	}
)

// keyState is what an idempotency key stands for.
type keyState struct {
	taken bool
	id    engine.DeliveryID // zero: by a send whose answer was lost
}

// keyModel: the first send with a key makes a delivery, all others are told of it, and
// from then on it is found.
var keyModel = porcupine.Model{
	Init: func() any { return keyState{} },
	Step: func(state, _, output any) (bool, any) {
		s := state.(keyState)
		switch op := output.(type) {
		case sendOp:
			switch {
			case op.unknown:
				s.taken = true
				return true, s
			case !op.duplicate:
				return !s.taken, keyState{true, op.id}
			case s.id == engine.DeliveryID{}:
				return s.taken, keyState{true, op.id}
			}
			return s.id == op.id, s
		case readOp:
			return op.found == (s.taken && s.id == op.id), s
		}
		return false, s
	},
}

// domainModel: a domain is there from when it was added until it is deleted.
var domainModel = porcupine.Model{
	Init: func() any { return false },
	Step: func(state, _, output any) (bool, any) {
		there, op := state.(bool), output.(domainOp)
		switch {
		case op.kind == "get":
			return op.changed == there, there
		case op.kind == "add":
			return op.unknown || op.changed == !there, true
		}
		return op.unknown || op.changed == there, false
	},
}

// check finds parts whose order nothing that happened one after the other explains.
func (h *history) check(w *world) (operations int) {
	for part, ops := range h.parts {
		operations += len(ops)
		model := keyModel
		if _, ok := ops[0].Output.(domainOp); ok {
			model = domainModel
		}
		switch porcupine.CheckOperationsTimeout(model, ops, 20*time.Second) {
		case porcupine.Illegal:
			text := ""
			for _, op := range ops {
				text += fmt.Sprintf("\n\tclient %d, %d to %d: %+v", op.ClientId, op.Call, op.Return, op.Output)
			}
			w.fail("%s is not linearizable:%s", part, text)
		case porcupine.Unknown:
			w.trace("%s: too many operations to say whether it is linearizable: %d", part, len(ops))
		}
	}
	return operations
}
