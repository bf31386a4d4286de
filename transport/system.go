package transport

import (
	"bufio"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// systemConfig is what the machine says about names: the servers of
// resolv.conf and the entries of hosts. Both files are read again when they
// have changed, looked at no more often than every systemConfigAge.
type systemConfig struct {
	resolvConf, hosts string

	mu       sync.Mutex
	checked  time.Time
	stamps   [2]fileStamp // of resolvConf and hosts, as last read
	nservers []string
	names    map[string][]netip.Addr
}

const (
	systemConfigAge = 5 * time.Second
	maxServers      = 3       // as the C library
	maxHostsBytes   = 4 << 20 // of the hosts file
)

// fileStamp tells one version of a file from the next.
type fileStamp struct {
	modified time.Time
	bytes    int64
}

func newSystemConfig(resolvConf, hosts string) *systemConfig {
	return &systemConfig{resolvConf: resolvConf, hosts: hosts}
}

// servers returns the name servers to ask, in order.
func (s *systemConfig) servers() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refreshLocked(time.Now())
	return s.nservers
}

// hostAddrs returns what the hosts file has for name.
func (s *systemConfig) hostAddrs(name string) []netip.Addr {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refreshLocked(time.Now())
	return s.names[name]
}

func (s *systemConfig) refreshLocked(now time.Time) {
	if !s.checked.IsZero() && now.Sub(s.checked) < systemConfigAge {
		return
	}
	first := s.checked.IsZero()
	s.checked = now
	if st := stampOf(s.resolvConf); first || st != s.stamps[0] {
		s.stamps[0] = st
		s.nservers = readServers(s.resolvConf)
	}
	if st := stampOf(s.hosts); first || st != s.stamps[1] {
		s.stamps[1] = st
		s.names = readHosts(s.hosts)
	}
}

func stampOf(path string) fileStamp {
	info, err := os.Stat(path)
	if err != nil {
		return fileStamp{}
	}
	return fileStamp{info.ModTime(), info.Size()}
}

// readServers returns the servers of a resolv.conf; when there are none, the
// local machine is the server, as resolv.conf(5) has it.
func readServers(path string) []string {
	config, err := dns.ClientConfigFromFile(path)
	if err != nil || len(config.Servers) == 0 {
		return []string{"127.0.0.1:53"}
	}
	var out []string
	for _, server := range config.Servers[:min(len(config.Servers), maxServers)] {
		out = append(out, net.JoinHostPort(server, config.Port))
	}
	return out
}

// readHosts parses a hosts file. A file that cannot be read has no names.
func readHosts(path string) map[string][]netip.Addr {
	file, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer file.Close()
	names := make(map[string][]netip.Addr)
	lines := bufio.NewScanner(file)
	for read := 0; lines.Scan() && read < maxHostsBytes; read += len(lines.Bytes()) {
		text, _, _ := strings.Cut(lines.Text(), "#")
		fields := strings.Fields(text)
		if len(fields) < 2 {
			continue
		}
		addr, err := netip.ParseAddr(fields[0])
		if err != nil {
			continue
		}
		for _, name := range fields[1:] {
			name = normalHost(name)
			if len(names[name]) < maxAddrs {
				names[name] = append(names[name], addr)
			}
		}
	}
	return names
}
