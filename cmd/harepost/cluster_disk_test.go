package main

import (
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A node whose disk is full holds nobody up: where it leads another one takes over, or
// it ends; sends go on, nothing that was acknowledged is lost, and with room again it is
// a node as before.
func TestAFullDiskOfOneNodeHoldsNobodyUp(t *testing.T) {
	t.Parallel()
	disk := newSmallDisk(t, 96)
	c := newTestCluster(t, 3)
	small := c.nodes[0]
	small.dir = filepath.Join(disk.dir, "n1")
	small.command = func(args ...string) *exec.Cmd { return disk.command(harepostBinary(t), args...) }
	c.up()
	defer func() {
		if t.Failed() {
			t.Log(c.logs())
		}
	}()
	made := c.leader().at(worldAdminToken).call(t, "POST", "/v1/accounts", `{"name":"a"}`).want(http.StatusCreated)
	c.key = made["api_key"].(string)
	c.transfer(small)
	var ids []string
	refusals := map[string]int{}
	client := newAPIClient(t)
	client.Timeout = 5 * time.Second
	noise := make([]byte, 300<<10)
	longest, since := time.Duration(0), time.Now()
	for deadline := time.Now().Add(processPatience); len(ids) < 200; {
		if time.Now().After(deadline) {
			t.Fatalf("%d sends were accepted, then none: %v", len(ids), refusals)
		}
		if _, err := rand.Read(noise); err != nil {
			t.Fatal(err)
		}
		body := sendBody("http://127.0.0.1:1024/", `"delay_ms":3600000,"body":"`+base64.StdEncoding.EncodeToString(noise)+`"`)
		w := &world{t: t, server: c.nodes[1+len(ids)%2].server, client: client}
		r, err := w.try(t, "POST", "/v1/send", c.key, body)
		switch {
		case err != nil:
			refusals[err.Error()]++
		case r.status == http.StatusAccepted:
			ids = append(ids, idOf(t, string(r.body)))
			longest, since, deadline = max(longest, time.Since(since)), time.Now(), time.Now().Add(processPatience)
		default:
			refusals[fmt.Sprintf("%d %.200s", r.status, r.body)]++
		}
	}
	t.Logf("%d of 400 KiB accepted; refused: %v; the longest pause was %s", len(ids), refusals, longest)
	if small.gone() {
		t.Logf("n1 has ended with status %d", small.server.status())
		small.watching = false
	} else if text := small.server.stderr.String(); !strings.Contains(text, "full") && !strings.Contains(text, "no space") {
		t.Errorf("n1 says nothing of its disk:\n%s", text)
	}
	until(t, "another node leads than that with the full disk", func() (bool, string) { return c.leader() != small, c.logs() })
	disk.grow(2048)
	leads := c.leader()
	ids = append(ids, leads.at(c.key).queue(t, "http://127.0.0.1:1024/", `"delay_ms":3600000,"body":"x"`))
	want, _ := leads.view()
	until(t, "n1 is a node as before", func() (bool, string) {
		if small.gone() { // or it was about to end
			small.start()
		}
		v, ok := small.view()
		return ok && v.Applied >= want.Commit, small.server.stderr.String()
	})
	for _, id := range ids {
		if status, text := small.request(http.MethodGet, "/v1/deliveries/"+id+"?consistency=stale", c.key, ""); status != http.StatusOK {
			t.Fatalf("%s was acknowledged, n1: %d %s", id, status, text)
		}
	}
}
