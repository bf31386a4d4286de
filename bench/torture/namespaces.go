package torture

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Isolate gives a command that has not started namespaces of its own for network,
// mounts and processes. When its process ends, for whatever reason, so do all
// processes that it has started, and what was mounted and connected is gone.
func Isolate(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:   syscall.CLONE_NEWPID,
		Unshareflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWNET,
		Pdeathsig:    syscall.SIGKILL,
	}
}

// IsolationTools are the commands that an isolated Run needs.
var IsolationTools = []string{"ip", "mkfs.ext4", "e2fsck", "mount", "umount"}

// lookTools adds where administrators' commands lie to the search path.
func lookTools() {
	path := os.Getenv("PATH")
	for _, dir := range []string{"/usr/sbin", "/sbin"} {
		if !strings.Contains(path, dir) {
			path += ":" + dir
		}
	}
	os.Setenv("PATH", path)
}

// A network is what the nodes are connected by.
type network interface {
	world() string   // the address of senders and receiver
	host(int) string // the address of a node
	nodeAt(host string) int

	// start starts a command as a node's process.
	start(node int, cmd *exec.Cmd) error

	// pull takes a node's cable out, plug puts it in again.
	pull(node int) error
	plug(node int) error

	// mute loses what one node sends to another, silently; unmute ends that.
	mute(from, to int) error
	unmute(from, to int) error

	close()
}

// nobody is the node of an address that is none.
const nobody = -1

// A shared network is this machine's loopback: nothing in it can be cut.
type sharedNetwork struct{}

var errNoNetwork = errors.New("torture: the nodes have no network of their own")

func (sharedNetwork) world() string                    { return "127.0.0.1" }
func (sharedNetwork) host(int) string                  { return "127.0.0.1" }
func (sharedNetwork) nodeAt(string) int                { return nobody }
func (sharedNetwork) start(_ int, cmd *exec.Cmd) error { return cmd.Start() }
func (sharedNetwork) pull(int) error                   { return errNoNetwork }
func (sharedNetwork) plug(int) error                   { return errNoNetwork }
func (sharedNetwork) mute(_, _ int) error              { return errNoNetwork }
func (sharedNetwork) unmute(_, _ int) error            { return errNoNetwork }
func (sharedNetwork) close()                           {}

// A bridged network has a namespace for each node, connected to a bridge in ours
// by a pair of devices: port in ours is the end at the bridge, eth0 the other.
type bridgedNetwork struct {
	nodes []*os.File // the namespaces, which exist while these are open
}

func port(node int) string { return fmt.Sprintf("port%d", node+1) }

func openBridgedNetwork(nodes int) (_ *bridgedNetwork, err error) {
	n := new(bridgedNetwork)
	defer func() {
		if err != nil {
			n.close()
		}
	}()
	ours := [][]string{
		{"link", "set", "lo", "up"},
		// Without a spanning tree a plugged cable carries at once.
		{"link", "add", "bridge0", "type", "bridge", "stp_state", "0", "forward_delay", "0"},
		{"address", "add", n.world() + "/24", "dev", "bridge0"},
		{"link", "set", "bridge0", "up"},
	}
	for _, args := range ours {
		if err := ip(nil, args...); err != nil {
			return nil, err
		}
	}
	for node := range nodes {
		if err := n.add(node); err != nil {
			return nil, err
		}
	}
	return n, nil
}

// add makes a node's namespace and connects it.
func (n *bridgedNetwork) add(node int) error {
	var ns *os.File
	err := onOwnThread(func() (err error) {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("torture: network namespace: %w", err)
		}
		ns, err = os.Open("/proc/thread-self/ns/net")
		return err
	})
	if err != nil {
		return err
	}
	n.nodes = append(n.nodes, ns)
	err = ip(ns, "link", "add", port(node), "type", "veth", "peer", "name", "eth0", "netns", "/proc/self/fd/3")
	if err == nil {
		err = ip(nil, "link", "set", port(node), "master", "bridge0", "up")
	}
	if err != nil {
		return err
	}
	for _, args := range [][]string{
		{"link", "set", "lo", "up"},
		{"address", "add", n.host(node) + "/24", "dev", "eth0"},
		{"link", "set", "eth0", "up"},
	} {
		if err := n.in(node, func() error { return ip(nil, args...) }); err != nil {
			return err
		}
	}
	return nil
}

// ip runs ip(8). What file is open in it has the number 3.
func ip(file *os.File, args ...string) error {
	cmd := exec.Command("ip", args...)
	if file != nil {
		cmd.ExtraFiles = []*os.File{file}
	}
	return output(cmd)
}

// output runs a command; what it said is in the error.
func output(cmd *exec.Cmd) error {
	text, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("torture: %s: %w: %s", strings.Join(cmd.Args, " "), err, strings.TrimSpace(string(text)))
	}
	return nil
}

// onOwnThread calls f on a thread that ends afterwards, so that it may leave this
// process's namespaces.
func onOwnThread(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // for ever
		done <- f()
	}()
	return <-done
}

// in calls f in a node's network, as are the processes that it starts.
func (n *bridgedNetwork) in(node int, f func() error) error {
	return onOwnThread(func() error {
		if err := unix.Setns(int(n.nodes[node].Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("torture: enter the network of a node: %w", err)
		}
		return f()
	})
}

func (n *bridgedNetwork) world() string        { return "10.77.0.1" }
func (n *bridgedNetwork) host(node int) string { return fmt.Sprintf("10.77.0.%d", 11+node) }

func (n *bridgedNetwork) nodeAt(host string) int {
	for node := range n.nodes {
		if n.host(node) == host {
			return node
		}
	}
	return nobody
}

func (n *bridgedNetwork) start(node int, cmd *exec.Cmd) error {
	return n.in(node, cmd.Start)
}

// pull takes the bridge's end down, so that the node's own routes stay and what it
// sends is lost without a word, as where a switch has failed.
func (n *bridgedNetwork) pull(node int) error { return ip(nil, "link", "set", port(node), "down") }
func (n *bridgedNetwork) plug(node int) error { return ip(nil, "link", "set", port(node), "up") }

// mute gives the other node a hardware address that nobody has. Unlike a blackhole
// route it gives the sender no error, on connections that there are neither.
func (n *bridgedNetwork) mute(from, to int) error {
	return n.in(from, func() error {
		return ip(nil, "neighbour", "replace", n.host(to), "lladdr", "02:00:00:00:00:fe", "nud", "permanent", "dev", "eth0")
	})
}

func (n *bridgedNetwork) unmute(from, to int) error {
	return n.in(from, func() error { return ip(nil, "neighbour", "delete", n.host(to), "dev", "eth0") })
}

// close lets go of the nodes' networks, which go when their processes have ended.
func (n *bridgedNetwork) close() {
	for _, ns := range n.nodes {
		ns.Close()
	}
	n.nodes = nil
}

// mountProc shows the processes of this namespace, which /proc/self needs.
func mountProc(ctx context.Context) error {
	return output(exec.CommandContext(ctx, "mount", "-t", "proc", "proc", "/proc"))
}
