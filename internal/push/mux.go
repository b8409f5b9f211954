package push

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// A command over the shared connection needs no ssh of its own: the master takes requests on its control socket (OpenSSH's PROTOCOL.mux,
// version 4, the same since OpenSSH 5.4). Each ssh that is not started saves 4 to 5 ms of CPU, which is mostly the start of the program.
const (
	muxHello         = 0x00000001
	muxNewSession    = 0x10000002
	muxDenied        = 0x80000002
	muxFailure       = 0x80000003
	muxExit          = 0x80000004
	muxSessionOpened = 0x80000006

	muxVersion    = 4
	muxNoEscape   = 0xffffffff
	muxLongest    = 256 << 10 // bytes of an answer
	remoteOutMost = 1 << 20   // bytes of a command's stdout that are kept
)

// remote runs a command on the member. An *exitError is the command's own verdict; it also ends when the connection is lost.
func (s *Session) remote(ctx context.Context, stdin []byte, command string) (stdout []byte, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(s.ctx, func() { cancel(context.Cause(s.ctx)) })()
	stdout, said, code, err := s.mux(ctx, stdin, command)
	switch {
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case err != nil:
		return nil, fmt.Errorf("%w: %w", ErrLost, err)
	case code != 0:
		return nil, &exitError{code: code, said: said}
	}
	return stdout, nil
}

// mux runs it over the control socket.
func (s *Session) mux(ctx context.Context, stdin []byte, command string) (stdout []byte, said string, code int, err error) {
	conn, err := s.dialControl()
	if err != nil {
		return nil, "", 0, err
	}
	streams, err := newStreams()
	if err != nil {
		return nil, "", 0, errors.Join(err, conn.Close())
	}
	// The master ends the command when its control connection closes.
	stop := context.AfterFunc(ctx, func() { _ = conn.Close(); streams.abandon() })
	defer func() {
		stop()
		_ = conn.Close()
		streams.abandon()
		streams.work.Wait()
	}()
	if err := openSession(conn, command, streams.far); err != nil {
		return nil, "", 0, err
	}
	streams.pass(stdin)
	if code, err = exitCode(conn); err != nil {
		return nil, "", 0, err
	}
	streams.read.Wait()
	return streams.stdout.text, streams.stderr.String(), code, nil
}

// dialControl connects by way of the session's folder: a socket's path has room for 107 bytes only.
func (s *Session) dialControl() (*net.UnixConn, error) {
	dir, err := unix.Open(s.dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = unix.Close(dir) }()
	return net.DialUnix("unix", nil, &net.UnixAddr{Net: "unix", Name: fmt.Sprintf("/proc/self/fd/%d/%s", dir, socketName)})
}

// streams are a command's stdin, stdout and stderr: pipes whose far ends the master gets.
type streams struct {
	near, far [3]*os.File
	stdout    limited
	stderr    tail
	read      sync.WaitGroup // stdout and stderr are at their end
	work      sync.WaitGroup // nothing uses near any more
	once      sync.Once
}

func newStreams() (*streams, error) {
	st := &streams{}
	for i := range st.near {
		r, w, err := os.Pipe()
		if err != nil {
			st.abandon()
			return nil, err
		}
		st.near[i], st.far[i] = r, w
	}
	st.near[0], st.far[0] = st.far[0], st.near[0] // we write to stdin
	return st, nil
}

// pass lets go of the far ends, and moves what goes through the near ones.
func (st *streams) pass(stdin []byte) {
	for _, f := range st.far {
		_ = f.Close()
	}
	st.work.Go(func() {
		_, _ = st.near[0].Write(stdin) // a command that does not read it says so itself
		_ = st.near[0].Close()
	})
	for i, to := range []io.Writer{&st.stdout, &st.stderr} {
		st.read.Add(1)
		st.work.Go(func() {
			defer st.read.Done()
			_, _ = io.Copy(to, st.near[i+1])
		})
	}
}

// abandon ends all that goes on.
func (st *streams) abandon() {
	st.once.Do(func() {
		for i := range st.near {
			if st.near[i] != nil {
				_, _ = st.near[i].Close(), st.far[i].Close()
			}
		}
	})
}

// limited keeps the beginning.
type limited struct{ text []byte }

func (l *limited) Write(p []byte) (int, error) {
	l.text = append(l.text, p[:min(len(p), remoteOutMost-len(l.text))]...)
	return len(p), nil
}

// openSession asks for a command. The three descriptors go over one by one, each with a byte.
func openSession(conn *net.UnixConn, command string, files [3]*os.File) error {
	hello := binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, muxHello), muxVersion)
	request := binary.BigEndian.AppendUint32(nil, muxNewSession)
	for _, field := range []uint32{0 /* request id */, 0 /* reserved: an empty string */, 0 /* tty */, 0 /* X11 */, 0 /* agent */, 0, /* subsystem */
		muxNoEscape, 0 /* terminal: an empty string */, uint32(len(command))} {
		request = binary.BigEndian.AppendUint32(request, field)
	}
	request = append(request, command...)
	for _, packet := range [][]byte{hello, request} {
		if _, err := conn.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(packet))), packet...)); err != nil {
			return err
		}
	}
	for _, f := range files {
		if _, _, err := conn.WriteMsgUnix([]byte{0}, unix.UnixRights(int(f.Fd())), nil); err != nil {
			return err
		}
	}
	kind, rest, err := readPacket(conn)
	if err == nil && (kind != muxHello || len(rest) < 4 || binary.BigEndian.Uint32(rest) != muxVersion) {
		return fmt.Errorf("ssh's control socket speaks another protocol: message %#x", kind)
	}
	if err == nil {
		kind, rest, err = readPacket(conn)
	}
	switch {
	case err != nil:
		return err
	case kind == muxSessionOpened:
		return nil
	case (kind == muxDenied || kind == muxFailure) && len(rest) > 8: // request id, then a string
		return fmt.Errorf("ssh refuses a session: %s", rest[8:])
	default:
		return fmt.Errorf("ssh's control socket answers with message %#x", kind)
	}
}

// exitCode waits for the end of the command, and for the master to have passed on all of its output.
func exitCode(conn *net.UnixConn) (int, error) {
	code, told := 0, false
	for {
		kind, rest, err := readPacket(conn)
		switch {
		case errors.Is(err, io.EOF) && told:
			return code, nil
		case errors.Is(err, io.EOF):
			return 0, errors.New("no exit code came back")
		case err != nil:
			return 0, err
		case kind == muxExit && len(rest) == 8: // session id, exit code
			code, told = int(binary.BigEndian.Uint32(rest[4:])), true
		}
	}
}

func readPacket(conn io.Reader) (kind uint32, rest []byte, err error) {
	var head [4]byte
	if _, err := io.ReadFull(conn, head[:]); err != nil {
		return 0, nil, err
	}
	size := binary.BigEndian.Uint32(head[:])
	if size < 4 || size > muxLongest {
		return 0, nil, fmt.Errorf("ssh's control socket sends a message of %d bytes", size)
	}
	packet := make([]byte, size)
	if _, err := io.ReadFull(conn, packet); err != nil {
		return 0, nil, err
	}
	return binary.BigEndian.Uint32(packet), packet[4:], nil
}
