package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
)

// BeforeResolve is called by kong when the command line and the environment
// have been read: it adds the file that --config names, if any.
func (c *serveCmd) BeforeResolve(ctx *kong.Context) error {
	node := ctx.Selected()
	flag := findFlag(node, "config")
	name, _ := ctx.FlagValue(flag).(string)
	if name == "" {
		return nil
	}
	f, err := os.Open(name)
	if err != nil {
		return usagef("--config: %w", err)
	}
	defer f.Close()
	values, err := parseConfigFile(f, node)
	if err != nil {
		return usagef("--config %s: %w", name, err)
	}
	ctx.AddResolver(configValues(values))
	return nil
}

func findFlag(node *kong.Node, name string) *kong.Flag {
	for _, f := range node.Flags {
		if f.Name == name {
			return f
		}
	}
	return nil
}

// parseConfigFile reads "flag = value" lines. Empty lines and lines that begin
// with # are skipped; there is no quoting: a value is what stands after the
// first = without the blanks around it. An unknown or repeated flag is an error,
// because it is most likely a slip, and so are quotes. Values are tried here,
// where it is known in which line they stand.
func parseConfigFile(r io.Reader, node *kong.Node) (map[string]string, error) {
	values := make(map[string]string)
	lines := bufio.NewScanner(r)
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		name, value, ok := strings.Cut(line, "=")
		name, value = strings.TrimSpace(name), strings.TrimSpace(value)
		switch _, repeated := values[name]; {
		case !ok:
			return nil, fmt.Errorf("line %d is not \"flag = value\"", n)
		case name == "config" || findFlag(node, name) == nil:
			return nil, fmt.Errorf("line %d: there is no flag %q", n, name)
		case repeated:
			return nil, fmt.Errorf("line %d: %s stands there twice", n, name)
		}
		if err := checkConfigValue(findFlag(node, name), value); err != nil {
			return nil, fmt.Errorf("line %d: %s: %w", n, name, err)
		}
		values[name] = value
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	return values, nil
}

// checkConfigValue tells whether the flag takes the value, as kong will see it.
func checkConfigValue(flag *kong.Flag, value string) error {
	if n := len(value); n >= 2 && value[0] == value[n-1] && (value[0] == '"' || value[0] == '\'') {
		return errors.New("a value stands there without quotes, they would be part of it")
	}
	if flag.Enum != "" && !slices.Contains(flag.EnumSlice(), value) {
		return fmt.Errorf("it must be one of %s, not %q", strings.Join(flag.EnumSlice(), ", "), value)
	}
	scan := kong.ScanFromTokens(kong.Token{Type: kong.FlagValueToken, Value: value})
	return flag.Mapper.Decode(&kong.DecodeContext{Value: flag.Value, Scan: scan}, reflect.New(flag.Target.Type()).Elem())
}

// configValues gives kong the file's values for flags that neither the command
// line nor the environment set. (kong would let them win over the environment.)
type configValues map[string]string

// Validate is part of kong.Resolver; the names were checked while reading.
func (configValues) Validate(*kong.Application) error { return nil }

// Resolve is part of kong.Resolver.
func (v configValues) Resolve(_ *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
	value, ok := v[flag.Name]
	if !ok {
		return nil, nil
	}
	for _, env := range flag.Envs {
		if _, set := os.LookupEnv(env); set {
			return nil, nil
		}
	}
	return value, nil
}
