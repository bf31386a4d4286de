package engine

import (
	"context"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/harepost/harepost/engine/seal"
)

// The text of an API key is in no file, with a key file and without one: not of
// an account's first key, not of further ones, used, revoked or of an account
// that is deleted. Its first characters are, for recognition, which shows that
// the search finds what is there.
func TestKeyTextIsInNoFile(t *testing.T) {
	for name, keys := range map[string]*seal.Keyring{"clear": nil, "encrypted": newKeyring(t, newKeyLine(t, "k1"))} {
		t.Run(name, func(t *testing.T) {
			fs := vfs.NewMem()
			e := openWith(t, fs, keys)
			ctx := context.Background()
			var texts, prefixes []string
			var leaves AccountID
			for range 3 {
				made, err := e.CreateAccount(ctx, "test")
				if err != nil {
					t.Fatal(err)
				}
				leaves = made.Account.ID
				texts = append(texts, made.APIKey)
				for n := range 2 {
					k, text, err := e.CreateKey(ctx, leaves)
					if err != nil {
						t.Fatal(err)
					}
					texts, prefixes = append(texts, text), append(prefixes, k.Prefix)
					if _, err := e.Authenticate([]byte(text)); err != nil {
						t.Fatal(err)
					}
					if n == 1 {
						if err := e.RevokeKey(ctx, leaves, k.ID); err != nil {
							t.Fatal(err)
						}
					}
				}
			}
			if err := e.DeleteAccount(ctx, leaves); err != nil {
				t.Fatal(err)
			}
			var secrets []string
			for _, text := range texts {
				secrets = append(secrets, text, text[len("hp_live_")+4:]) // without what is shown of it
			}
			for range 2 { // in the log, and after a restart in the state
				closeEngine(t, e)
				if found := holds(t, fs, "data", secrets...); len(found) > 0 {
					t.Errorf("the text of an API key is on disk: %v", found)
				}
				if found := holds(t, fs, "data", prefixes...); len(found) == 0 {
					t.Error("not even the prefix of a key is found: the search sees nothing")
				}
				e = openWith(t, fs, keys)
			}
			closeEngine(t, e)
		})
	}
}
