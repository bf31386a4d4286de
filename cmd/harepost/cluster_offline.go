package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/harepost/harepost/engine"
	"github.com/harepost/harepost/engine/seal"
	"github.com/harepost/harepost/raftstore"
	"github.com/harepost/harepost/transport"
)

// clusterOfflineCmds are the commands about the directory of a node that is not
// running.
type clusterOfflineCmds struct {
	Detach  clusterDetachCmd  `cmd:"" help:"Make the data directory of the only node of a cluster a single node's. Offline."`
	Recover clusterRecoverCmd `cmd:"" help:"Go on with what one node holds when the majority of the cluster is lost for good. Offline."`
}

// nodeDir names the directory that such a command works on.
type nodeDir struct {
	DataDir string `name:"data-dir" env:"HAREPOST_DATA_DIR" required:"" placeholder:"DIR" help:"The node's data directory. No server may have it open."`
	JSON    bool   `name:"json" env:"HAREPOST_JSON" help:"Print JSON."`
}

// lock keeps servers away from the directory until the file is closed.
func (d *nodeDir) lock() (*os.File, error) {
	if restoreInterrupted(d.DataDir) {
		return nil, interruptedRestore(d.DataDir)
	}
	f, err := lockDataDir(d.DataDir)
	if isLocked(err) {
		return nil, fmt.Errorf("a server has %s open: stop it first (%w)", d.DataDir, err)
	}
	return f, err
}

type clusterDetachCmd struct {
	nodeDir `embed:""`
	Force   bool `name:"force" help:"Also if the cluster has other members. They must be gone for good: what both hold would be delivered by both."`
}

// Help is shown by kong under the usage line.
func (c *clusterDetachCmd) Help() string {
	return `All that was sent stays. The directory is started without the flags of a cluster then, as before it was one. Remove the other nodes first: harepost cluster remove.`
}

// Run removes from the directory what is the cluster's.
func (c *clusterDetachCmd) Run(sh *shell) (err error) {
	lock, err := c.lock()
	if err != nil {
		return fmt.Errorf("cluster detach: %w", err)
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	if err := raftstore.Detach(vfs.Default, c.DataDir, walDir, stateDir, c.Force); err != nil {
		return fmt.Errorf("cluster detach: %w", err)
	}
	if c.JSON {
		return printJSON(sh.out, struct {
			DataDir  string `json:"data_dir"`
			Detached bool   `json:"detached"`
		}{c.DataDir, true})
	}
	_, err = fmt.Fprintf(sh.out, "%s is a single node's directory now: start it without --node-id, --join-token and the other flags and variables of a cluster\n", c.DataDir)
	return err
}

type clusterRecoverCmd struct {
	nodeDir           `embed:""`
	NodeID            string `name:"node-id" env:"HAREPOST_NODE_ID" required:"" placeholder:"ID" help:"The node whose directory it is."`
	Peers             string `name:"peers" placeholder:"FILE" help:"The members from now on, as JSON: [{\"id\": \"n1\", \"address\": \"10.0.0.1:7400\"}, ...]. Default: this node alone."`
	EncryptionKeyFile string `name:"encryption-key-file" env:"HAREPOST_ENCRYPTION_KEY_FILE" placeholder:"FILE" help:"That of serve, where the data is encrypted."`
}

// Help is shown by kong under the usage line.
func (c *clusterRecoverCmd) Help() string {
	return `For when the majority is lost and does not come back: as long as it may, wait, for what this node does not hold is lost by this command. Make a copy of the directory first.

If several nodes are left, run it on each of them with the same --peers FILE; the one that is most up to date will lead. The cluster gets a new id: nodes of the old one that come back are refused, and join anew with an empty directory. When it was interrupted, run it again.`
}

// Run recovers the directory.
func (c *clusterRecoverCmd) Run(sh *shell) error {
	o, err := c.options()
	if err != nil {
		return err
	}
	r, err := c.recover(sh, o)
	if err != nil {
		return fmt.Errorf("cluster recover: %w", err)
	}
	lost := uint64(0)
	if r.Known > r.Index {
		lost = r.Known - r.Index
	}
	if c.JSON {
		return printJSON(sh.out, struct {
			DataDir  string             `json:"data_dir"`
			Old      string             `json:"old_cluster"`
			New      string             `json:"new_cluster"`
			Members  []raftstore.Server `json:"members"`
			Index    uint64             `json:"index"`
			Unproven uint64             `json:"unproven_entries"`
			Missing  uint64             `json:"entries_missing"`
			Lost     uint64             `json:"entries_known_lost"`
		}{c.DataDir, r.OldCluster, r.NewCluster, r.Servers, r.Index, r.Unproven, r.Missing, lost})
	}
	p := painterFor(sh.out)
	fmt.Fprintf(sh.out, "%s  cluster %s, made of %s as of log index %d\n", p.bold(c.DataDir), r.NewCluster, r.OldCluster, r.Index)
	for _, s := range r.Servers {
		fmt.Fprintf(sh.out, "  member %s at %s\n", s.ID, s.Address)
	}
	fmt.Fprintf(sh.out, "the last %d entries may not have been acknowledged; they count now\n", r.Unproven)
	if r.Missing > 0 {
		fmt.Fprintf(sh.out, "%s: this node had got its state from another one, and %d entries that belong to it not yet; what was accepted by them, and not attempted, is not here\n", p.red("lost"), r.Missing)
	}
	if lost > 0 {
		fmt.Fprintf(sh.out, "%s: at least %d entries that were acknowledged are not here\n", p.red("lost"), lost)
	} else if r.Missing == 0 {
		fmt.Fprintln(sh.out, "what the lost nodes had acknowledged without this one is lost; this one knows of none")
	}
	_, err = fmt.Fprintln(sh.out, "start it as before, without --bootstrap-expect; add nodes with empty directories and --join")
	return err
}

func (c *clusterRecoverCmd) options() (o raftstore.RecoverOptions, err error) {
	o = raftstore.RecoverOptions{FS: vfs.Default, Dir: c.DataDir, NodeID: c.NodeID}
	if c.Peers != "" {
		text, err := os.ReadFile(c.Peers)
		if err != nil {
			return o, usagef("--peers: %w", err)
		}
		if err := json.Unmarshal(text, &o.Peers); err != nil {
			return o, usagef("--peers: %s: %w", c.Peers, err)
		}
		if len(o.Peers) == 0 {
			return o, usagef("--peers: %s names no node", c.Peers)
		}
	}
	if c.EncryptionKeyFile != "" {
		if o.Engine.Keyring, err = seal.OpenKeyring(c.EncryptionKeyFile); err != nil {
			return o, usagef("--encryption-key-file: %w", err)
		}
	}
	return o, nil
}

// recover locks the directory, and has an engine read it that delivers nothing.
func (c *clusterRecoverCmd) recover(sh *shell, o raftstore.RecoverOptions) (r raftstore.Recovered, err error) {
	lock, err := c.lock()
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	o.Logger = slog.New(slog.NewTextHandler(sh.err, &slog.HandlerOptions{Level: slog.LevelWarn}))
	unused, err := transport.New(transport.Options{Logger: o.Logger})
	if err != nil {
		return r, err
	}
	defer unused.Close()
	o.Engine = engine.Options{Transport: unused, Keyring: o.Engine.Keyring, Logger: o.Logger}
	return raftstore.RecoverQuorum(sh.ctx, o)
}
