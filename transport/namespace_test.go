package transport

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// TestNoForbiddenConnection is the proof of the guard: a copy of this program
// runs in a network namespace where every address there is, of both families,
// leads to one listening trap on the loopback interface, and nothing leads
// out. A hole in the guard is then a connection that the trap sees, and that
// reaches nobody.
func TestNoForbiddenConnection(t *testing.T) {
	t.Parallel()
	if os.Getenv(insideVariable) != "" {
		t.Skip("already inside")
	}
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skip("no ip command to set routes in a namespace with")
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/proc/self/exe", "-test.run=^TestInsideNamespace$", "-test.v")
	cmd.Env = append(os.Environ(), insideVariable+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	if os.Getuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	out, err := cmd.CombinedOutput()
	if errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EINVAL) {
		t.Skipf("no network namespaces here: %v", err)
	}
	if err != nil || !strings.Contains(string(out), "--- PASS: TestInsideNamespace ") {
		t.Fatalf("inside the namespace: %v\n%s", err, out)
	}
	for _, line := range strings.Split(string(out), "\n") {
		if _, note, ok := strings.Cut(line, "note: "); ok {
			t.Log(note)
		}
	}
}

// trap accepts on every address of the namespace, answers 200, and remembers
// which addresses were reached.
type trap struct {
	port    uint16
	mu      sync.Mutex
	reached map[netip.Addr]int
}

func newTrap(t *testing.T) *trap {
	ln, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	tr := &trap{reached: map[netip.Addr]int{}}
	tr.port = receiverOn(t, ln, func(c net.Conn) {
		tr.mu.Lock()
		tr.reached[c.LocalAddr().(*net.TCPAddr).AddrPort().Addr().Unmap()]++
		tr.mu.Unlock()
		answering(always(reply(200, "")))(c)
	}).Port()
	return tr
}

// spring returns what was reached, and sets the trap again.
func (tr *trap) spring() map[netip.Addr]int {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	out := tr.reached
	tr.reached = map[netip.Addr]int{}
	return out
}

// at is an attempt to host at the trap's port.
func (tr *trap) at(host string) *Request {
	return &Request{Scheme: "http", Host: host, Port: tr.port, Method: "POST", Timeout: 2 * time.Second}
}

func TestInsideNamespace(t *testing.T) {
	if os.Getenv(insideVariable) == "" {
		t.Skip("runs inside TestNoForbiddenConnection")
	}
	if interfaces, err := net.Interfaces(); err != nil || len(interfaces) != 1 {
		t.Fatalf("this is not an empty namespace: %v, %v", interfaces, err)
	}
	for _, args := range []string{
		"link set lo up", "route add local 0.0.0.0/0 dev lo", "-6 route add local ::/0 dev lo",
	} {
		if out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v: %s", args, err, out)
		}
	}
	trap := newTrap(t)
	t.Run("the trap works", func(t *testing.T) { theTrapWorks(t, trap) })
	t.Run("literals", func(t *testing.T) { literalsAreTrapped(t, trap) })
	t.Run("names", func(t *testing.T) { namesAreTrapped(t, trap) })
	t.Run("rebinding", func(t *testing.T) { rebindingIsTrapped(t, trap) })
	t.Run("redirects", func(t *testing.T) { redirectsAreTrapped(t, trap) })
	t.Run("the last door", func(t *testing.T) { theLastDoorHolds(t, trap) })
}

// guarded is a Transport without exceptions.
func guarded(t *testing.T, change ...func(*Options)) *Transport {
	return open(t, append([]func(*Options){func(o *Options) { o.EgressAllow = nil }}, change...)...)
}

// theTrapWorks shows that the other parts would see a hole: what the guard
// lets through arrives, for public addresses, and for each forbidden one as
// soon as it is excepted.
func theTrapWorks(t *testing.T, trap *trap) {
	tr := guarded(t)
	for _, host := range publicAddrs {
		if res := do(tr, trap.at(host)); res.Outcome != Delivered {
			t.Errorf("public %s: %v %s", host, res.Outcome, res.Error())
		}
	}
	if got := trap.spring(); len(got) < len(publicAddrs)-1 {
		t.Errorf("%d public addresses reached", len(got))
	}
	reached, tested := 0, 0
	for _, a := range forbiddenAddrs {
		tested++
		tr := open(t, func(o *Options) { o.EgressAllow = []netip.Prefix{netip.PrefixFrom(a, a.BitLen())} })
		req := trap.at(a.String())
		req.Timeout = 500 * time.Millisecond
		res := do(tr, req)
		if res.Code == CodeAddressBlocked {
			t.Errorf("excepted %v: %s", a, res.Error())
		}
		if got := trap.spring(); got[a] == 1 && res.Outcome == Delivered {
			reached++
		} else if !unconnectable(a) {
			t.Errorf("excepted %v was not reached: %v %s, %v", a, res.Outcome, res.Error(), got)
		}
	}
	t.Logf("note: excepted, %d of %d forbidden addresses were reached; the rest the kernel itself refuses", reached, tested)
}

// unconnectable reports whether the kernel refuses TCP to a, or sends it
// elsewhere: nothing at all, broadcast, multicast, and link-local without an
// interface.
func unconnectable(a netip.Addr) bool {
	return a.IsUnspecified() || a.IsMulticast() || a.IsLinkLocalUnicast() && a.Is6() ||
		a == netip.AddrFrom4([4]byte{255, 255, 255, 255}) || a == netip.AddrFrom4([4]byte{127, 255, 255, 255}) || a.Is4() && a.As4()[0] == 0 ||
		netip.MustParsePrefix("::/96").Contains(a) && !a.IsLoopback()
}

func expectBlocked(t *testing.T, trap *trap, name string, res *Result) {
	t.Helper()
	if res.Outcome != Rejected || res.Error() != "address_blocked: "+faultBlocked.detail {
		t.Errorf("%s: %v %s", name, res.Outcome, res.Error())
	}
	if got := trap.spring(); len(got) != 0 {
		t.Errorf("%s: CONNECTED to %v", name, got)
	}
}

func literalsAreTrapped(t *testing.T, trap *trap) {
	tr := guarded(t)
	tested := 0
	for _, a := range forbiddenAddrs {
		for _, host := range spellings(a) {
			tested++
			expectBlocked(t, trap, host, do(tr, trap.at(host)))
		}
	}
	t.Logf("note: %d spellings of %d forbidden addresses, 0 connections", tested, len(forbiddenAddrs))
}

// namesAreTrapped resolves names to each forbidden address: alone, behind an
// alias, and among addresses that are allowed, before and after them.
func namesAreTrapped(t *testing.T, trap *trap) {
	dns := serveDNS(t)
	tr := guarded(t, dns.use)
	tested := 0
	check := func(name string) {
		tested++
		var blocked *BlockedError
		if err := tr.CheckHost(context.Background(), name, trap.port); !errors.As(err, &blocked) {
			t.Errorf("CheckHost(%s): %v", name, err)
		}
		expectBlocked(t, trap, name, do(tr, trap.at(name)))
	}
	for i, a := range forbiddenAddrs {
		if a.Is4In6() {
			continue // not an answer that a record can hold
		}
		name := func(kind string) string { return fmt.Sprintf("%s%d.example.com", kind, i) }
		dns.set(name("only"), a.String())
		check(name("only"))
		dns.set(name("last"), "8.8.8.8", "2606:4700::1", a.String())
		check(name("last"))
		dns.set(name("first"), a.String(), "8.8.8.8", "2606:4700::1")
		check(name("first"))
		kind := "A"
		if a.Is6() {
			kind = "AAAA"
		}
		dns.records(name("alias"), name("alias")+". 60 IN CNAME "+name("end")+".", fmt.Sprintf("%s. 60 IN %s %s", name("end"), kind, a))
		check(name("alias"))
	}
	dns.set("fine.example.com", "8.8.8.8")
	if res := do(tr, trap.at("fine.example.com")); res.Outcome != Delivered || trap.spring()[netip.MustParseAddr("8.8.8.8")] != 1 {
		t.Errorf("an allowed name: %s", res.Error())
	}
	t.Logf("note: %d names with a forbidden address among their answers, 0 connections", tested)
}

// rebindingIsTrapped plays a name server that says one thing when a send is
// accepted and another when it is attempted, in either order, and one that
// changes its mind with every question.
func rebindingIsTrapped(t *testing.T, trap *trap) {
	s := serveDNS(t)
	tr := guarded(t, s.use)
	good, evil := "8.8.8.8", "169.254.169.254"
	forget := func(name string) { // the TTL is over
		tr.resolver.mu.Lock()
		defer tr.resolver.mu.Unlock()
		tr.resolver.cache.set(name, cached{})
	}
	s.set("a.example.com", good)
	if err := tr.CheckHost(context.Background(), "a.example.com", trap.port); err != nil {
		t.Error(err)
	}
	s.set("a.example.com", evil)
	forget("a.example.com")
	expectBlocked(t, trap, "good, then evil", do(tr, trap.at("a.example.com")))

	s.set("a.example.com", good)
	forget("a.example.com")
	if res := do(tr, trap.at("a.example.com")); res.Outcome != Delivered || trap.spring()[netip.MustParseAddr(good)] != 1 {
		t.Errorf("good again: %s", res.Error())
	}

	var mu sync.Mutex
	questions := 0
	s.handle(func(w dns.ResponseWriter, q *dns.Msg) bool {
		if q.Question[0].Qtype != dns.TypeA {
			return false
		}
		mu.Lock()
		questions++
		ip := good
		if questions%2 == 0 {
			ip = evil
		}
		mu.Unlock()
		m := new(dns.Msg).SetReply(q)
		rr, _ := dns.NewRR(q.Question[0].Name + " 0 IN A " + ip)
		m.Answer, m.RecursionAvailable = []dns.RR{rr}, true
		w.WriteMsg(m)
		return true
	})
	delivered, blocked := 0, 0
	for i := range 100 {
		name := fmt.Sprintf("flip%d.example.com", i)
		s.set(name, good)
		tr.CheckHost(context.Background(), name, trap.port)
		if i%3 == 0 {
			forget(name)
		}
		switch res := do(tr, trap.at(name)); {
		case res.Outcome == Delivered:
			delivered++
		case res.Code == CodeAddressBlocked:
			blocked++
		default:
			t.Errorf("%s: %s", name, res.Error())
		}
	}
	for a, n := range trap.spring() {
		if a != netip.MustParseAddr(good) {
			t.Errorf("CONNECTED to %v %d times", a, n)
		}
	}
	if delivered == 0 || blocked == 0 {
		t.Errorf("the game was not played: %d delivered, %d blocked", delivered, blocked)
	}
}

func redirectsAreTrapped(t *testing.T, trap *trap) {
	tr := guarded(t)
	for _, a := range forbiddenAddrs {
		location := "Location: http://" + netip.AddrPortFrom(a, trap.port).String() + "/latest/meta-data/"
		ln, err := net.Listen("tcp", ":0")
		if err != nil {
			t.Fatal(err)
		}
		addr := receiverOn(t, ln, answering(func(*http.Request, string) string { return reply(302, "", location, "Connection: close") }))
		res := do(tr, &Request{Scheme: "http", Host: "8.8.8.8", Port: addr.Port(), Method: "POST"})
		if res.Outcome != Failed || res.Status != 302 {
			t.Errorf("%s: %v %s", location, res.Outcome, res.Error())
		}
	}
	if got := trap.spring(); len(got) != 0 {
		t.Errorf("FOLLOWED to %v", got)
	}
}

// theLastDoorHolds takes the checks before it away: the dialer itself refuses
// a forbidden address.
func theLastDoorHolds(t *testing.T, trap *trap) {
	tr := guarded(t, quiet)
	deadline := time.Now().Add(5 * time.Second)
	ctx, cancel := context.WithDeadline(context.Background(), deadline)
	defer cancel()
	for _, a := range forbiddenAddrs {
		tcp, _, err := tr.dialer.connect(ctx, []netip.Addr{a}, trap.port, deadline)
		if tcp != nil {
			tcp.Close()
		}
		if err == nil || connectFault(err) != faultBlocked {
			t.Errorf("%v: %v", a, err)
		}
	}
	if got := trap.spring(); len(got) != 0 {
		t.Errorf("CONNECTED to %v", got)
	}
}
