// Command apidocs writes the API reference from the OpenAPI file, so that the
// two cannot differ. Usage: apidocs OPENAPI.JSON > REFERENCE.MD. Its test
// fails while docs/api-reference.md is not what it would write now; the make
// target api-docs writes it.
package main

import (
	"fmt"
	"os"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: apidocs OPENAPI.JSON")
		os.Exit(2)
	}
	text, err := os.ReadFile(os.Args[1])
	if err == nil {
		text, err = reference(text)
	}
	if err == nil {
		_, err = os.Stdout.Write(text)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "apidocs:", err)
		os.Exit(1)
	}
}
