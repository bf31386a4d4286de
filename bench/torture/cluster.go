package torture

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// A cluster is the nodes, and what they are reached by.
type cluster struct {
	nodes []*node
	net   network
	admin *admin
	key   string // of the account that sends
}

const (
	joinToken = "the-way-in-to-the-torture-chamber"

	// mostInFlight is --max-in-flight: with it, the first half of the bound on what
	// a failover repeats.
	mostInFlight = 64
)

// diskMebibytes is the size of a node's disk. Nothing is dropped in a run, so it grows
// with what is sent; memory is taken for what is written.
func (o *Options) diskMebibytes() int { return 2048 + 16*o.Events }

// openCluster makes networks, disks and certificates, and no process yet.
func openCluster(ctx context.Context, o *Options, resolver func(host string) (address string, err error)) (_ *cluster, err error) {
	c := &cluster{net: sharedNetwork{}, admin: newAdmin(o.Nodes == 1)}
	defer func() {
		if err != nil {
			c.close()
		}
	}()
	if o.Isolated {
		lookTools()
		if err := mountProc(ctx); err != nil {
			return nil, err
		}
		if c.net, err = openBridgedNetwork(o.Nodes); err != nil {
			return nil, err
		}
	}
	dns, err := resolver(c.net.world())
	if err != nil {
		return nil, err
	}
	for i := range o.Nodes {
		n := &node{id: fmt.Sprintf("n%d", i+1), index: i, net: c.net, binary: o.Binary}
		if n.disk, err = openDisk(ctx, o, filepath.Join(o.Dir, n.id)); err != nil {
			return nil, err
		}
		if o.LogDir != "" {
			if n.logs.file, err = os.Create(filepath.Join(o.LogDir, n.id+".log")); err != nil {
				return nil, err
			}
		}
		c.nodes = append(c.nodes, n)
	}
	return c, c.prepare(ctx, o, dns)
}

func openDisk(ctx context.Context, o *Options, dir string) (disk, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if o.Isolated {
		return makeLoopDisk(ctx, dir, o.diskMebibytes())
	}
	return plainDisk(dir), nil
}

// prepare gives the nodes their flags.
func (c *cluster) prepare(ctx context.Context, o *Options, dns string) error {
	var api, peers []string
	for i := range c.nodes {
		a, err1 := c.reserve(i)
		p, err2 := c.reserve(i)
		if err := errors.Join(err1, err2); err != nil {
			return err
		}
		api, peers = append(api, a), append(peers, p)
	}
	certs := filepath.Join(o.Dir, "certs")
	if o.Nodes > 1 {
		if err := c.makeCerts(ctx, o, certs); err != nil {
			return err
		}
	}
	egress := c.net.world() + "/32"
	for i, n := range c.nodes {
		n.url = "http://" + api[i]
		n.flags = []string{
			"--data-dir", n.dataDir(), "--listen", api[i], "--admin-token", adminToken,
			"--egress-allow", egress, "--allow-http-targets", "--dns-resolver", dns,
			"--max-in-flight", fmt.Sprint(mostInFlight), "--lane-concurrency", fmt.Sprint(mostInFlight / 2),
			"--breaker-failures", "0", "--retention-finished", "5m", "--drain-timeout", "15s",
		}
		if o.Away > 0 {
			n.flags = append(n.flags, "--max-data-bytes", fmt.Sprint(o.dataBytes()))
		}
		if o.Nodes > 1 {
			n.flags = append(n.flags,
				"--node-id", n.id, "--cluster-addr", peers[i], "--join", strings.Join(peers, ","), "--join-token", joinToken,
				"--cluster-cert", filepath.Join(certs, n.id+".pem"), "--cluster-key", filepath.Join(certs, n.id+"-key.pem"),
				"--cluster-ca", filepath.Join(certs, "ca.pem"))
		}
	}
	return nil
}

func (c *cluster) makeCerts(ctx context.Context, o *Options, dir string) error {
	args := []string{"cluster", "certs", "--out", dir}
	for _, n := range c.nodes {
		args = append(args, "--node", n.id)
	}
	cmd := exec.CommandContext(ctx, o.Binary, args...)
	cmd.Env = environment()
	return output(cmd)
}

// bootstrap is the flag of a node that is there from the beginning.
func (c *cluster) bootstrap() []string {
	if len(c.nodes) == 1 {
		return nil
	}
	return []string{"--bootstrap-expect", fmt.Sprint(len(c.nodes))}
}

// reserve is an address of a node's that no other process gets by chance: it lies
// below the ports that the kernel hands out.
func (c *cluster) reserve(node int) (address string, err error) {
	if _, shared := c.net.(sharedNetwork); !shared {
		nextPort++
		return fmt.Sprintf("%s:%d", c.net.host(node), nextPort), nil
	}
	for range 100 {
		address = fmt.Sprintf("%s:%d", c.net.host(node), 20000+int(time.Now().UnixNano()/1000)%10000)
		ln, err := net.Listen("tcp", address)
		if err == nil {
			return address, ln.Close()
		}
	}
	return "", errors.New("torture: no port below the ephemeral ones is free")
}

var nextPort = 7000

// open starts the nodes and makes the account whose domain is the receiver's.
func (c *cluster) open(ctx context.Context, names *nameServer) error {
	for _, n := range c.nodes {
		if err := n.start(c.bootstrap()...); err != nil {
			return err
		}
	}
	var account struct {
		Key string `json:"api_key"`
	}
	url := c.nodes[0].url
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	err := c.admin.until(ctx, func() error {
		for _, n := range c.nodes {
			if n.gone() {
				cancel(fmt.Errorf("%s has ended: %s", n.id, n.how()))
			}
		}
		return c.admin.call(ctx, http.MethodPost, url+"/v1/accounts", adminToken, map[string]any{"name": "victim"}, &account)
	})
	if err != nil {
		return fmt.Errorf("torture: make an account: %w", err)
	}
	c.key = account.Key
	var added struct{ Record struct{ Value string } }
	of := map[string]any{"domain": domain}
	err = c.admin.until(ctx, func() error { return c.admin.call(ctx, http.MethodPost, url+"/v1/domains", c.key, of, &added) })
	if err == nil {
		names.publish(added.Record.Value)
		err = c.admin.until(ctx, func() error { return c.admin.call(ctx, http.MethodPost, url+"/v1/domains/verify", c.key, of, nil) })
	}
	if err != nil {
		return fmt.Errorf("torture: verify a domain: %w", err)
	}
	return nil
}

// agree waits until all nodes say the same about who leads, and have votes. With
// exact they have applied the same index, too, else nearly.
func (c *cluster) agree(ctx context.Context, exact bool) error {
	return c.admin.until(ctx, func() error {
		var all []standing
		for _, n := range c.nodes {
			if n.gone() {
				return fmt.Errorf("%s has ended: %s", n.id, n.how())
			}
			if err := c.admin.call(ctx, http.MethodGet, n.url+"/readyz", adminToken, nil, nil); err != nil {
				return err
			}
			s, err := c.admin.standing(ctx, n)
			if err != nil {
				return err
			}
			all = append(all, s)
		}
		return agreed(all, exact)
	})
}

// nearby is how many entries nodes may differ by that agree while sends go on.
const nearby = 1000

func agreed(all []standing, exact bool) error {
	first := all[0]
	for _, s := range all {
		apart := max(s.Applied, first.Applied) - min(s.Applied, first.Applied)
		if s.Leader == "" || s.Leader != first.Leader || s.Term != first.Term || s.Voters != len(all) || apart > nearby || exact && apart > 0 {
			return fmt.Errorf("the nodes do not agree: %+v", all)
		}
	}
	return nil
}

// close ends what runs.
func (c *cluster) close() {
	for _, n := range c.nodes {
		n.kill()
		if n.logs.file != nil {
			n.logs.file.Close()
		}
	}
	c.admin.client.CloseIdleConnections()
	c.net.close()
}
