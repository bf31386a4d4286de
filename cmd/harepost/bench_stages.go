package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/harepost/harepost/bench/stages"
)

type benchStagesCmd struct {
	Files []string  `arg:"" name:"profile" type:"existingfile" help:"CPU profiles, as bench throughput --profile-dir writes them."`
	CPU   []float64 `name:"cpu-us" sep:"," placeholder:"N" help:"Microseconds of CPU that a delivery costs, as bench throughput measured it: one for each profile, in their order. Without it there are shares only."`
	JSON  bool      `name:"json" env:"HAREPOST_JSON" help:"Print JSON."`
}

// mostProfiles bounds a table to what a screen is wide enough for.
const mostProfiles = 8

// Run reads the profiles and prints them side by side.
func (c *benchStagesCmd) Run(sh *shell) error {
	if err := c.validate(); err != nil {
		return err
	}
	columns := make([]stages.Column, len(c.Files))
	for i, name := range columnNames(c.Files) {
		b, err := readProfile(c.Files[i])
		if err != nil {
			return err
		}
		columns[i] = stages.Column{Name: name, Breakdown: *b}
		if len(c.CPU) > 0 {
			columns[i].PerDelivery = time.Duration(c.CPU[i] * float64(time.Microsecond))
		}
	}
	if c.JSON {
		return stages.WriteJSON(sh.out, columns)
	}
	return stages.WriteText(sh.out, columns)
}

func (c *benchStagesCmd) validate() error {
	if len(c.Files) > mostProfiles {
		return fmt.Errorf("%d profiles, at most %d fit side by side", len(c.Files), mostProfiles)
	}
	if len(c.CPU) > 0 && len(c.CPU) != len(c.Files) {
		return fmt.Errorf("--cpu-us has %d numbers for %d profiles", len(c.CPU), len(c.Files))
	}
	for _, us := range c.CPU {
		if !(us > 0 && us < 1e9) { // what is no number is refused too
			return errors.New("--cpu-us wants microseconds above 0")
		}
	}
	return nil
}

func readProfile(path string) (*stages.Breakdown, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() // nothing is written to it
	b, err := stages.Read(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return b, nil
}

// columnNames are the files' names without their ending, and with the directory
// where several are called the same.
func columnNames(files []string) []string {
	name := func(file string) string { return strings.TrimSuffix(filepath.Base(file), ".prof") }
	count := map[string]int{}
	for _, file := range files {
		count[name(file)]++
	}
	var names []string
	for _, file := range files {
		n := name(file)
		if count[n] > 1 {
			n = strings.TrimSuffix(file, ".prof")
		}
		names = append(names, n)
	}
	return names
}
