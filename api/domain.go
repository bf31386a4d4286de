package api

import (
	"errors"
	"net/netip"
	"strings"

	"github.com/valyala/fasthttp"
	"golang.org/x/net/publicsuffix"

	"github.com/harepost/harepost/engine"
)

// addDomain is POST /v1/domains: 201, or 200 with the same record when the
// account has the domain already.
func (s *Server) addDomain(c *call) error {
	name, w, err := s.domainOfBody(c)
	if err != nil {
		return err
	}
	d, created, err := s.engine.AddDomain(s.ctx, c.account, name)
	if err != nil {
		return err
	}
	status := fasthttp.StatusOK
	if created {
		status = fasthttp.StatusCreated
	}
	b := append([]byte(nil), '{')
	b = appendDomainFields(b, &d)
	b = append(b, `,"created_at":`...)
	b = appendTime(b, d.CreatedAt)
	b = append(b, `,"verified_at":`...)
	b = appendTimeOrNull(b, d.VerifiedAt)
	b = w.appendWarnings(b)
	writeJSON(c.http, status, append(b, '}', '\n'))
	return nil
}

// verifyDomain is POST /v1/domains/verify. A domain that is still pending is
// the engine's *DomainPendingError, a 409.
func (s *Server) verifyDomain(c *call) error {
	name, w, err := s.domainOfBody(c)
	if err != nil {
		return err
	}
	d, err := s.engine.VerifyDomain(s.ctx, c.account, name)
	if err != nil {
		return err
	}
	b := append([]byte(nil), `{"domain":`...)
	b = appendString(b, d.Name)
	b = append(b, `,"status":"verified","verified_at":`...)
	b = appendTime(b, d.VerifiedAt)
	b = w.appendWarnings(b)
	writeJSON(c.http, fasthttp.StatusOK, append(b, '}', '\n'))
	return nil
}

// listDomains is GET /v1/domains. The engine bounds an account's domains, so
// they are one page.
func (s *Server) listDomains(c *call) error {
	list, err := s.engine.Domains(s.ctx, c.account)
	if err != nil {
		return err
	}
	b := append([]byte(nil), `{"data":[`...)
	for i := range list {
		d := &list[i]
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, `{"domain":`...)
		b = appendString(b, d.Name)
		b = append(b, `,"status":"`...)
		b = append(b, domainStatus(d)...)
		b = append(b, `","created_at":`...)
		b = appendTime(b, d.CreatedAt)
		b = append(b, `,"verified_at":`...)
		b = appendTimeOrNull(b, d.VerifiedAt)
		b = append(b, '}')
	}
	b = s.noParameter(c).appendWarnings(append(b, ']'))
	writeJSON(c.http, fasthttp.StatusOK, append(b, '}', '\n'))
	return nil
}

// getDomain is GET /v1/domains/{domain}.
func (s *Server) getDomain(c *call) error {
	name, err := domainName(c.param)
	if err != nil {
		return errNotFound // no such domain can have been added
	}
	d, err := s.engine.Domain(s.ctx, c.account, name)
	if err != nil {
		return err
	}
	b := append([]byte(nil), '{')
	b = appendDomainFields(b, &d)
	b = append(b, `,"created_at":`...)
	b = appendTime(b, d.CreatedAt)
	b = append(b, `,"verified_at":`...)
	b = appendTimeOrNull(b, d.VerifiedAt)
	writeJSON(c.http, fasthttp.StatusOK, append(b, '}', '\n'))
	return nil
}

// deleteDomain is DELETE /v1/domains/{domain}: 204.
func (s *Server) deleteDomain(c *call) error {
	name, err := domainName(c.param)
	if err != nil {
		return errNotFound
	}
	if err := s.engine.DeleteDomain(s.ctx, c.account, name); err != nil {
		return err
	}
	c.http.SetStatusCode(fasthttp.StatusNoContent)
	return nil
}

// appendDomainFields appends domain, status and record.
func appendDomainFields(b []byte, d *engine.Domain) []byte {
	b = append(b, `"domain":`...)
	b = appendString(b, d.Name)
	b = append(b, `,"status":"`...)
	b = append(b, domainStatus(d)...)
	b = append(b, `","record":{"type":"TXT","name":`...)
	b = appendString(b, engine.ChallengeLabel+d.Name)
	b = append(b, `,"value":`...)
	b = appendString(b, engine.ChallengePrefix+d.Token)
	return append(b, '}')
}

func domainStatus(d *engine.Domain) string {
	if d.VerifiedAt.IsZero() {
		return "pending"
	}
	return "verified"
}

// domainOfBody reads {"domain": string}.
func (s *Server) domainOfBody(c *call) (string, *warnings, error) {
	text, w, err := s.stringMember(c, "domain")
	if err != nil {
		return "", nil, err
	}
	name, err := domainName(text)
	if err != nil {
		return "", nil, refused("domain", err.Error())
	}
	return name, w, nil
}

// domainName returns the canonical form of a domain that somebody can own. The
// error is a reason in words for the caller.
//
// A public suffix is refused, ICANN's and the private section of the list
// alike: below it, names belong to strangers. What is not on the list at all is
// taken as it is, so that names of one's own DNS work.
func domainName(text string) (string, error) {
	switch {
	case strings.Contains(text, "://"):
		return "", errors.New("leave the scheme out, give the domain name alone")
	case strings.ContainsAny(text, "/?#"):
		return "", errors.New("leave the path out, give the domain name alone")
	case strings.Contains(text, "*"):
		return "", errors.New("wildcards are not needed: a domain covers its subdomains")
	case strings.Contains(text, "@"):
		return "", errors.New("give the domain name alone")
	}
	if _, err := netip.ParseAddr(strings.Trim(text, "[]")); err == nil {
		return "", errors.New("an IP address cannot be verified")
	}
	if strings.Contains(text, ":") {
		return "", errors.New("leave the port out, give the domain name alone")
	}
	name, err := hostName(text)
	if err != nil {
		return "", err
	}
	if _, err := netip.ParseAddr(name); err == nil {
		return "", errors.New("an IP address cannot be verified") // spelled with other digits
	}
	if !strings.Contains(name, ".") {
		return "", errors.New("a single label is not a domain anybody can own")
	}
	if suffix, _ := publicsuffix.PublicSuffix(name); suffix == name {
		return "", errors.New(name + " is a public suffix, which many people have names under")
	}
	if len(engine.ChallengeLabel)+len(name) > maxHostBytes {
		return "", errors.New("it is too long to have the challenge record below it")
	}
	return name, nil
}
