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
	"time"

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

// devAccountName is what the account of --dev is called.
const devAccountName = "dev"

// openDevAccount returns the account of an earlier start: that which the file
// names while it exists, or else that which is called so, as where a backup was
// restored, which does not have the file. Where its key is not valid any more it
// gets another, and note says that. Only where there is no such account, one is
// made.
func openDevAccount(ctx context.Context, e *engine.Engine, dataDir string) (a devAccount, id engine.AccountID, note string, err error) {
	file := filepath.Join(dataDir, devAccountFile)
	if a, err = readDevAccount(file); err != nil {
		return a, 0, "", err
	}
	if id, err = e.Authenticate([]byte(a.APIKey)); err == nil {
		return a, id, "", nil
	} else if !errors.Is(err, engine.ErrUnauthorized) {
		return a, 0, "", fmt.Errorf("dev account: %w", err)
	}
	// Written after the key is durable: a crash between the two leaves a key
	// that nobody has, which is harmless.
	if id, note = findDevAccount(ctx, e, a); id != 0 {
		_, a.APIKey, err = e.CreateKey(ctx, id)
	} else {
		var made engine.NewAccount
		made, err = e.CreateAccount(ctx, devAccountName)
		id, a.APIKey = made.Account.ID, made.APIKey
	}
	if err != nil {
		return a, 0, "", fmt.Errorf("dev account: %w", err)
	}
	a.AccountID = id.String()
	return a, id, note, writeDevAccount(file, a)
}

// findDevAccount finds the account that kept, whose key is not valid, stands
// for. It is 0 where there is none.
func findDevAccount(ctx context.Context, e *engine.Engine, kept devAccount) (id engine.AccountID, note string) {
	if id, err := engine.ParseAccountID(kept.AccountID); err == nil {
		if _, err := e.Account(ctx, id); err == nil {
			return id, fmt.Sprintf("The key of %s was revoked: this is a new one, for the same account.", kept.AccountID)
		}
	}
	if kept.AccountID != "" {
		note = fmt.Sprintf("The account %s, which %s named, does not exist any more: ", kept.AccountID, devAccountFile)
	}
	if id = oldestCalled(ctx, e, devAccountName); id != 0 {
		if note != "" {
			return id, note + fmt.Sprintf("this is a new key of %s, which is called %s too.", id, devAccountName)
		}
		return id, fmt.Sprintf("There was no %s beside the account %s (%s): this is a new key of it.", devAccountFile, devAccountName, id)
	}
	if note != "" {
		note += "this is a new account, without its deliveries."
	}
	return 0, note
}

// oldestCalled is the oldest account of that name, 0 where there is none.
func oldestCalled(ctx context.Context, e *engine.Engine, name string) (oldest engine.AccountID) {
	var since time.Time
	for _, id := range e.Accounts() {
		a, err := e.Account(ctx, id)
		if err == nil && a.Name == name && (oldest == 0 || a.CreatedAt.Before(since)) {
			oldest, since = id, a.CreatedAt
		}
	}
	return oldest
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
		return a, fmt.Errorf("dev account: %s: %w (remove the file to get a new key)", file, err)
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
	a, id, note, err := openDevAccount(ctx, p.engine, p.cfg.DataDir)
	if err != nil {
		return err
	}
	secret, err := p.engine.SigningSecret(ctx, id)
	if err != nil {
		return fmt.Errorf("dev account: %w", err)
	}
	if note != "" {
		note = "\n" + note + "\n"
	}
	printDevAccount(sh.out, p.url(), p.curl("/v1/send"), note, a, secret)
	return nil
}

// printDevAccount prints what to paste next.
func printDevAccount(w io.Writer, url, curl, note string, a devAccount, secret string) {
	p := painterFor(w)
	fmt.Fprintf(w, `
%s on %s
%s
  %s  %s
  %s  %s

Receive in one terminal:

  harepost listen --secret %s

Send in another:

  %s \
    -H 'Authorization: Bearer %s' \
    -H 'Content-Type: application/json' \
    -d '{"target":"http://127.0.0.1:9000/hello","body":{"hello":"world"},"sign":true}'

`, p.bold("Harepost, development mode,"), p.bold(url), note, p.dim("key           "), a.APIKey, p.dim("signing secret"), secret,
		secret, curl, a.APIKey)
}
