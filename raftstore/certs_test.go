package raftstore

import (
	"crypto/x509"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestMakeCertsAddsNodes(t *testing.T) {
	noLeaks(t)
	dir := filepath.Join(t.TempDir(), "certs")
	now := time.Now()
	made, err := MakeCerts(CertOptions{Dir: dir, Nodes: []string{"n1", "n2"}, Now: now})
	if err != nil || len(made) != 3 || made[0].NodeID != "" {
		t.Fatalf("%+v, %v", made, err)
	}
	more, err := MakeCerts(CertOptions{Dir: dir, Nodes: []string{"n3"}, Hosts: []string{"10.0.0.3", "::1", "n3.example.com"}, Now: now})
	if err != nil || len(more) != 1 {
		t.Fatalf("%+v, %v", more, err)
	}
	for name, mode := range map[string]os.FileMode{"ca.pem": 0o644, "ca-key.pem": 0o600, "n1.pem": 0o644, "n1-key.pem": 0o600, "n3-key.pem": 0o600} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(dir, ".new-*")); len(left) > 0 {
		t.Errorf("%q are left over", left)
	}

	// As any other program would verify it.
	roots := x509.NewCertPool()
	text, err := os.ReadFile(filepath.Join(dir, "ca.pem"))
	if err != nil || !roots.AppendCertsFromPEM(text) {
		t.Fatal(err)
	}
	n3 := identityOf(t, dir, "n3").current.Load().cert.Leaf
	for _, host := range []string{"n3", "n3.harepost.internal", "10.0.0.3", "::1", "n3.example.com"} {
		for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
			if _, err := n3.Verify(x509.VerifyOptions{Roots: roots, DNSName: host, KeyUsages: []x509.ExtKeyUsage{usage}}); err != nil {
				t.Errorf("%s: %v", host, err)
			}
		}
	}
	if d := n3.NotAfter.Sub(now); d < 364*24*time.Hour || d > 366*24*time.Hour {
		t.Errorf("valid for %s", d)
	}
	if d := made[0].NotAfter.Sub(now); d < 3649*24*time.Hour || d > 3651*24*time.Hour {
		t.Errorf("the CA is valid for %s", d)
	}

	// And by nodes, old and new.
	n1 := listenAs(t, dir, "n1", nil)
	echo(t, n1)
	echo(t, n1.HTTPListener())
	works(t, listenAs(t, dir, "n3", expect("n1")), n1, "n3:hello")
}

func TestMakeCertsReplacesNothing(t *testing.T) {
	dir := certDir(t, "n1")
	all := func() string {
		var texts []string
		for _, name := range []string{"ca.pem", "ca-key.pem", "n1.pem", "n1-key.pem", "n2.pem"} {
			text, _ := os.ReadFile(filepath.Join(dir, name))
			texts = append(texts, string(text))
		}
		return strings.Join(texts, "|")
	}
	before := all()
	o := CertOptions{Dir: dir, Nodes: []string{"n2", "n1"}, Now: time.Now()}
	if _, err := MakeCerts(o); err == nil || !strings.Contains(err.Error(), "--force") {
		t.Errorf("a node that is there: %v", err)
	}
	if all() != before {
		t.Fatal("something was written")
	}
	o.Force = true
	if _, err := MakeCerts(o); err != nil {
		t.Fatal(err)
	}
	after := all()
	ca := strings.Join(strings.Split(before, "|")[:2], "|")
	if !strings.HasPrefix(after, ca) {
		t.Error("the CA was replaced")
	}
	if after[len(ca):] == before[len(ca):] {
		t.Error("the node's certificate was not replaced")
	}
	identityOf(t, dir, "n1")
}

func TestMakeCertsRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		o    CertOptions
		want string
	}{
		"no node":          {CertOptions{}, "no node"},
		"no id":            {CertOptions{Nodes: []string{"N1"}}, "no node id"},
		"the CA's name":    {CertOptions{Nodes: []string{"ca"}}, "another id"},
		"a key's name":     {CertOptions{Nodes: []string{"n1-key"}}, "another id"},
		"twice":            {CertOptions{Nodes: []string{"n1", "n1"}}, "twice"},
		"a node as host":   {CertOptions{Nodes: []string{"n1"}, Hosts: []string{"n2.harepost.internal"}}, "no host name"},
		"a wildcard":       {CertOptions{Nodes: []string{"n1"}, Hosts: []string{"*"}}, "no host name"},
		"no time":          {CertOptions{Nodes: []string{"n1"}, Valid: -1}, "positive"},
		"half a CA":        {CertOptions{Nodes: []string{"n2"}}, "belong together"},
		"a CA that is not": {CertOptions{Nodes: []string{"n2"}}, "no CA"},
		"an ended CA":      {CertOptions{Nodes: []string{"n2"}, Now: time.Now().Add(11 * 365 * 24 * time.Hour)}, "ended on"},
	} {
		dir := t.TempDir()
		switch name {
		case "half a CA":
			dir = certDir(t, "n1")
			os.Remove(filepath.Join(dir, "ca-key.pem"))
		case "a CA that is not":
			dir = certDir(t, "n1")
			os.Rename(filepath.Join(dir, "n1.pem"), filepath.Join(dir, "ca.pem"))
			os.Rename(filepath.Join(dir, "n1-key.pem"), filepath.Join(dir, "ca-key.pem"))
		case "an ended CA":
			dir = certDir(t, "n1")
		}
		c.o.Dir = dir
		if c.o.Now.IsZero() {
			c.o.Now = time.Now()
		}
		if made, err := MakeCerts(c.o); err == nil || !strings.Contains(err.Error(), c.want) || len(made) > 0 {
			t.Errorf("%s: %v, %v", name, made, err)
		}
	}
}

// TestMakeCertsEndWithTheirCA has no certificate that outlives what it is
// verified by.
func TestMakeCertsEndWithTheirCA(t *testing.T) {
	made, err := MakeCerts(CertOptions{Dir: t.TempDir(), Nodes: []string{"n1"}, CAValid: time.Hour, Now: time.Now()})
	if err != nil || !made[1].NotAfter.Equal(made[0].NotAfter) {
		t.Errorf("%+v, %v", made, err)
	}
}

// That a certificate ends, or the CA that it needs, is said from two weeks before, once a
// day, until there is a new one.
func TestTheEndOfACertificateIsSaidBefore(t *testing.T) {
	start := time.Now()
	now := start
	day := func(n float64) { now = start.Add(time.Duration(n * 24 * float64(time.Hour))) }
	for what, valid := range map[string]CertOptions{
		"the certificate": {Valid: 30 * 24 * time.Hour},
		"its CA":          {CAValid: 30 * 24 * time.Hour},
	} {
		day(0)
		valid.Dir, valid.Nodes, valid.Now = t.TempDir(), []string{"n1"}, now
		if _, err := MakeCerts(valid); err != nil {
			t.Fatal(err)
		}
		var book logBook
		c, err := loadClusterTLS(certFilesOf(valid.Dir, "n1"), book.logger(), func() time.Time { return now })
		if err != nil {
			t.Fatal(err)
		}
		said := func(want int) {
			t.Helper()
			c.WarnOfEnd()
			book.mu.Lock()
			defer book.mu.Unlock()
			if got := strings.Count(book.text.String(), "ends soon, or has ended"); got != want {
				t.Errorf("%s, after %s: said %d times, want %d", what, now.Sub(start), got, want)
			}
		}
		for _, at := range []struct {
			day  float64
			said int
		}{{0, 0}, {15.9, 0}, {16.1, 1}, {17, 1}, {17.2, 2}, {31, 3}, {31.1, 3}} {
			day(at.day)
			said(at.said)
		}
		if got := c.NotAfter().Sub(start).Round(24 * time.Hour); got != 30*24*time.Hour {
			t.Errorf("%s ends after %s", what, got)
		}
		next := t.TempDir()
		if _, err := MakeCerts(CertOptions{Dir: next, Nodes: []string{"n1"}, Now: now}); err != nil {
			t.Fatal(err)
		}
		c.files = certFilesOf(next, "n1")
		day(40)
		said(3)
	}
}

// A certificate that is there before its time is taken when that has come, and the log tells
// once what it waits for.
func TestACertificateOfTomorrow(t *testing.T) {
	start := time.Now()
	now := start
	made := func(at time.Time) ClusterTLSFiles {
		dir := t.TempDir()
		if _, err := MakeCerts(CertOptions{Dir: dir, Nodes: []string{"n1"}, Now: at}); err != nil {
			t.Fatal(err)
		}
		return certFilesOf(dir, "n1")
	}
	var book logBook
	c, err := loadClusterTLS(made(start), book.logger(), func() time.Time { return now })
	if err != nil {
		t.Fatal(err)
	}
	first := c.NotAfter()
	tomorrow := start.Add(24 * time.Hour)
	c.files = made(tomorrow)
	for range 3 {
		now = now.Add(time.Minute)
		c.get()
	}
	if got := c.NotAfter(); !got.Equal(first) {
		t.Errorf("the one in use ends %s, want %s", got, first)
	}
	now = tomorrow
	c.get()
	if got := c.NotAfter(); !got.After(first) {
		t.Errorf("the one in use still ends %s", got)
	}
	for words, want := range map[string]int{"cannot be used": 1, "was replaced": 1} {
		if got := strings.Count(book.text.String(), words); got != want {
			t.Errorf("%q is said %d times, want %d:\n%s", words, got, want, book.text.String())
		}
	}
}

// A certificate that is made to outlive its CA is good for as long as that is.
func TestACertificateEndsWithItsCA(t *testing.T) {
	dir := t.TempDir()
	if _, err := MakeCerts(CertOptions{Dir: dir, Nodes: []string{"n1"}, CAValid: 24 * time.Hour, Now: time.Now()}); err != nil {
		t.Fatal(err)
	}
	c := identityOf(t, dir, "n1")
	leaf := strangerOf(t, dir).issue(func(c *x509.Certificate) { c.NotAfter = time.Now().Add(1000 * time.Hour) }, "n1.harepost.internal").Leaf
	ends, err := c.verify([]*x509.Certificate{leaf}, c.current.Load().roots, x509.ExtKeyUsageServerAuth)
	if err != nil || ends.After(time.Now().Add(25*time.Hour)) {
		t.Errorf("it ends %s, %v", ends, err)
	}
}
