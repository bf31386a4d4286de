package command

import (
	"github.com/harepost/harepost/engine/lane"
	"github.com/harepost/harepost/engine/wire"
)

// AppendPutLane appends the command that replaces what is set for a lane; one of
// nothing takes it away. Payload: see lane.Setting.
func AppendPutLane(dst []byte, s *lane.Setting) []byte {
	return s.Append(head(dst, KindPutLane))
}

// ReadPutLane decodes the payload. The name aliases it.
func ReadPutLane(r *wire.Reader) (s lane.Setting, err error) {
	s.Read(r)
	return s, finish(r)
}
