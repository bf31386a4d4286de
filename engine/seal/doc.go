// Package seal encrypts what the deliveries of an account carry, before any of
// it enters the log: headers, bodies, the parts of responses that are kept, and
// signing secrets. Log, state and backups then hold only ciphertext.
//
// [OpenKeyring] reads the master keys from a file. Every account has a data key
// of its own, drawn by [Keyring.NewDataKey], which is kept with the account in
// wrapped form, encrypted with the active master key. [Keyring.Unwrap] gives
// the [Box] that seals and opens.
//
// # Keys
//
//	master key   from the file, never on the server's disk otherwise
//	 └ data key  one an account, wrapped: AES-256-GCM, random nonce, bound to
//	   │         the account's id
//	   ├ delivery key  HKDF-Expand(SHA-256) of the data key and the delivery's
//	   │               id: AES-256-GCM, random nonce, bound to the field
//	   ├ text key      the same for signing secrets
//	   └ hash key      HMAC-SHA256 of what makes sends duplicates
//
// A key per delivery keeps the number of random nonces under one key tiny,
// whatever an account sends: with one key for all, the bound of NIST SP 800-38D
// (2^32 seals) would be passed within a day at high volume. It also binds every
// ciphertext to its delivery: moved to another, it does not open.
//
// Rotating a master key rewraps the data keys and touches nothing else.
//
// # What it protects, and what not
//
// Protected: against someone who gets the data directory, a disk, a snapshot
// or a backup, and not the key file. Contents cannot be read, and cannot be
// changed or exchanged unnoticed.
//
// Not protected: against someone who can read the memory of the process or the
// key file; against someone who can write the data directory and removes or
// rolls back whole records. In clear text stay what the server must find things
// by and what describes a delivery: the target with its URL, the method, the
// idempotency key, labels, metadata, times, sizes, statuses, and the names of
// accounts and domains. A secret does not belong into those.
package seal
