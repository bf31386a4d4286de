package bench

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/harepost/harepost/bench/report"
)

// write writes the report to w and to the files that the options name.
func (o *Options) write(r *report.Report, w io.Writer) error {
	text := writeText
	if o.JSON {
		text = writeJSON
	}
	err := text(r, w)
	if o.Output != "" {
		err = errors.Join(err, writeFile(o.Output, func(w io.Writer) error { return writeJSON(r, w) }))
	}
	if o.HTML != "" {
		err = errors.Join(err, writeFile(o.HTML, func(w io.Writer) error { return writeHTML(r, w) }))
	}
	return err
}

func writeFile(path string, write func(io.Writer) error) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(write(f), f.Close())
}

func writeText(r *report.Report, w io.Writer) error { return writeJSON(r, w) }

func writeHTML(*report.Report, io.Writer) error { return fmt.Errorf("no HTML form yet") }

func writeJSON(r *report.Report, w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(r)
}
