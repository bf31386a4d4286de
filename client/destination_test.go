package client_test

import (
	"testing"

	"github.com/harepost/harepost/client"
)

func TestDestinations(t *testing.T) {
	one := func(name string) string {
		return `{"destination":"` + name + `","kind":"host","pending":2,"breaker":"open"}`
	}
	page := func(next string, names ...string) string {
		data := ""
		for i, name := range names {
			if i > 0 {
				data += ","
			}
			data += one(name)
		}
		return `{"data":[` + data + `],"next_cursor":` + next + `}`
	}
	s := serve(t,
		answer{200, "", page(`"0000000000000001"`, "https://a:443", "https://b:443")},
		answer{200, "", page("null", "https://c:443")},
		answer{200, "", page("null", "https://a:443")},
		answer{200, "", page("null", "https://a:443")},
		answer{200, "", page("null", "flow:a/b")},
		answer{200, "", page("null", "https://a:443")},
		answer{200, "", page("null", "https://a:443")})
	c := s.client(client.Options{AdminToken: "root"})
	var names []string
	for d, err := range c.Destinations(t.Context(), client.DestinationFilter{Host: "a", Prefix: "https", State: "failing", Limit: 2}) {
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, d.Destination)
	}
	same(t, names, nil, []string{"https://a:443", "https://b:443", "https://c:443"})
	top, err := c.ForAccount("acc_1").DestinationsPage(t.Context(), client.DestinationFilter{ByPending: true, Limit: 5})
	same(t, top.Data, err, []client.Destination{{Destination: "https://a:443", Kind: "host", Pending: 2, Breaker: "open"}})
	for _, call := range []func() ([]client.Destination, error){
		func() ([]client.Destination, error) { return c.Destination(t.Context(), "https://a:443") },
		func() ([]client.Destination, error) { return c.PauseDestination(t.Context(), "flow:a/b") },
		func() ([]client.Destination, error) { return c.ForAccount("acc_1").ResumeDestination(t.Context(), "a") },
		func() ([]client.Destination, error) {
			return c.ChangeDestination(t.Context(), "a", client.DestinationChange{Rate: ptr(0.5), NoParallelism: true})
		},
	} {
		if list, err := call(); err != nil || len(list) != 1 {
			t.Errorf("%v, %v", list, err)
		}
	}
	s.wants(
		asked{"GET /v1/destinations?host=a&limit=2&prefix=https&state=failing", key, ""},
		asked{"GET /v1/destinations?cursor=0000000000000001&host=a&limit=2&prefix=https&state=failing", key, ""},
		asked{"GET /v1/destinations?account_id=acc_1&limit=5&sort=pending", "Bearer root", ""},
		asked{"GET /v1/destinations/https:%2F%2Fa:443", key, ""},
		asked{"POST /v1/destinations/flow:a%2Fb/pause", key, ""},
		asked{"POST /v1/destinations/a/resume?account_id=acc_1", "Bearer root", ""},
		asked{"PATCH /v1/destinations/a", key, `{"parallelism":null,"rate":0.5}`})

	if _, err := c.ChangeDestination(t.Context(), "a", client.DestinationChange{Rate: ptr(0.5), NoRate: true}); err == nil {
		t.Error("both a rate and none are taken")
	}
}
