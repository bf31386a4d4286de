package api

import (
	"strconv"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/harepost/harepost/engine"
)

const maxAccountNameChars = 128

// createAccount is POST /v1/accounts. Its answer is the only time the API key
// is shown.
func (s *Server) createAccount(c *call) error {
	name, w, err := s.stringMember(c, "name")
	if err != nil {
		return err
	}
	if err := checkAccountName(name); err != nil {
		return err
	}
	made, err := s.engine.CreateAccount(s.ctx, name)
	if err != nil {
		return err
	}
	b := append([]byte(nil), `{"account_id":`...)
	b = appendString(b, made.Account.ID.String())
	b = append(b, `,"name":`...)
	b = appendString(b, made.Account.Name)
	b = append(b, `,"api_key":`...)
	b = appendString(b, made.APIKey)
	b = append(b, `,"signing_secret":`...)
	b = appendString(b, made.SigningSecret)
	b = append(b, `,"created_at":`...)
	b = appendTime(b, made.Account.CreatedAt)
	b = w.appendWarnings(b)
	writeSecret(c, fasthttp.StatusCreated, append(b, '}', '\n'))
	return nil
}

func checkAccountName(name string) error {
	if n, ok := isPrintable([]byte(name)); !ok || n == 0 || n > maxAccountNameChars {
		return refused("name", "it must have 1 to "+strconv.Itoa(maxAccountNameChars)+
			" printable characters, without a space at either end")
	}
	return nil
}

// listKeys is GET /v1/keys. The engine bounds an account's keys, so they are
// one page.
func (s *Server) listKeys(c *call) error {
	keys, err := s.engine.Keys(s.ctx, c.account)
	if err != nil {
		return err
	}
	b := append([]byte(nil), `{"data":[`...)
	for i := range keys {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, '{')
		b = appendKeyFields(b, &keys[i])
		b = append(b, `,"last_used_at":`...)
		b = appendTimeOrNull(b, keys[i].LastUsed)
		b = append(b, '}')
	}
	b = s.noParameter(c).appendWarnings(append(b, ']'))
	writeJSON(c.http, fasthttp.StatusOK, append(b, '}', '\n'))
	return nil
}

// createKey is POST /v1/keys. It takes no fields and needs no body. Its answer
// is the only time the key is shown.
func (s *Server) createKey(c *call) error {
	w, err := s.noMember(c)
	if err != nil {
		return err
	}
	key, secret, err := s.engine.CreateKey(s.ctx, c.account)
	if err != nil {
		return err
	}
	b := append([]byte(nil), '{')
	b = appendKeyFields(b, &key)
	b = append(b, `,"api_key":`...)
	b = appendString(b, secret)
	b = w.appendWarnings(b)
	writeSecret(c, fasthttp.StatusCreated, append(b, '}', '\n'))
	return nil
}

// deleteKey is DELETE /v1/keys/{id}: 204.
func (s *Server) deleteKey(c *call) error {
	id, err := engine.ParseKeyID(c.param)
	if err != nil {
		return errNotFound
	}
	if err := s.engine.RevokeKey(s.ctx, c.account, id); err != nil {
		return err
	}
	c.http.SetStatusCode(fasthttp.StatusNoContent)
	return nil
}

// getSigningSecret is GET /v1/signing-secret.
func (s *Server) getSigningSecret(c *call) error {
	secret, err := s.engine.SigningSecret(s.ctx, c.account)
	if err != nil {
		return err
	}
	b := append([]byte(nil), `{"signing_secret":`...)
	b = appendString(b, secret)
	writeSecret(c, fasthttp.StatusOK, append(b, '}', '\n'))
	return nil
}

const (
	defaultOverlap = 24 * time.Hour
	maxOverlap     = 30 * 24 * time.Hour
)

// rotateSigningSecret is POST /v1/signing-secret/rotate. Its body may be absent.
func (s *Server) rotateSigningSecret(c *call) error {
	overlap := defaultOverlap
	w, err := s.optionalMembers(c.http.PostBody(), func(d *decoder, name []byte) error {
		if string(name) != "overlap_seconds" {
			return d.skipUnknown(name)
		}
		n, given, err := d.whole("overlap_seconds")
		if err != nil || !given {
			return err
		}
		const most = int64(maxOverlap / time.Second)
		if n < 0 || n > most {
			return invalid("overlap_seconds", strconv.FormatInt(n, 10), "from 0 to "+strconv.FormatInt(most, 10))
		}
		overlap = time.Duration(n) * time.Second
		return nil
	})
	if err != nil {
		return err
	}
	made, err := s.engine.RotateSigningSecret(s.ctx, c.account, overlap)
	if err != nil {
		return err
	}
	b := append([]byte(nil), `{"signing_secret":`...)
	b = appendString(b, made.SigningSecret)
	b = append(b, `,"previous_expire_at":`...)
	b = appendTime(b, made.PreviousExpireAt)
	b = w.appendWarnings(b)
	writeSecret(c, fasthttp.StatusOK, append(b, '}', '\n'))
	return nil
}

func appendKeyFields(b []byte, k *engine.Key) []byte {
	b = append(b, `"id":`...)
	b = appendString(b, k.ID.String())
	b = append(b, `,"prefix":`...)
	b = appendString(b, k.Prefix)
	b = append(b, `,"created_at":`...)
	return appendTime(b, k.CreatedAt)
}

// writeSecret answers with what no cache on the way may keep.
func writeSecret(c *call, status int, b []byte) {
	c.http.Response.Header.Set(fasthttp.HeaderCacheControl, "no-store")
	writeJSON(c.http, status, b)
}

// stringMember reads a body whose one known member is a required string.
func (s *Server) stringMember(c *call, field string) (string, *warnings, error) {
	text, found := "", false
	w, err := s.members(c.http.PostBody(), func(d *decoder, name []byte) error {
		if string(name) != field {
			return d.skipUnknown(name)
		}
		v, given, err := d.str(field)
		text, found = string(v), given
		return err
	})
	if err != nil {
		return "", nil, err
	}
	if !found {
		return "", nil, &problem{status: fasthttp.StatusBadRequest, message: field + " is missing", detail: field + " must be a string"}
	}
	return text, w, nil
}

// noMember reads a body that may be absent and has no known member.
func (s *Server) noMember(c *call) (*warnings, error) {
	return s.optionalMembers(c.http.PostBody(), (*decoder).skipUnknown)
}

// optionalMembers is members for a body that may be absent.
func (s *Server) optionalMembers(body []byte, member func(d *decoder, name []byte) error) (*warnings, error) {
	if len(body) == 0 {
		return &warnings{}, nil
	}
	return s.members(body, member)
}

// members reads a body that is one object. member reads the value of each.
func (s *Server) members(body []byte, member func(d *decoder, name []byte) error) (*warnings, error) {
	d := &decoder{}
	d.most = s.o.Warnings
	d.reset(body)
	if err := d.openBody(); err != nil {
		return nil, err
	}
	for {
		name, more, err := d.next()
		if err != nil {
			return nil, err
		}
		if !more {
			return &d.warnings, d.closeBody("object")
		}
		if err := member(d, name); err != nil {
			return nil, err
		}
	}
}
