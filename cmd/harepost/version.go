package main

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"
)

// buildInfo is what the Go toolchain wrote into this binary.
type buildInfo struct {
	Version  string `json:"version"`  // module version, or "devel" when built from a work tree
	Revision string `json:"revision"` // commit, empty when unknown
	Modified bool   `json:"modified"` // the work tree had changes
	Time     string `json:"time"`     // of the commit, RFC 3339, empty when unknown
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

func readBuildInfo() buildInfo {
	b := buildInfo{Version: "devel", Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return b
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		b.Version = strings.TrimPrefix(v, "v")
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			b.Revision = s.Value
		case "vcs.modified":
			b.Modified = s.Value == "true"
		case "vcs.time":
			b.Time = s.Value
		}
	}
	return b
}

// String is the line that a bug report should begin with.
func (b buildInfo) String() string {
	s := "harepost " + b.Version
	if len(b.Revision) >= 12 && !strings.Contains(b.Version, b.Revision[:12]) { // a pseudo-version has it
		s += " " + b.Revision[:12]
		if b.Modified {
			s += "+changes"
		}
	}
	if b.Time != "" {
		s += " of " + b.Time
	}
	return fmt.Sprintf("%s (%s, %s)", s, b.Go, b.Platform)
}

type versionCmd struct {
	JSON bool `name:"json" env:"HAREPOST_JSON" help:"Print JSON."`
}

// Run prints the version.
func (c *versionCmd) Run(sh *shell) error {
	b := readBuildInfo()
	if c.JSON {
		return printJSON(sh.out, b)
	}
	fmt.Fprintln(sh.out, b)
	return nil
}
