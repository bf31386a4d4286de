package api

import (
	"context"
	"errors"
	"io"
	"net"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/harepost/harepost/engine"
)

// getBackup is GET /v1/backup: a copy of everything, as a tar stream. What goes
// wrong after its beginning breaks the stream off: there is no end of chunks, and
// no sums at the end of the tar.
func (s *Server) getBackup(c *call) error {
	b, err := s.engine.Backup(s.ctx)
	if err != nil {
		return err
	}
	b.Manifest.Version = s.o.Version
	h := &c.http.Response.Header
	h.SetContentType("application/x-tar")
	h.Set(fasthttp.HeaderContentDisposition, `attachment; filename="harepost-`+b.Manifest.CreatedAt.Format("20060102-150405")+`.tar"`)
	h.Set(fasthttp.HeaderCacheControl, "no-store")
	if c.http.IsHead() {
		return b.Close()
	}
	c.http.SetBodyStream(s.streamBackup(b, c.http.Conn()), -1)
	return nil
}

// streamBackup is the backup as something to read. fasthttp closes it when the
// answer is written, or cannot be.
func (s *Server) streamBackup(b *engine.Backup, conn net.Conn) io.ReadCloser {
	ctx, cancel := context.WithCancel(s.ctx)
	r, w := io.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		err := errors.Join(b.Write(ctx, w), b.Close())
		if err != nil && ctx.Err() == nil {
			s.log.Error("a backup was broken off", "error", err)
		}
		w.CloseWithError(err)
	}()
	return &backupStream{PipeReader: r, conn: conn, patience: s.o.WriteTimeout, end: func() { cancel(); <-done }}
}

// backupStream gives the connection its time to write anew for each piece: what
// counts is that the other side goes on reading, not how large a backup is.
type backupStream struct {
	*io.PipeReader
	conn     net.Conn
	patience time.Duration
	end      func()
}

func (b *backupStream) Read(p []byte) (int, error) {
	if err := b.conn.SetWriteDeadline(time.Now().Add(b.patience)); err != nil {
		return 0, err
	}
	return b.PipeReader.Read(p)
}

// Close ends the backup, finished or not, and waits until nothing is left of it.
func (b *backupStream) Close() error {
	err := b.PipeReader.Close()
	b.end()
	return err
}
