//go:build race

package tcp

// ordinary has connections read and written as net.TCPConn does: the race
// detector knows what happened before what by the calls read and write, and not
// by these.
const ordinary = true
