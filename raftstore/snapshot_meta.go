package raftstore

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"time"

	"github.com/hashicorp/raft"
)

// A SnapshotMeta is what the store knows of a snapshot.
type SnapshotMeta struct {
	raft.SnapshotMeta // Size is 0 except of what Open opens

	// Applied is the index up to which the state holds everything that belongs to
	// the snapshot. A durable state that holds less has lost something. Of a snapshot
	// that was received it may be beyond the snapshot's index, and beyond the end of
	// the log until that has caught up: what is between is committed.
	Applied uint64

	Received bool      // from another node
	Bytes    int64     // that were received
	Created  time.Time // or received, by this node's clock
}

// snapshotFormat is the version of meta.json and of what lies beside it.
const snapshotFormat = 1

// snapshotFile is meta.json. Its checksum is that of the bytes of Snapshot without
// white space between them, so that it may be formatted by whoever reads it.
type snapshotFile struct {
	Format   int             `json:"format"`
	Snapshot json.RawMessage `json:"snapshot"`
	CRC32C   string          `json:"crc32c"`
}

type snapshotRow struct {
	ID                 string      `json:"id"`
	Index              uint64      `json:"index"`
	Term               uint64      `json:"term"`
	Configuration      []serverRow `json:"configuration"`
	ConfigurationIndex uint64      `json:"configuration_index"`
	Applied            uint64      `json:"applied"`
	Received           bool        `json:"received"`
	Bytes              int64       `json:"bytes_received,omitempty"`
	Created            time.Time   `json:"created_at"`
}

type serverRow struct {
	ID       string `json:"id"`
	Address  string `json:"address"`
	Suffrage string `json:"suffrage"` // as raft spells it
}

var snapshotSums = crc32.MakeTable(crc32.Castagnoli)

func sumOf(compact []byte) string { return fmt.Sprintf("%08x", crc32.Checksum(compact, snapshotSums)) }

func (m *SnapshotMeta) encode() ([]byte, error) {
	row := snapshotRow{
		ID: m.ID, Index: m.Index, Term: m.Term, ConfigurationIndex: m.ConfigurationIndex,
		Applied: m.Applied, Received: m.Received, Bytes: m.Bytes, Created: m.Created.UTC(),
	}
	for _, s := range m.Configuration.Servers {
		row.Configuration = append(row.Configuration, serverRow{string(s.ID), string(s.Address), s.Suffrage.String()})
	}
	compact, err := json.Marshal(&row)
	if err != nil {
		return nil, err
	}
	b, err := json.MarshalIndent(&snapshotFile{snapshotFormat, compact, sumOf(compact)}, "", "  ")
	return append(b, '\n'), err
}

// The errors of a meta.json. Their texts end what says which one it is.
var (
	errFutureSnapshot  = errors.New("it was written by a later version of harepost: start that version, or a newer one")
	errDamagedSnapshot = errors.New("it is damaged")
)

func decodeSnapshotMeta(b []byte) (SnapshotMeta, error) {
	var file snapshotFile
	if err := json.Unmarshal(b, &file); err != nil {
		return SnapshotMeta{}, fmt.Errorf("%w: %w", errDamagedSnapshot, err)
	}
	if file.Format > snapshotFormat {
		return SnapshotMeta{}, fmt.Errorf("format %d, this one reads up to %d: %w", file.Format, snapshotFormat, errFutureSnapshot)
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, file.Snapshot); err != nil {
		return SnapshotMeta{}, fmt.Errorf("%w: %w", errDamagedSnapshot, err)
	}
	if sum := sumOf(compact.Bytes()); file.Format < 1 || sum != file.CRC32C {
		return SnapshotMeta{}, fmt.Errorf("%w: format %d, checksum %s, not %s", errDamagedSnapshot, file.Format, sum, file.CRC32C)
	}
	var row snapshotRow
	if err := json.Unmarshal(file.Snapshot, &row); err != nil {
		return SnapshotMeta{}, fmt.Errorf("%w: %w", errDamagedSnapshot, err)
	}
	m := SnapshotMeta{
		SnapshotMeta: raft.SnapshotMeta{
			Version: raft.SnapshotVersionMax, ID: row.ID, Index: row.Index, Term: row.Term, ConfigurationIndex: row.ConfigurationIndex,
		},
		Applied: row.Applied, Received: row.Received, Bytes: row.Bytes, Created: row.Created,
	}
	for _, s := range row.Configuration {
		suffrage, ok := suffrages[s.Suffrage]
		if !ok {
			return SnapshotMeta{}, fmt.Errorf("%w: server %s is a %q", errDamagedSnapshot, s.ID, s.Suffrage)
		}
		m.Configuration.Servers = append(m.Configuration.Servers,
			raft.Server{ID: raft.ServerID(s.ID), Address: raft.ServerAddress(s.Address), Suffrage: suffrage})
	}
	return m, nil
}

var suffrages = map[string]raft.ServerSuffrage{
	raft.Voter.String(): raft.Voter, raft.Nonvoter.String(): raft.Nonvoter, raft.Staging.String(): raft.Staging,
}

// A snapshotID is the name of a snapshot, and of its directory: INDEX-TERM-NUMBER.
// The number tells those of one index apart.
type snapshotID struct{ index, term, number uint64 }

func (i snapshotID) String() string { return fmt.Sprintf("%d-%d-%d", i.index, i.term, i.number) }

func parseSnapshotID(name string) (i snapshotID, ok bool) {
	n, err := fmt.Sscanf(name, "%d-%d-%d", &i.index, &i.term, &i.number)
	return i, err == nil && n == 3 && i.String() == name
}

// compare orders snapshots by age, the newest last. In one log no term is followed by a
// lower one; of two logs, as several nodes have from which a lost cluster is made anew,
// that counts which ends in the higher term, and it may be the shorter one.
func (i snapshotID) compare(j snapshotID) int {
	return cmp.Or(cmp.Compare(i.term, j.term), cmp.Compare(i.index, j.index), cmp.Compare(i.number, j.number))
}
