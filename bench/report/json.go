package report

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
)

// Bounds of what Read takes. A soak of a day with ten numbers a second is a fifth
// of them.
const (
	maxJSONBytes = 128 << 20
	maxRounds    = 100_000
)

// WriteJSON writes the report for programs: itself, and beside it the groups and
// ratios that follow from its rounds. Numbers that are not finite are left out,
// as JSON has none. It is one line: indented, a long timeline is three times as
// large.
func (r *Report) WriteJSON(w io.Writer) error {
	clean := r.finite()
	clean.Format = FormatVersion
	err := json.NewEncoder(w).Encode(struct {
		*Report
		Groups []Group  `json:"groups"`
		Ratios []Ratio  `json:"ratios"`
		Warns  []string `json:"warnings,omitempty"`
	}{clean, clean.Groups(), clean.Ratios(), clean.Warnings()})
	if err != nil {
		return fmt.Errorf("report: write as JSON: %w", err)
	}
	return nil
}

// finite is the report without numbers that JSON cannot say. A measurement of
// hours is not to be lost for a division by zero in one of its values.
func (r *Report) finite() *Report {
	out := *r
	out.Rounds = make([]Round, len(r.Rounds))
	for i, round := range r.Rounds {
		round.Values = finiteValues(round.Values)
		round.Latencies = finiteLatencies(round.Latencies)
		timeline := make([]Sample, len(round.Timeline))
		for j, s := range round.Timeline {
			timeline[j] = Sample{s.AtMS, finiteValues(s.Values)}
		}
		round.Timeline = timeline
		out.Rounds[i] = round
	}
	out.Findings = nil
	for _, f := range r.Findings {
		if finite(f.Value) {
			out.Findings = append(out.Findings, f)
		} else {
			out.Notes = append(out.Notes[:len(out.Notes):len(out.Notes)], f.Name+" has no number")
		}
	}
	return &out
}

func finiteValues(values map[string]float64) map[string]float64 {
	out := maps.Clone(values)
	maps.DeleteFunc(out, func(_ string, v float64) bool { return !finite(v) })
	return out
}

func finiteLatencies(latencies map[string]Distribution) map[string]Distribution {
	out := maps.Clone(latencies)
	maps.DeleteFunc(out, func(_ string, d Distribution) bool { return d.check() != nil })
	return out
}

// check says what is wrong with a distribution, if something is.
func (d Distribution) check() error {
	if !finite(d.MeanMS) || !finite(d.MaxMS) {
		return errors.New("its mean or its greatest value is no number")
	}
	for i, q := range d.Quantiles {
		if !finite(q.MS) || !(0 <= q.Percent && q.Percent <= 100) {
			return fmt.Errorf("quantiles[%d]: %v %% is %v ms", i, q.Percent, q.MS)
		}
		if i > 0 && q.Percent <= d.Quantiles[i-1].Percent {
			return fmt.Errorf("quantiles[%d]: %v %% does not come after %v %%", i, q.Percent, d.Quantiles[i-1].Percent)
		}
	}
	return nil
}

// Read reads what WriteJSON wrote. It takes fields it does not know, and refuses
// any other format than its own.
func Read(in io.Reader) (*Report, error) { return read(in, maxJSONBytes) }

func read(in io.Reader, mostBytes int) (*Report, error) {
	text, err := io.ReadAll(io.LimitReader(in, int64(mostBytes)+1))
	if err != nil {
		return nil, fmt.Errorf("report: read: %w", err)
	}
	if len(text) > mostBytes {
		return nil, fmt.Errorf("report: read: more than %s of JSON", quantity(float64(mostBytes), "B"))
	}
	// The format first: of another one, no other field may be judged.
	var head struct {
		Format *int `json:"format"`
	}
	if err := decode(text, &head); err != nil {
		return nil, err
	}
	if head.Format == nil {
		return nil, errors.New(`report: read: the field "format" is missing: this is no report`)
	}
	if *head.Format != FormatVersion {
		return nil, fmt.Errorf(`report: read: the field "format" is %d, and this program reads %d`, *head.Format, FormatVersion)
	}
	r := new(Report)
	if err := decode(text, r); err != nil {
		return nil, err
	}
	if err := r.validate(); err != nil {
		return nil, fmt.Errorf("report: read: %w", err)
	}
	return r, nil
}

// decode names the field of a wrong type, or the place of a syntax error.
func decode(text []byte, into any) error {
	err := json.Unmarshal(text, into)
	var wrongType *json.UnmarshalTypeError
	var syntax *json.SyntaxError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &wrongType) && wrongType.Field != "":
		return fmt.Errorf("report: read: the field %q is a JSON %s, want a %s", wrongType.Field, wrongType.Value, wrongType.Type)
	case errors.As(err, &syntax):
		return fmt.Errorf("report: read: at byte %d: %w", syntax.Offset, err)
	default:
		return fmt.Errorf("report: read: %w", err)
	}
}

// validate names the first field without which nothing can be said.
func (r *Report) validate() error {
	if r.Scenario == "" {
		return errors.New(`the field "scenario" is missing or empty`)
	}
	if len(r.Rounds) > maxRounds {
		return fmt.Errorf(`the field "rounds" has %d rounds, more than %d`, len(r.Rounds), maxRounds)
	}
	for i, round := range r.Rounds {
		if round.System == "" {
			return fmt.Errorf(`the field "rounds[%d].system" is missing or empty`, i)
		}
		if !finite(round.Load.Value) {
			return fmt.Errorf(`the field "rounds[%d].load.value" is %v, beyond %v`, i, round.Load.Value, greatest)
		}
		if round.Number < 1 {
			return fmt.Errorf(`the field "rounds[%d].number" is %d, want at least 1`, i, round.Number)
		}
		for name, d := range round.Latencies {
			if err := d.check(); err != nil {
				return fmt.Errorf(`the field "rounds[%d].latencies[%q]": %w`, i, name, err)
			}
		}
	}
	return nil
}
