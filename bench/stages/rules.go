package stages

import "strings"

// A rule gives a function to a stage.
type rule struct {
	stage Stage
	frame string // what the function's name begins with
	below string // what the name of one of its callers begins with; empty: they may be any
}

// The rules. The first that fits a function counts; of a stack, the innermost
// function that one fits. Names are as short makes them.
var rules = []rule{
	// Collecting while allocating is paid by who allocates at the wrong moment,
	// which says nothing about that stage.
	{Runtime, "runtime.gcAssistAlloc", ""},

	// The API's connections. fasthttp's parts are shared with the forwarder's
	// client, and with getters that the handler calls: only what its server calls
	// is meant.
	{Answer, "fasthttp.writeResponse", ""},
	{Answer, "fasthttp.(*Response", "fasthttp.(*Server)"}, // ResponseHeader too
	{Answer, "bufio.(*Writer)", "fasthttp.(*Server)"},
	{Answer, "api.(*deadline)", "api.(*conn).SetWriteDeadline"},
	{Answer, "api.(*conn).SetWriteDeadline", ""},
	{Answer, "api.appendReceipt", ""},
	{Answer, "api.writeJSON", ""},
	{Answer, "api.setRequestID", ""},
	{ReadRequest, "bufio.(*Reader)", "fasthttp.(*Server)"},
	{ReadRequest, "fasthttp.(*RequestHeader).Read", ""},
	{ReadRequest, "fasthttp.(*Request).parseURI", "fasthttp.(*Server)"},
	{ReadRequest, "fasthttp.(*Server)", ""},
	{ReadRequest, "fasthttp.(*workerPool)", ""},
	{ReadRequest, "api.(*conn)", ""},
	{ReadRequest, "api.(*connections)", ""},
	{ReadRequest, "api.(*listener)", ""},
	{ReadRequest, "api.(*deadline)", ""},
	{ReadRequest, "api.(*bodies)", ""},
	{ReadRequest, "api.(*Server).limitBody", ""},

	// What the handler does. What it asks the transport is a part of its checks.
	{Decode, "engine.(*Engine).Authenticate", ""},
	{Accept, "transport.", "engine.(*Engine).Send"},
	{Accept, "transport.", "engine.(*batch)"},
	{Decode, "transport.", "api."},
	{Accept, "engine.(*Engine).Send", ""},
	{Accept, "engine.(*batch)", ""},
	{Decode, "api.", ""},

	// The log. Handing a frame over is the applier's work already.
	{Record, "wal.", "engine.(*Engine).record"},
	{Apply, "engine.(*Engine).committed", ""},
	{Log, "wal.", ""},

	// The applier. What it tells the scheduler is below, for it is further in.
	{Apply, "engine.(*Engine).apply", ""},
	{Apply, "engine.(*Engine).answerAccepts", ""},
	{Apply, "engine/state.(*State).Apply", ""},

	{Schedule, "scheduler.", ""},
	{Schedule, "engine.(*dispatcher)", ""},

	{Record, "engine/command.AppendAttempt", ""},
	{Record, "engine.(*Engine).record", ""},
	{Record, "engine.(*engineMetrics).observeAttempt", ""},
	{Background, "transport.(*Transport).sweepIdle", ""},
	{Outbound, "transport.", ""},
	{Outbound, "engine.(*Engine).attempt", ""},

	{Background, "engine.(*Engine).keep", ""},
	{Background, "engine.(*Engine).work", ""},
	{Background, "engine.(*Engine).compact", ""},
	{Background, "engine/state.(*State).reportDurable", ""},

	// The forwarder.
	{Decode, "bench.readEnvelope", ""},
	{Outbound, "fasthttp.(*HostClient)", ""},
	{Outbound, "bench.(*Forwarder).forward", ""},
	{Schedule, "bench.(*Forwarder).work", ""},
	{Accept, "bench.(*Forwarder)", ""},
}

// Goroutines that are nobody's part by any function above are told by their
// outermost one.
var roots = []rule{
	{Other, "runtime.main", ""},
	{Runtime, "runtime.", ""},
	{Runtime, "internal/runtime/", ""},
	{Background, "pebble", ""},
}

// Functions that make system calls; their time is the kernel's.
var systemCalls = []string{
	"internal/runtime/syscall.Syscall6",
	"internal/runtime/syscall/linux.Syscall6",
	"syscall.RawSyscall6",
	"syscall.rawVforkSyscall",
	"syscall.rawSyscallNoError",
	"runtime.futex",
	"runtime.epollwait",
	"runtime.epollctl",
	"runtime.read",
	"runtime.write1",
	"runtime.usleep",
	"runtime.osyield",
	"runtime.madvise",
	"runtime.sysMmap",
	"runtime.sysMunmap",
	"runtime.clone",
	"runtime.tgkill",
	"runtime.rtsigprocmask",
	"runtime.timer_settime",
	"runtime.setitimer",
}

var shorter = strings.NewReplacer(
	"github.com/harepost/harepost/", "",
	"github.com/valyala/fasthttp.", "fasthttp.",
	"github.com/cockroachdb/pebble/v2", "pebble",
)

// short is a function's name as the rules have it.
func short(name string) string { return shorter.Replace(name) }

// place returns the stage of a stack, whose innermost function is the first.
func place(stack []string) Stage {
	for i, frame := range stack {
		for _, r := range rules {
			if strings.HasPrefix(frame, r.frame) && r.reached(stack[i+1:]) {
				return r.stage
			}
		}
	}
	if len(stack) > 0 {
		for _, r := range roots {
			if strings.HasPrefix(stack[len(stack)-1], r.frame) {
				return r.stage
			}
		}
	}
	return Other
}

// reached reports whether a function with these callers was reached as the rule
// wants it.
func (r *rule) reached(callers []string) bool {
	if r.below == "" {
		return true
	}
	for _, c := range callers {
		if strings.HasPrefix(c, r.below) {
			return true
		}
	}
	return false
}
