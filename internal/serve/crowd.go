package serve

import (
	"container/list"
	"net"
	"net/http"
	"sync"
)

// crowd bounds the connections. When there are too many, the one goes that has waited longest for
// its (next) request: who holds connections open without asking, or sends a header byte by byte,
// loses them to who asks. A client whose connection goes makes a new one for its next request.
type crowd struct {
	most, sendBuffer int
	log              *lines

	mu      sync.Mutex
	all     map[net.Conn]*list.Element // nil: it has a request, which is being answered
	waiting *list.List                 // of net.Conn
}

func newCrowd(most, sendBuffer int, log *lines) *crowd {
	return &crowd{most: most, sendBuffer: sendBuffer, log: log, all: map[net.Conn]*list.Element{}, waiting: list.New()}
}

// changed is http.Server's ConnState. A connection is new until the header of its first request is
// there, and idle until that of the next one is.
func (c *crowd) changed(conn net.Conn, state http.ConnState) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if state == http.StateNew {
		if tcp, ok := conn.(*net.TCPConn); ok {
			_ = tcp.SetWriteBuffer(c.sendBuffer) // it has the kernel's own size otherwise
		}
		if len(c.all) < c.most || c.makeRoom(conn) {
			c.all[conn] = c.waiting.PushBack(conn)
		}
		return
	}
	place, known := c.all[conn]
	if !known { // it was closed here
		return
	}
	if place != nil {
		c.waiting.Remove(place)
	}
	switch state {
	case http.StateActive:
		c.all[conn] = nil
	case http.StateIdle:
		c.all[conn] = c.waiting.PushBack(conn)
	default:
		delete(c.all, conn)
	}
}

// makeRoom closes the connection that waits longest. Where all are being answered it closes the
// next one instead: false.
func (c *crowd) makeRoom(next net.Conn) bool {
	oldest := c.waiting.Front()
	if oldest == nil {
		c.log.say("%d connections at once, all with a request: another one is closed", c.most)
		_ = next.Close()
		return false
	}
	c.log.say("%d connections at once: for each new one the one is closed that has waited longest for a request", c.most)
	gone := c.waiting.Remove(oldest).(net.Conn)
	delete(c.all, gone)
	_ = gone.Close()
	return true
}

// answering is how many connections have a request that is being answered.
func (c *crowd) answering() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.all) - c.waiting.Len()
}
