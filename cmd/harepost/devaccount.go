package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/harepost/harepost/engine"
)

// devAccountFile holds the account of --dev, in the data directory.
const devAccountFile = "dev-account.json"

// A devAccount is the account that serve --dev keeps for the person at the
// keyboard. The engine has only the hash of its key, so the key stands in
// devAccountFile.
type devAccount struct {
	AccountID string `json:"account_id"`
	APIKey    string `json:"api_key"`
}

// openDevAccount returns the account of an earlier start, or a new one when
// there is none or its key was revoked.
func openDevAccount(ctx context.Context, e *engine.Engine, dataDir string) (devAccount, engine.AccountID, error) {
	file := filepath.Join(dataDir, devAccountFile)
	kept, err := readDevAccount(file)
	if err != nil {
		return devAccount{}, 0, err
	}
	if id, err := e.Authenticate([]byte(kept.APIKey)); err == nil {
		return kept, id, nil
	} else if !errors.Is(err, engine.ErrUnauthorized) {
		return devAccount{}, 0, fmt.Errorf("dev account: %w", err)
	}
	made, err := e.CreateAccount(ctx, "dev")
	if err != nil {
		return devAccount{}, 0, fmt.Errorf("dev account: %w", err)
	}
	// Written after the account is durable: a crash between the two leaves an
	// account that nobody has the key of, which is harmless.
	kept = devAccount{AccountID: made.Account.ID.String(), APIKey: made.APIKey}
	return kept, made.Account.ID, writeDevAccount(file, kept)
}

// readDevAccount returns the zero devAccount when there is no file.
func readDevAccount(file string) (devAccount, error) {
	var a devAccount
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return a, nil
	}
	if err == nil {
		err = json.Unmarshal(text, &a)
	}
	if err != nil {
		return a, fmt.Errorf("dev account: %s: %w (remove the file to get a new account)", file, err)
	}
	return a, nil
}

// writeDevAccount replaces the file as a whole, readable by its owner alone.
func writeDevAccount(file string, a devAccount) error {
	text, err := json.Marshal(a)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(file), devAccountFile+".*") // mode 0600
	if err != nil {
		return fmt.Errorf("dev account: %w", err)
	}
	defer os.Remove(f.Name()) // gone already when all went well
	_, err = f.Write(append(text, '\n'))
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), file)
	}
	if err != nil {
		return fmt.Errorf("dev account: %w", err)
	}
	return nil
}

// showDevAccount opens the account of --dev and prints how to use it.
func (p *program) showDevAccount(sh *shell) error {
	ctx := context.WithoutCancel(sh.ctx) // a signal that comes now is run's to see
	a, id, err := openDevAccount(ctx, p.engine, p.cfg.DataDir)
	if err != nil {
		return err
	}
	secret, err := p.engine.SigningSecret(ctx, id)
	if err != nil {
		return fmt.Errorf("dev account: %w", err)
	}
	printDevAccount(sh.out, p.url(), a, secret)
	return nil
}

// printDevAccount prints what to paste next.
func printDevAccount(w io.Writer, url string, a devAccount, secret string) {
	p := painterFor(w)
	fmt.Fprintf(w, `
%s on %s

  %s  %s
  %s  %s

Receive in one terminal:

  harepost listen --secret %s

Send in another:

  curl -sS %s/v1/send \
    -H 'Authorization: Bearer %s' \
    -H 'Content-Type: application/json' \
    -d '{"target":"http://127.0.0.1:9000/hello","body":{"hello":"world"},"sign":true}'

`, p.bold("Harepost, development mode,"), p.bold(url), p.dim("key           "), a.APIKey, p.dim("signing secret"), secret,
		secret, url, a.APIKey)
}
