package api

import (
	"strconv"

	"github.com/valyala/fasthttp"

	"github.com/harepost/harepost/engine"
)

// The routes of whoever runs the server, behind the admin token.

// listAccounts is GET /v1/accounts, by id. The cursor is the id of the last
// account seen.
func (s *Server) listAccounts(c *call) error {
	limit := defaultPage
	var after engine.AccountID
	w := warnings{most: s.o.Warnings}
	for k, v := range c.http.QueryArgs().All() {
		if len(v) == 0 && mayBeEmpty(string(k)) {
			continue
		}
		var err error
		switch string(k) {
		case "limit":
			limit, err = parseLimit(string(v))
		case "cursor":
			if after, err = engine.ParseAccountID(string(v)); err != nil {
				err = invalid("cursor", "not one of ours", "the next_cursor of a page, unchanged")
			}
		default:
			w.unknownParameter(string(k))
		}
		if err != nil {
			return err
		}
	}
	list, next, err := s.engine.ListAccounts(s.ctx, after, limit)
	if err != nil {
		return err
	}
	b := append([]byte(nil), `{"data":[`...)
	for i := range list {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendAccount(b, &list[i])
		b = append(b, '}')
	}
	b = append(b, `],"next_cursor":`...)
	if next == 0 {
		b = append(b, "null"...)
	} else {
		b = appendString(b, next.String())
	}
	b = w.appendWarnings(b)
	writeJSON(c.http, fasthttp.StatusOK, append(b, '}', '\n'))
	return nil
}

// getAccount is GET /v1/accounts/{id}.
func (s *Server) getAccount(c *call) error {
	id, err := engine.ParseAccountID(c.param)
	if err != nil {
		return errNotFound
	}
	a, err := s.engine.Account(s.ctx, id)
	if err != nil {
		return err
	}
	s.writeAccount(c, &a, &warnings{})
	return nil
}

// changeAccount is PATCH /v1/accounts/{id}: what is not named stays.
func (s *Server) changeAccount(c *call) error {
	id, err := engine.ParseAccountID(c.param)
	if err != nil {
		return errNotFound
	}
	var change engine.AccountChange
	w, err := s.members(c.http.PostBody(), func(d *decoder, name []byte) error {
		return accountField(d, name, &change)
	})
	if err != nil {
		return err
	}
	a, err := s.engine.ChangeAccount(s.ctx, id, change)
	if err != nil {
		return err
	}
	s.writeAccount(c, &a, w)
	return nil
}

// accountField reads one member of a change. Null means "not given", but for
// the rate it is the way back to the server's default.
func accountField(d *decoder, name []byte, change *engine.AccountChange) error {
	switch string(name) {
	case "name":
		v, given, err := d.str("name")
		if err != nil || !given {
			return err
		}
		text := string(v)
		change.Name = &text
		return checkAccountName(text)
	case "suspended":
		v, given, err := d.boolean("suspended")
		if given {
			change.Suspended = &v
		}
		return err
	case "rate_limit_per_minute":
		n, given, err := d.whole("rate_limit_per_minute")
		if err != nil {
			return err
		}
		rate := int(n)
		switch {
		case !given:
			rate = 0
		case n == 0:
			rate = engine.NoRateLimit
		case n < 0 || n > engine.MaxRatePerMinute:
			return invalid("rate_limit_per_minute", strconv.FormatInt(n, 10),
				"from 1 to "+strconv.Itoa(engine.MaxRatePerMinute)+", 0 for no limit, or null for the server's default")
		}
		change.RatePerMinute = &rate
		return nil
	}
	return d.skipUnknown(name)
}

// deleteAccount is DELETE /v1/accounts/{id}: 204.
func (s *Server) deleteAccount(c *call) error {
	id, err := engine.ParseAccountID(c.param)
	if err != nil {
		return errNotFound
	}
	if err := s.engine.DeleteAccount(s.ctx, id); err != nil {
		return err
	}
	c.http.SetStatusCode(fasthttp.StatusNoContent)
	return nil
}

func (s *Server) writeAccount(c *call, a *engine.Account, w *warnings) {
	b := w.appendWarnings(appendAccount(nil, a))
	writeJSON(c.http, fasthttp.StatusOK, append(b, '}', '\n'))
}

// appendAccount opens an account's object and leaves it open.
func appendAccount(b []byte, a *engine.Account) []byte {
	b = append(b, `{"account_id":`...)
	b = appendString(b, a.ID.String())
	b = append(b, `,"name":`...)
	b = appendString(b, a.Name)
	b = append(b, `,"rate_limit_per_minute":`...)
	switch a.RatePerMinute {
	case 0:
		b = append(b, "null"...)
	case engine.NoRateLimit:
		b = append(b, '0')
	default:
		b = strconv.AppendInt(b, int64(a.RatePerMinute), 10)
	}
	b = append(b, `,"suspended":`...)
	b = strconv.AppendBool(b, a.Suspended)
	b = append(b, `,"created_at":`...)
	return appendTime(b, a.CreatedAt)
}
