package tcp

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pair returns a Conn and the ordinary connection at its other end.
func pair(t *testing.T) (*Conn, *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	near, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	far, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	c, err := New(near.(*net.TCPConn))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); far.Close() })
	return c, far.(*net.TCPConn)
}

// What is written arrives, whatever the sizes, through a socket that is full
// most of the time.
func TestEverythingArrives(t *testing.T) {
	c, far := pair(t)
	c.SetWriteBuffer(16 << 10)
	far.SetReadBuffer(16 << 10)
	random := rand.New(rand.NewPCG(1, 2))
	sent := make([]byte, 8<<20)
	for i := range sent {
		sent[i] = byte(random.Uint32())
	}
	echoed := make(chan error, 1)
	go func() {
		_, err := io.Copy(far, far)
		echoed <- errors.Join(err, far.CloseWrite())
	}()
	written := make(chan error, 1)
	go func() {
		for rest := sent; len(rest) > 0; {
			n := min(len(rest), 1+random.IntN(2*mostBytes))
			if wrote, err := c.Write(rest[:n]); err != nil || wrote != n {
				written <- errors.Join(err, errors.New("a short write"))
				return
			}
			rest = rest[n:]
		}
		written <- c.CloseWrite()
	}()
	var got bytes.Buffer
	buf := make([]byte, 2*mostBytes)
	sizes := rand.New(rand.NewPCG(3, 4))
	for {
		n, err := c.Read(buf[:1+sizes.IntN(len(buf))])
		got.Write(buf[:n])
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(<-written, <-echoed); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Bytes(), sent) {
		t.Fatalf("%d bytes came back, and not the %d that were sent", got.Len(), len(sent))
	}
}

// Errors tell what an ordinary connection's tell.
func TestErrors(t *testing.T) {
	one := make([]byte, 1)
	t.Run("timeout", func(t *testing.T) {
		c, far := pair(t)
		c.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
		_, err := c.Read(one)
		var timeout net.Error
		if !errors.Is(err, os.ErrDeadlineExceeded) || !errors.As(err, &timeout) || !timeout.Timeout() {
			t.Errorf("read: %v, not a timeout", err)
		}
		far.SetReadBuffer(4 << 10)
		c.SetWriteDeadline(time.Now().Add(20 * time.Millisecond))
		for err = nil; err == nil; {
			_, err = c.Write(make([]byte, mostBytes))
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("write: %v, not a timeout", err)
		}
		c.SetDeadline(time.Time{})
		far.Write(one)
		if n, err := c.Read(one); n != 1 || err != nil {
			t.Errorf("after a timeout that was taken back: %d, %v", n, err)
		}
	})
	t.Run("end", func(t *testing.T) {
		c, far := pair(t)
		far.CloseWrite()
		if n, err := c.Read(one); n != 0 || err != io.EOF {
			t.Errorf("%d, %v, not the end", n, err)
		}
	})
	t.Run("reset", func(t *testing.T) {
		c, far := pair(t)
		far.SetLinger(0)
		far.Close()
		if _, err := c.Read(one); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("read: %v, not a reset", err)
		}
		var err error
		for range 3 {
			_, err = c.Write(one)
		}
		if !errors.Is(err, syscall.EPIPE) {
			t.Errorf("write: %v, not a broken pipe", err)
		}
	})
	t.Run("closed", func(t *testing.T) {
		c, _ := pair(t)
		waiting := make(chan error, 1)
		go func() {
			_, err := c.Read(make([]byte, 1))
			waiting <- err
		}()
		c.Close()
		if err := <-waiting; !errors.Is(err, net.ErrClosed) {
			t.Errorf("a read that waited: %v", err)
		}
		if _, err := c.Write(one); !errors.Is(err, net.ErrClosed) {
			t.Errorf("a write: %v", err)
		}
	})
}

// Reading and writing allocate nothing.
func TestAllocations(t *testing.T) {
	c, far := pair(t)
	stop := make(chan struct{})
	go func() {
		defer close(stop)
		io.Copy(far, far)
	}()
	buf := make([]byte, 300)
	if n := testing.AllocsPerRun(200, func() {
		if _, err := c.Write(buf); err != nil {
			t.Error(err)
		}
		if _, err := io.ReadFull(c, buf); err != nil {
			t.Error(err)
		}
	}); n > 0.5 {
		t.Errorf("%v allocations for a message there and back", n)
	}
	c.Close()
	<-stop
}
