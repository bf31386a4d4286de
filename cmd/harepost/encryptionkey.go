package main

import (
	"crypto/rand"
	"fmt"
	"time"

	"github.com/harepost/harepost/engine/seal"
)

type encryptionKeyCmd struct {
	ID string `name:"id" placeholder:"NAME" help:"The key's name, of letters, digits, '-', '_' and '.'. Default: k and today's date."`
}

// Help is shown by kong under the usage line.
func (c *encryptionKeyCmd) Help() string {
	return `Keep the file where backups of the data do not go: without it the data cannot be read, with it anyone can.

    (umask 077; harepost encryption-key > keys)
    harepost serve --encryption-key-file keys ...

To rotate, put a new line before the others and start the server again; the older lines can go once it has started.`
}

// Run prints a new key's line.
func (c *encryptionKeyCmd) Run(sh *shell) error {
	id := c.ID
	if id == "" {
		id = "k" + time.Now().UTC().Format("2006-01-02")
	}
	line, err := seal.NewKeyLine(rand.Reader, id)
	if err != nil {
		return exitWith(exitUsage, fmt.Errorf("--id: %w", err))
	}
	_, err = fmt.Fprintln(sh.out, line)
	return err
}
