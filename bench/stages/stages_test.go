package stages

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/pprof/profile"
)

const (
	ours     = "github.com/harepost/harepost/"
	fasthttp = "github.com/valyala/fasthttp."
	pebble   = "github.com/cockroachdb/pebble/v2"
	syscall6 = "internal/runtime/syscall/linux.Syscall6"
)

// A maker makes a CPU profile of one location for each function.
type maker struct {
	p         profile.Profile
	locations map[string]*profile.Location
}

func newMaker(sampleType, unit string) *maker {
	return &maker{
		p: profile.Profile{
			SampleType: []*profile.ValueType{{Type: "samples", Unit: "count"}, {Type: sampleType, Unit: unit}},
			PeriodType: &profile.ValueType{Type: sampleType, Unit: unit},
		},
		locations: map[string]*profile.Location{},
	}
}

func (m *maker) function(name string) *profile.Function {
	f := &profile.Function{ID: uint64(len(m.p.Function) + 1), Name: name}
	m.p.Function = append(m.p.Function, f)
	return f
}

func (m *maker) location(names ...string) *profile.Location {
	key := strings.Join(names, " ")
	if l, ok := m.locations[key]; ok {
		return l
	}
	l := &profile.Location{ID: uint64(len(m.p.Location) + 1)}
	for _, name := range names {
		l.Line = append(l.Line, profile.Line{Function: m.function(name)})
	}
	m.p.Location = append(m.p.Location, l)
	m.locations[key] = l
	return l
}

// sample adds one of so long, by a stack whose innermost function is the first.
// "a+b" is a that is inlined into b.
func (m *maker) sample(d time.Duration, stack ...string) {
	s := &profile.Sample{Value: []int64{1, int64(d)}}
	for _, frame := range stack {
		s.Location = append(s.Location, m.location(strings.Split(frame, "+")...))
	}
	m.p.Sample = append(m.p.Sample, s)
}

func (m *maker) bytes(t *testing.T) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := m.p.Write(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// Every stack has one stage, whatever it is made of, and the stages sum up.
func TestEverySampleIsPlacedOnce(t *testing.T) {
	m := newMaker("cpu", "nanoseconds")
	want := map[Stage]Cost{}
	var total Cost
	next := time.Millisecond
	f := func(stage Stage, stack ...string) {
		t.Helper()
		m.sample(next, stack...)
		kernel := stack[0] == syscall6 || stack[0] == "runtime.futex"
		c := want[stage]
		c.add(next, kernel)
		want[stage] = c
		total.add(next, kernel)
		if got := place(shortened(stack)); got != stage {
			t.Errorf("%q is %q, want %q", stack, got, stage)
		}
		next *= 2 // so that no two samples can take each other's place in a sum
	}
	serve := []string{fasthttp + "(*Server).serveConnCounted", fasthttp + "(*workerPool).workerFunc"}
	api := append([]string{ours + "api.(*Server).send", ours + "api.(*Server).serve"}, serve...)
	send := append([]string{ours + "engine.(*Engine).Send"}, api...)
	worker := []string{ours + "engine.(*dispatcher).attempts", ours + "engine.(*dispatcher).work", "sync.(*WaitGroup).Go.func1"}
	attempt := append([]string{ours + "engine.(*Engine).attempt"}, worker...)
	applier := []string{ours + "engine/state.(*State).Apply", ours + "engine.(*Engine).apply"}
	on := func(under []string, stack ...string) []string { return append(stack, under...) }

	f(ReadRequest, on(serve, syscall6, ours+"internal/tcp.(*Conn).Read", "bufio.(*Reader).Peek")...)
	f(ReadRequest, on(serve, "indexbytebody", fasthttp+"(*RequestHeader).parse", fasthttp+"(*RequestHeader).Read")...)
	f(Answer, on(serve, syscall6, ours+"internal/tcp.(*Conn).Write", "bufio.(*Writer).Flush")...)
	f(Answer, on(api, "runtime.memmove", fasthttp+"(*Response).SetBody")...)
	f(Answer, on(serve, ours+"api.(*deadline).set", ours+"api.(*conn).SetWriteDeadline")...)
	f(ReadRequest, on(serve, ours+"api.(*deadline).set", ours+"api.(*conn).SetReadDeadline")...)
	f(Decode, on(api, "bytes.Equal+"+fasthttp+"(*RequestHeader).Peek", ours+"api.bearer")...)
	f(Decode, on(api, "crypto/sha256.Sum256", ours+"engine.(*Engine).Authenticate")...)
	f(Accept, on(send, ours+"transport.(*Transport).CheckKnown")...)
	f(Accept, on(send, "runtime.selectgo", ours+"engine.(*Engine).receipt")...)
	f(Log, on(send, "runtime.memmove", ours+"wal.(*Log).Append")...)
	f(Log, syscall6, pebble+"/vfs.(*linuxFile).SyncData", ours+"wal.(*writer).sync", ours+"wal.(*writer).run")
	f(Apply, ours+"engine.(*Engine).committed", ours+"wal.(*writer).run")
	f(Apply, on(applier, "runtime.memmove", pebble+".(*memTable).apply", pebble+".(*Batch).Commit")...)
	f(Schedule, on(applier, ours+"scheduler.(*Scheduler).Add", ours+"engine.(*dispatcher).addYoung")...)
	f(Schedule, on(worker, "runtime.futex", "runtime.ready", "runtime.chansend1")...)
	f(Outbound, on(attempt, syscall6, ours+"internal/tcp.(*Conn).Write", ours+"transport.(*exchange).write")...)
	f(Outbound, on(attempt, fasthttp+"(*ResponseHeader).Read", fasthttp+"(*Response).ReadLimitBody", ours+"transport.(*exchange).readHead")...)
	f(Outbound, on(attempt, ours+"engine/state.(*State).FindPending")...)
	f(Record, on(attempt, ours+"engine/delivery.AppendAttempt", ours+"engine/command.AppendAttempt")...)
	f(Record, on(worker, ours+"wal.(*Log).AppendLater", ours+"engine.(*Engine).record")...)
	f(Background, "github.com/minio/minlz.encodeBlockAsm64K", pebble+".(*DB).flush1", pebble+".(*DB).flush")
	f(Runtime, syscall6, "internal/runtime/syscall/linux.EpollWait", "runtime.netpoll", "runtime.findRunnable", "runtime.mcall")
	f(Runtime, on(api, "runtime.gcDrainN", "runtime.gcAssistAlloc", "runtime.mallocgc")...)
	f(Runtime, "runtime.scanobject", "runtime.gcBgMarkWorker")
	f(Other, "runtime.memmove", "compress/flate.(*compressor).deflate", "runtime/pprof.profileWriter")
	f(Other, "runtime.memmove", "main.main", "runtime.main")

	forwarding := []string{ours + "bench.(*Forwarder).forward", ours + "bench.(*Forwarder).work"}
	f(Outbound, on(forwarding, syscall6, "bufio.(*Writer).Flush", fasthttp+"(*HostClient).doNonNilReqResp")...)
	f(Outbound, on(forwarding, fasthttp+"(*URI).parse", fasthttp+"(*Request).parseURI", fasthttp+"(*HostClient).Do")...)
	f(Schedule, "runtime.chanrecv", ours+"bench.(*Forwarder).work")
	f(Accept, on(serve, "runtime.chansend", ours+"bench.(*Forwarder).enqueue")...)

	b, err := Read(bytes.NewReader(m.bytes(t)))
	if err != nil {
		t.Fatal(err)
	}
	sum, shares := Cost{}, 0.0
	for _, s := range All {
		if b.Costs[s] != want[s] {
			t.Errorf("%s: %v, want %v", s, b.Costs[s], want[s])
		}
		sum.CPU += b.Costs[s].CPU
		sum.Kernel += b.Costs[s].Kernel
		shares += b.Share(s)
	}
	if sum != total || b.Total != total || math.Abs(shares-1) > 1e-9 {
		t.Errorf("the stages sum up to %v and %g, the profile says %v, want %v", sum, shares, b.Total, total)
	}
	if got := b.Strangers(5); len(got) != 2 || got[0] != "runtime.main" || got[1] != "runtime/pprof.profileWriter" {
		t.Errorf("strangers %q", got)
	}
}

// shortened are the functions of a stack as place takes them.
func shortened(stack []string) (frames []string) {
	for _, frame := range stack {
		for name := range strings.SplitSeq(frame, "+") {
			frames = append(frames, short(name))
		}
	}
	return frames
}

// A rule that comes after one that fits wherever it does is dead.
func TestEveryRuleCanFit(t *testing.T) {
	for i, late := range rules {
		for _, early := range rules[:i] {
			if strings.HasPrefix(late.frame, early.frame) && (early.below == "" || early.below == late.below) {
				t.Errorf("%v never fits for %v", late, early)
			}
		}
	}
}

func TestWhatIsNoProfileIsRefused(t *testing.T) {
	good := newMaker("cpu", "nanoseconds")
	good.sample(time.Millisecond, "runtime.memmove", "runtime.mcall")
	whole := good.bytes(t)
	heap := newMaker("inuse_space", "bytes")
	heap.sample(1, "runtime.mallocgc")
	negative := newMaker("cpu", "nanoseconds")
	negative.sample(-1, "runtime.mcall")
	endless := newMaker("cpu", "nanoseconds")
	endless.sample(math.MaxInt64, "runtime.mcall")
	endless.sample(1, "runtime.mcall")

	f := func(name string, data []byte, want error) {
		t.Helper()
		b, err := Read(bytes.NewReader(data))
		if b != nil || !errors.Is(err, want) {
			t.Errorf("%s: %v, %v; want %v", name, b, err, want)
		}
	}
	f("an empty file", nil, ErrNoCPUProfile)
	f("text", []byte("a report, perhaps"), ErrNoCPUProfile)
	f("packed text", packed(t, []byte("a report, perhaps")), ErrNoCPUProfile)
	f("packed nothing", packed(t, nil), ErrNoCPUProfile)
	f("a heap profile", heap.bytes(t), ErrNoCPUProfile)
	f("negative time", negative.bytes(t), ErrNoCPUProfile)
	f("more time than there is", endless.bytes(t), ErrNoCPUProfile)
	for n := 10; n < len(whole); n++ { // behind the head of gzip
		f("a cut profile", whole[:n], io.ErrUnexpectedEOF)
	}
	if _, err := Read(bytes.NewReader(whole)); err != nil {
		t.Error(err)
	}
}

func TestSizeIsBounded(t *testing.T) {
	const limit = 1 << 10
	f := func(data []byte, tooLarge bool) {
		t.Helper()
		if _, err := read(bytes.NewReader(data), limit); err == nil || errors.Is(err, ErrTooLarge) != tooLarge {
			t.Errorf("%d bytes: %v, too large: want %v", len(data), err, tooLarge)
		}
	}
	f(bytes.Repeat([]byte("x"), limit), false)
	f(bytes.Repeat([]byte("x"), limit+1), true)
	f(packed(t, make([]byte, limit)), false)
	f(packed(t, make([]byte, 100*limit)), true) // small until it is unpacked
}

func packed(t *testing.T, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// sampleColumns are two profiles, half in the log and half outbound at first.
func sampleColumns(t *testing.T) []Column {
	t.Helper()
	column := func(name string, log, outbound, other int, perDelivery time.Duration) Column {
		m := newMaker("cpu", "nanoseconds")
		m.sample(time.Duration(log)*time.Second, syscall6, ours+"wal.(*writer).run")
		m.sample(time.Duration(outbound)*time.Second, ours+"transport.(*Transport).Do")
		m.sample(time.Duration(other)*time.Second, "unheard.of")
		b, err := Read(bytes.NewReader(m.bytes(t)))
		if err != nil {
			t.Fatal(err)
		}
		return Column{name, *b, perDelivery}
	}
	return []Column{
		column("before", 2, 2, 0, 40*time.Microsecond),
		column("after", 1, 2, 1, 20*time.Microsecond),
	}
}

func TestTable(t *testing.T) {
	var b strings.Builder
	columns := sampleColumns(t)
	if err := WriteText(&b, columns); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"A  before: 40.0 µs of CPU per delivery, shared out by a profile of 4.00 s of CPU, 50.0 % of it in the kernel\n",
		"\n   other is 25.0 %: unheard.of\n",
		"\nlog           |     20.0    20.0  50.0 %  |      5.0     5.0  25.0 %  |   -15.0\n",
		"\noutbound      |     20.0     0.0  50.0 %  |     10.0     0.0  50.0 %  |   -10.0\n",
		"\nall           |     40.0    20.0 100.0 %  |     20.0     5.0 100.0 %  |   -20.0\n",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("%q is not in\n%s", want, b.String())
		}
	}
	b.Reset()
	columns[1] = columns[0]
	columns[1].PerDelivery -= time.Nanosecond
	if err := WriteText(&b, columns); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(b.String(), "-0.0") {
		t.Errorf("less than nothing changed:\n%s", b.String())
	}
	b.Reset()
	columns = sampleColumns(t)
	columns[0].PerDelivery = 0
	if err := WriteText(&b, columns); err != nil {
		t.Fatal(err)
	}
	if want := "\nlog           |        -       -  50.0 %  |      5.0     5.0  25.0 %  |       -\n"; !strings.Contains(b.String(), want) {
		t.Errorf("%q is not in\n%s", want, b.String())
	}
}

func TestJSON(t *testing.T) {
	var b bytes.Buffer
	if err := WriteJSON(&b, sampleColumns(t)); err != nil {
		t.Fatal(err)
	}
	var got []profiled
	if err := json.Unmarshal(b.Bytes(), &got); err != nil || len(got) != 2 || len(got[1].Stages) != len(All) {
		t.Fatalf("%v\n%s", err, b.String())
	}
	if log := got[1].Stages[3]; log != (row{Log, 5, 5, 0.25, 0.25}) || got[1].US != 20 || got[1].SampledMS != 4000 {
		t.Errorf("%+v", got[1])
	}
}

// A profile of a process that was idle is one.
func TestNoSamples(t *testing.T) {
	b, err := Read(bytes.NewReader(newMaker("cpu", "nanoseconds").bytes(t)))
	if err != nil || b.Total.CPU != 0 || b.Share(Log) != 0 {
		t.Errorf("%+v, %v", b, err)
	}
}
