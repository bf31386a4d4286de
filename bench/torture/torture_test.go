package torture

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// What a test that is started again in namespaces of its own is told.
const (
	insideVariable = "HAREPOST_TORTURE_INSIDE" // the program's path
	kindsVariable  = "HAREPOST_TORTURE_KINDS"  // separated by commas
)

// number is an environment variable, or otherwise when it is not set.
func number(t *testing.T, name string, otherwise uint64) uint64 {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("%s=%q is not a number", name, text)
	}
	return n
}

// Three nodes under load, through every kind of event, lose nothing that they
// acknowledged. Without HAREPOST_TORTURE_N it is a few events, of those that are
// short.
func TestClusterLosesNothing(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("processes for half a minute")
	}
	if binary := os.Getenv(insideVariable); binary != "" {
		torment(t, binary, true, 3)
		return
	}
	binary := program(t)
	if why := notIsolated(); why != "" {
		t.Logf("without networks and disks of the nodes' own, which leaves out what needs them: %s", why)
		torment(t, binary, false, 3)
		return
	}
	isolate(t, binary)
}

// One node alone has the same promises, but for being there all the time. That the
// harness sees what is to be seen does not depend on a cluster.
func TestOneNodeLosesNothing(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("processes for half a minute")
	}
	if binary := os.Getenv(insideVariable); binary != "" {
		torment(t, binary, true, 1)
		return
	}
	binary := program(t)
	if why := notIsolated(); why != "" {
		torment(t, binary, false, 1)
		return
	}
	isolate(t, binary)
}

// A node that was away for so long that the others do not keep what it misses catches
// up by a snapshot while load goes on, whoever is killed meanwhile.
func TestANodeThatWasAwayCatchesUp(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("processes for half a minute")
	}
	away := int(number(t, "HAREPOST_TORTURE_AWAY", 3000))
	o := Options{
		Binary: program(t), Dir: t.TempDir(), Away: away, Kinds: asked(t),
		Seed: number(t, "HAREPOST_TORTURE_SEED", uint64(rand.Uint32())), Rate: 100, Resume: 30 * time.Second,
		Patience: 2*time.Minute + time.Duration(away)*2*time.Millisecond, Progress: t.Output(),
		LogDir: os.Getenv("HAREPOST_TORTURE_LOGS"),
	}
	if len(o.Kinds) == 0 {
		o.Kinds = []Kind{ComeBack, DieComingBack}
	}
	o.Events = len(o.Kinds)
	judge(t, o)
}

// torment makes the run that the environment asks for.
func torment(t *testing.T, binary string, isolated bool, nodes int) {
	o := Options{
		Binary: binary, Other: os.Getenv("HAREPOST_TORTURE_OTHER"), Dir: directory(t, isolated), Nodes: nodes, Isolated: isolated,
		Seed:     number(t, "HAREPOST_TORTURE_SEED", uint64(rand.Uint32())),
		Rate:     int(number(t, "HAREPOST_TORTURE_RATE", 0)),
		Events:   int(number(t, "HAREPOST_TORTURE_N", 0)),
		LogDir:   os.Getenv("HAREPOST_TORTURE_LOGS"), // a directory that is there
		Progress: t.Output(),
	}
	o.Kinds = asked(t)
	if o.Events == 0 { // the quick size; what is slow here is other tests beside it
		o.Kinds, o.Events = quick(nodes)
		o.Longest, o.Rate, o.Resume = 1500*time.Millisecond, 200, 30*time.Second
	}
	judge(t, o)
}

// asked is the kinds of events that the environment asks for.
func asked(t *testing.T) (kinds []Kind) {
	for _, k := range strings.Split(os.Getenv(kindsVariable), ",") {
		if k = strings.TrimSpace(k); k != "" {
			if kindOf(Kind(k)) == nil {
				t.Fatalf("%s: there is no %q", kindsVariable, k)
			}
			kinds = append(kinds, Kind(k))
		}
	}
	return kinds
}

// judge makes a run and fails the test if it broke a promise.
func judge(t *testing.T, o Options) {
	t.Logf("HAREPOST_TORTURE_SEED=%d", o.Seed)
	r, err := Run(t.Context(), o)
	if r != nil {
		r.Write(t.Output())
		keep(t, r)
		for _, b := range r.Broken {
			t.Error(b)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
}

// directory is where the nodes' are made. An isolated one has mounts, which go with
// this process: then whoever started it removes the directory.
func directory(t *testing.T, isolated bool) string {
	if !isolated {
		return t.TempDir()
	}
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// quick is what a quick run draws from, shorter than the rest, and how often.
func quick(nodes int) (from []Kind, events int) {
	if nodes == 1 {
		return []Kind{KillLeader, FailingDisk}, 2
	}
	return []Kind{KillLeader, PauseLeader, UnplugLeader, OneWay, PartialCut, KillAll, Transfer}, 4
}

// keep writes the record as JSON where it is wanted.
func keep(t *testing.T, r *Record) {
	file := os.Getenv("HAREPOST_TORTURE_JSON")
	if file == "" {
		return
	}
	text, err := json.MarshalIndent(r, "", "  ")
	if err == nil {
		err = os.WriteFile(file, append(text, '\n'), 0o644)
	}
	if err != nil {
		t.Error(err)
	}
}

// program builds the program, as it is in this work tree.
func program(t *testing.T) string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "harepost")
	build := exec.Command("go", "build", "-o", binary, "../../cmd/harepost")
	if text, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, text)
	}
	return binary
}

// notIsolated says why there can be no namespaces here, if that is so.
func notIsolated() string {
	if os.Geteuid() != 0 {
		return "that takes root"
	}
	lookTools()
	for _, tool := range IsolationTools {
		if _, err := exec.LookPath(tool); err != nil {
			return err.Error()
		}
	}
	probe := exec.Command("mount", "-t", "tmpfs", "none", "/mnt")
	Isolate(probe)
	if err := output(probe); err != nil {
		return err.Error()
	}
	return ""
}

// isolate runs the calling test again, isolated, and takes over what it says.
func isolate(t *testing.T, binary string) {
	t.Helper()
	most := 5 * time.Minute
	if n := number(t, "HAREPOST_TORTURE_N", 0); n > 0 {
		most += time.Duration(n) * 2 * time.Minute
	}
	ctx, cancel := context.WithTimeoutCause(t.Context(), most, fmt.Errorf("it has not ended after %s", most))
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=0")
	cmd.Env = append(os.Environ(), insideVariable+"="+binary, "TMPDIR="+t.TempDir())
	Isolate(cmd)
	cmd.Stdout, cmd.Stderr = t.Output(), t.Output()
	err := cmd.Run()
	if err != nil {
		t.Fatal(errors.Join(err, context.Cause(ctx)))
	}
}
