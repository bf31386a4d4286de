package bench

import (
	"testing"

	"github.com/miekg/dns"
)

// Each host has its address under its name, over UDP and TCP, and there are no
// others.
func TestHostsHaveNames(t *testing.T) {
	n, err := newNameServer(1000)
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	ask := func(network, name string, kind uint16) *dns.Msg {
		t.Helper()
		c := dns.Client{Net: network}
		m, _, err := c.Exchange(new(dns.Msg).SetQuestion(name, kind), n.addr())
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	for _, network := range []string{"udp", "tcp"} {
		for _, host := range []int{0, 7, 999} {
			m := ask(network, hostName(host)+".", dns.TypeA)
			if len(m.Answer) != 1 || m.Answer[0].(*dns.A).A.String() != hostAddress(host).String() {
				t.Errorf("host %d over %s: %v", host, network, m)
			}
		}
	}
	if m := ask("udp", hostName(7)+".", dns.TypeAAAA); m.Rcode != dns.RcodeSuccess || len(m.Answer) != 0 {
		t.Errorf("an IPv6 address: %v", m)
	}
	for _, name := range []string{hostName(1000) + ".", "hx." + receiverDomain + ".", "example.com."} {
		if m := ask("udp", name, dns.TypeA); m.Rcode != dns.RcodeNameError {
			t.Errorf("%s: %v", name, m)
		}
	}
	proof := "of the domain"
	n.proof.Store(&proof)
	if m := ask("udp", "_challenge."+receiverDomain+".", dns.TypeTXT); len(m.Answer) != 1 || m.Answer[0].(*dns.TXT).Txt[0] != proof {
		t.Errorf("the proof: %v", m)
	}
	if got := n.queries.Load(); got != 11 {
		t.Errorf("%d queries counted, want 11", got)
	}
}
