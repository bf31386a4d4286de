package api

import (
	"strconv"

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
	if n, ok := isPrintable([]byte(name)); !ok || n == 0 || n > maxAccountNameChars {
		return refused("name", "it must have 1 to "+strconv.Itoa(maxAccountNameChars)+
			" printable characters, without a space at either end")
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
	writeJSON(c.http, fasthttp.StatusOK, append(b, ']', '}', '\n'))
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
	d := &decoder{}
	d.most = s.o.Warnings
	d.reset(c.http.PostBody())
	if err := d.openBody(); err != nil {
		return "", nil, err
	}
	text, found := "", false
	for {
		name, more, err := d.next()
		if err != nil {
			return "", nil, err
		}
		if !more {
			break
		}
		if string(name) != field {
			if err := d.skipUnknown(name); err != nil {
				return "", nil, err
			}
			continue
		}
		v, given, err := d.str(field)
		if err != nil {
			return "", nil, err
		}
		text, found = string(v), given
	}
	if err := d.closeBody(); err != nil {
		return "", nil, err
	}
	if !found {
		return "", nil, &problem{status: fasthttp.StatusBadRequest, message: field + " is missing", detail: field + " must be a string"}
	}
	return text, &d.warnings, nil
}

// noMember reads a body that may be absent and has no known member.
func (s *Server) noMember(c *call) (*warnings, error) {
	d := &decoder{}
	d.most = s.o.Warnings
	if len(c.http.PostBody()) == 0 {
		return &d.warnings, nil
	}
	d.reset(c.http.PostBody())
	if err := d.openBody(); err != nil {
		return nil, err
	}
	for {
		name, more, err := d.next()
		if err != nil {
			return nil, err
		}
		if !more {
			return &d.warnings, d.closeBody()
		}
		if err := d.skipUnknown(name); err != nil {
			return nil, err
		}
	}
}
