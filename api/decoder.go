package api

import (
	"bytes"
	"errors"
	"io"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/valyala/fasthttp"
)

// A decoder reads one JSON object from a request body, member by member. What
// it returns aliases the body or the decoder's own scratch, and is good until
// reset.
type decoder struct {
	json    jsontext.Decoder
	rd      bytes.Buffer // over src: jsontext then parses src in place
	src     []byte
	text    []byte         // unescaped strings
	objects [2]memberNames // of the objects that are being read
	depth   int
	item    int // of a batch, counted from 1; 0: src is the whole request body
	warnings
}

// subject is what an error calls src.
func (d *decoder) subject() string {
	if d.item > 0 {
		return "batch[" + strconv.Itoa(d.item-1) + "]"
	}
	return "request body"
}

// memberNames are the names seen in one object. Few are compared one by one, a
// request with a hundred thousand is not made to cost their square.
type memberNames struct {
	few  [][]byte
	many map[string]struct{}
}

const fewNames = 16

func (n *memberNames) reset() {
	clear(n.few)
	n.few, n.many = n.few[:0], nil
}

// add reports whether the name is new.
func (n *memberNames) add(name []byte) bool {
	if n.many != nil {
		before := len(n.many)
		n.many[string(name)] = struct{}{}
		return len(n.many) > before
	}
	for _, other := range n.few {
		if bytes.Equal(name, other) {
			return false
		}
	}
	if n.few = append(n.few, name); len(n.few) > fewNames {
		n.many = make(map[string]struct{}, 2*len(n.few))
		for _, name := range n.few {
			n.many[string(name)] = struct{}{}
		}
	}
	return true
}

func (d *decoder) reset(src []byte) {
	d.src = src
	d.text = d.text[:0]
	d.warnings.reset()
	d.rd = *bytes.NewBuffer(src)
	for i := range d.objects {
		d.objects[i].reset()
	}
	d.depth, d.item = 0, 0
	// What is read member by member is checked for duplicates by next; what is
	// taken as a whole (body, metadata) is the receiver's business.
	d.json.Reset(&d.rd, jsontext.AllowDuplicateNames(true))
}

// release lets go of the request, and of a scratch that grew out of the usual.
func (d *decoder) release() {
	d.reset(nil)
	if cap(d.text) > keptBytes {
		d.text = nil
	}
}

// openBody begins to read the request body, or an item of it, which must be an
// object.
func (d *decoder) openBody() error {
	if len(d.src) == 0 {
		return &problem{
			status:  fasthttp.StatusBadRequest,
			message: "request body is empty",
			detail:  "it must be a JSON object",
		}
	}
	given, err := d.open(d.subject())
	if err == nil && !given {
		return invalid(d.subject(), "null", "an object")
	}
	return err
}

// closeBody expects the object, or whatever kind of value was opened, to have
// been read and nothing to follow it.
func (d *decoder) closeBody(kind string) error {
	switch _, err := d.json.ReadToken(); {
	case errors.Is(err, io.EOF):
		return nil
	case err != nil:
		return malformed(err)
	}
	subject := d.subject()
	if d.item == 0 {
		subject = "the " + subject
	}
	return &problem{
		status:  fasthttp.StatusBadRequest,
		message: "malformed JSON",
		detail:  "there is more after the " + kind + " of " + subject,
	}
}

// open enters the object that is the next value; false means that it is null.
func (d *decoder) open(field string) (bool, error) {
	if d.json.PeekKind() == '{' {
		_, err := d.json.ReadToken()
		d.depth++
		d.objects[d.depth-1].reset()
		return err == nil, malformedOrNil(err)
	}
	return false, d.nullOr(field, "an object")
}

// openArray enters the array that is the next value; false means null.
func (d *decoder) openArray(field, allowed string) (bool, error) {
	if d.json.PeekKind() == '[' {
		_, err := d.json.ReadToken()
		return err == nil, malformedOrNil(err)
	}
	return false, d.nullOr(field, allowed)
}

// nullOr reads a value that is of the wrong type unless it is null.
func (d *decoder) nullOr(field, allowed string) error {
	v, err := d.value()
	if err != nil || v.Kind() == 'n' {
		return err
	}
	return invalid(field, kindName(v), allowed)
}

// next returns the next member's name, or false at the object's end, which it
// reads.
func (d *decoder) next() (name []byte, more bool, err error) {
	if d.json.PeekKind() == '}' {
		_, err = d.json.ReadToken()
		d.depth--
		return nil, false, malformedOrNil(err)
	}
	v, err := d.value()
	if err != nil {
		return nil, false, err
	}
	name = d.unquote(v)
	if !d.objects[d.depth-1].add(name) {
		return nil, false, &problem{
			status:  fasthttp.StatusBadRequest,
			message: "malformed JSON",
			detail:  "duplicate member " + quoted(name),
		}
	}
	return name, true, nil
}

// nextElement reports whether the array goes on, and reads its end.
func (d *decoder) nextElement() (bool, error) {
	if d.json.PeekKind() != ']' {
		return true, nil
	}
	_, err := d.json.ReadToken()
	return false, malformedOrNil(err)
}

// value reads one whole value. Its bytes are those of src.
func (d *decoder) value() (jsontext.Value, error) {
	v, err := d.json.ReadValue()
	if err != nil {
		return nil, malformed(err)
	}
	// v is promised only until the next read. The same bytes in src stay.
	end := d.json.InputOffset()
	return d.src[end-int64(len(v)) : end : end], nil
}

// skipUnknown passes over the value of a member that nobody knows.
func (d *decoder) skipUnknown(name []byte) error {
	d.unknownField("", name)
	_, err := d.value()
	return err
}

// str reads a string; false means null.
func (d *decoder) str(field string) ([]byte, bool, error) {
	v, err := d.value()
	switch {
	case err != nil:
		return nil, false, err
	case v.Kind() == 'n':
		return nil, false, nil
	case v.Kind() != '"':
		return nil, false, invalid(field, kindName(v), "a string")
	}
	return d.unquote(v), true, nil
}

// boolean reads a boolean; false, false means null.
func (d *decoder) boolean(field string) (value, given bool, err error) {
	v, err := d.value()
	if err != nil {
		return false, false, err
	}
	switch v.Kind() {
	case 'n':
		return false, false, nil
	case 't', 'f':
		return v.Kind() == 't', true, nil
	}
	return false, false, invalid(field, kindName(v), "true or false")
}

// whole reads a whole number, saturated to int64; false means null.
func (d *decoder) whole(field string) (int64, bool, error) {
	v, err := d.value()
	if err != nil {
		return 0, false, err
	}
	switch v.Kind() {
	case 'n':
		return 0, false, nil
	case '0':
		if n, ok := parseWhole(v); ok {
			return n, true, nil
		}
		return 0, false, invalid(field, clip(v), "a whole number")
	}
	return 0, false, invalid(field, kindName(v), "a whole number")
}

// unquote returns what a JSON string means; v must be valid.
func (d *decoder) unquote(v jsontext.Value) []byte {
	if bytes.IndexByte(v, '\\') < 0 {
		return v[1 : len(v)-1 : len(v)-1]
	}
	start := len(d.text)
	// The scratch may move here; slices of where it was stay good.
	d.text, _ = jsontext.AppendUnquote(d.text, v) // v was checked when it was read
	return d.text[start:len(d.text):len(d.text)]
}

func malformedOrNil(err error) error {
	if err == nil {
		return nil
	}
	return malformed(err)
}

// malformed is the answer to what is not JSON. The decoder's own words say
// where and why.
func malformed(err error) error {
	detail := strings.TrimPrefix(err.Error(), "jsontext: ")
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		detail = "it ends too early"
	}
	return &problem{status: fasthttp.StatusBadRequest, message: "malformed JSON", detail: clip([]byte(detail))}
}

// kindName says what type of value was found.
func kindName(v jsontext.Value) string {
	switch v.Kind() {
	case 'n':
		return "null"
	case 't', 'f':
		return "a boolean"
	case '"':
		return "a string"
	case '0':
		return "a number"
	case '[':
		return "an array"
	}
	return "an object"
}

// clip bounds what of a caller's text is said back to it.
func clip(b []byte) string {
	const most = 200
	if len(b) <= most {
		return string(b)
	}
	return strings.ToValidUTF8(string(b[:most]), "") + "..." // a character may have been cut
}

// quoted is clip in quotes.
func quoted(b []byte) string { return strconv.Quote(clip(b)) }

// isPrintable reports whether s is valid UTF-8 of printable characters, with
// no space at either end, where a header would lose it. It counts them.
func isPrintable(s []byte) (chars int, ok bool) {
	if len(s) > 0 && (s[0] == ' ' || s[len(s)-1] == ' ') {
		return 0, false
	}
	for i := 0; i < len(s); chars++ {
		if c := s[i]; c < utf8.RuneSelf {
			if c < ' ' || c == 0x7f {
				return 0, false
			}
			i++
			continue
		}
		r, size := utf8.DecodeRune(s[i:])
		if r == utf8.RuneError && size == 1 || !unicode.IsPrint(r) {
			return 0, false
		}
		i += size
	}
	return chars, true
}

// warnings are what an answer says beside success. They are bounded: a request
// may have a hundred thousand unknown fields.
type warnings struct {
	list    []string
	most    int
	dropped int
}

func (w *warnings) reset() {
	clear(w.list)
	w.list, w.dropped = w.list[:0], 0
}

func (w *warnings) warn(text string) {
	if len(w.list) == w.most {
		w.dropped++
		return
	}
	w.list = append(w.list, text)
}

func (w *warnings) unknownField(prefix string, name []byte) {
	w.warn("unknown field " + quoted(append([]byte(prefix), name...)) + " ignored")
}

func (w *warnings) unknownParameter(name string) {
	w.warn("unknown query parameter " + quoted([]byte(name)) + " ignored")
}

// noParameter names the query parameters of a route that has none.
func (s *Server) noParameter(c *call) *warnings {
	w := &warnings{most: s.o.Warnings}
	for name := range c.http.QueryArgs().All() {
		w.unknownParameter(string(name))
	}
	return w
}

// appendTo puts the warnings into the object that b ends with.
func (w *warnings) appendTo(b []byte) []byte {
	return append(w.appendWarnings(b[:len(b)-1]), '}')
}

// appendWarnings appends `,"warnings":[...]`, or nothing.
func (w *warnings) appendWarnings(b []byte) []byte {
	if len(w.list) == 0 {
		return b
	}
	b = append(b, `,"warnings":[`...)
	for i, text := range w.list {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendString(b, text)
	}
	if w.dropped > 0 {
		b = append(b, ',')
		b = appendString(b, "and "+strconv.Itoa(w.dropped)+" more")
	}
	return append(b, ']')
}
