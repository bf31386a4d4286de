package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: signs DIR")
		os.Exit(2)
	}
	findings, err := check(os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, "signs:", err)
		os.Exit(2)
	}
	for _, f := range findings {
		fmt.Println(f)
	}
	if len(findings) > 0 {
		os.Exit(1)
	}
}

// A checker gathers what it finds in one tree.
type checker struct {
	files    *token.FileSet
	unsigned map[string]string // directory to one of its files, until a sign is seen
	signed   map[string]bool
	findings []string
}

// check returns the findings below root, in the order of the files.
func check(root string) ([]string, error) {
	c := &checker{files: token.NewFileSet(), unsigned: map[string]string{}, signed: map[string]bool{}}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			return c.enter(root, path, d.Name())
		}
		if filepath.Ext(path) == ".go" {
			return c.file(path)
		}
		return nil
	})
	for dir, file := range c.unsigned {
		if !c.signed[dir] {
			c.findings = append(c.findings, file+":1: package without a doc comment directly above package")
		}
	}
	slices.Sort(c.findings)
	return c.findings, err
}

// enter skips directories that are no part of the module.
func (c *checker) enter(root, path, name string) error {
	if path == root {
		return nil
	}
	if name == "testdata" || name == "vendor" || strings.HasPrefix(name, ".") || strings.HasPrefix(name, "_") {
		return filepath.SkipDir
	}
	if _, err := os.Stat(filepath.Join(path, "go.mod")); err == nil {
		return filepath.SkipDir
	}
	return nil
}

func (c *checker) file(path string) error {
	file, err := parser.ParseFile(c.files, path, nil, parser.ParseComments)
	if err != nil {
		return err
	}
	if !strings.HasSuffix(path, "_test.go") {
		dir := filepath.Dir(path)
		if _, known := c.unsigned[dir]; !known {
			c.unsigned[dir] = path
		}
		c.signed[dir] = c.signed[dir] || file.Doc != nil && strings.TrimSpace(file.Doc.Text()) != ""
	} else if !imports(file, "testing/synctest") {
		c.sleeps(file)
	}
	c.unfinished(file)
	return nil
}

func imports(file *ast.File, path string) bool {
	return slices.ContainsFunc(file.Imports, func(i *ast.ImportSpec) bool { return i.Path.Value == `"`+path+`"` })
}

var unfinished = regexp.MustCompile(`\b(TODO|FIXME)\b`)

func (c *checker) unfinished(file *ast.File) {
	for _, group := range file.Comments {
		for _, comment := range group.List {
			if mark := unfinished.FindString(comment.Text); mark != "" {
				c.report(comment.Pos(), "unfinished work: "+mark)
			}
		}
	}
}

func (c *checker) sleeps(file *ast.File) {
	ast.Inspect(file, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		if s, ok := call.Fun.(*ast.SelectorExpr); ok && s.Sel.Name == "Sleep" {
			if pkg, ok := s.X.(*ast.Ident); ok && pkg.Name == "time" {
				c.report(call.Pos(), "a test that sleeps: step a clock, use testing/synctest, or wait for a condition")
			}
		}
		return true
	})
}

func (c *checker) report(at token.Pos, text string) {
	p := c.files.Position(at)
	c.findings = append(c.findings, fmt.Sprintf("%s:%d: %s", p.Filename, p.Line, text))
}
