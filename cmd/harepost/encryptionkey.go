package main

import (
	"crypto/rand"
	"fmt"
	"strings"
	"time"

	"github.com/harepost/harepost/engine/seal"
)

type encryptionKeyCmd struct {
	ID string `name:"id" placeholder:"NAME" help:"The key's name, of letters, digits, '-', '_' and '.'. Default: k, today's date and some random letters. Every line of a file has another."`
}

// Help is shown by kong under the usage line.
func (c *encryptionKeyCmd) Help() string {
	return `Keep the file where backups of the data do not go: without it the data cannot be read, with it anyone can.

    (umask 077; harepost encryption-key > keys)
    harepost serve --encryption-key-file keys ...

To rotate, put a new line before the others and start the server again; the older lines can go once it has started, but backups from before still need them. A key keeps its name for good.`
}

// Run prints a new key's line.
func (c *encryptionKeyCmd) Run(sh *shell) error {
	id := c.ID
	if id == "" {
		id = newKeyID(time.Now())
	}
	line, err := seal.NewKeyLine(rand.Reader, id)
	if err != nil {
		return exitWith(exitUsage, fmt.Errorf("--id: %w", err))
	}
	_, err = fmt.Fprintln(sh.out, line)
	return err
}

// newKeyID tells when a key was made, and is another one for every key: two of a
// day may stand in one file, and two files of a day are not taken for each other.
func newKeyID(now time.Time) string {
	const letters = 8 // 40 bits
	return "k" + now.UTC().Format(time.DateOnly) + "-" + strings.ToLower(rand.Text()[:letters])
}
