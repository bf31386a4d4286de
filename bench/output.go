package bench

import (
	"errors"
	"io"
	"os"

	"github.com/harepost/harepost/bench/report"
)

// write writes the report to w and to the files that the options name.
func (o *Options) write(r *report.Report, w io.Writer) error {
	text := r.WriteText
	if o.JSON {
		text = r.WriteJSON
	}
	err := text(w)
	if o.Output != "" {
		err = errors.Join(err, writeFile(o.Output, r.WriteJSON))
	}
	if o.HTML != "" {
		err = errors.Join(err, writeFile(o.HTML, r.WriteHTML))
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
