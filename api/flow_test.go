package api

import (
	"fmt"
	"strings"
	"testing"

	"github.com/harepost/harepost/engine"
)

func TestSendFlow(t *testing.T) {
	f := func(members string, want engine.Flow) {
		t.Helper()
		if got := mustDecode(t, with(members)).send.Flow; got != want {
			t.Errorf("%s: %+v, want %+v", members, got, want)
		}
	}
	longest := strings.Repeat("ä", flowKeyChars)
	f(`"sign":false`, engine.Flow{})
	f(`"flow_key":null,"rate":null,"parallelism":null`, engine.Flow{})
	f(`"flow_key":"shop 1/é"`, engine.Flow{Key: "shop 1/é"})
	f(`"flow_key":"`+longest+`"`, engine.Flow{Key: longest})
	f(`"rate":0.001,"flow_key":"a","parallelism":1`, engine.Flow{Key: "a", Rate: 0.001, Parallelism: 1})
	f(`"rate":1e5,"flow_key":"a","parallelism":10000`, engine.Flow{Key: "a", Rate: 100_000, Parallelism: 10_000})

	mustRefuse(t, with(`"flow_key":""`), "flow_key", "1 to 255")
	mustRefuse(t, with(`"flow_key":" a"`), "flow_key")
	mustRefuse(t, with(`"flow_key":"a\n"`), "flow_key")
	mustRefuse(t, with(`"flow_key":"`+longest+`x"`), "flow_key")
	mustRefuse(t, with(`"flow_key":7`), "flow_key", "a number")
	mustRefuse(t, with(`"rate":1`), "rate", "needs a flow_key")
	mustRefuse(t, with(`"parallelism":1,"flow_key":null`), "parallelism", "needs a flow_key")
	for _, bad := range []string{"0", "-1", "0.0009", "100000.1", "1e400", `"5"`, "true"} {
		mustRefuse(t, with(`"flow_key":"a","rate":`+bad), "rate", "from 0.001 to 100000")
	}
	for _, bad := range []string{"0", "-1", "10001", "1e99"} {
		mustRefuse(t, with(`"flow_key":"a","parallelism":`+bad), "parallelism", "from 1 to 10000")
	}
	mustRefuse(t, with(`"flow_key":"a","parallelism":1.5`), "parallelism", "whole number")
}

// A flow key is shown with the delivery, and every send of a batch may have one.
func TestFlowKeyIsShown(t *testing.T) {
	s, key := startDev(t)
	target := startReceiver(t, 200).url
	one := s.do("POST", "/v1/send", key, fmt.Sprintf(`{"target":%q,"flow_key":"shop","rate":5}`, target)).want(202)
	batch := s.do("POST", "/v1/send/batch", key, fmt.Sprintf(`[{"target":%q,"flow_key":"b","parallelism":2},{"target":%q,"rate":1},{"target":%q}]`, target, target, target)).want(202)
	results := batch["results"].([]any)
	if status := results[1].(map[string]any)["status"]; status != 400.0 {
		t.Errorf("a rate without a flow in a batch: %v, want 400", results[1])
	}
	for id, want := range map[any]any{
		one["queue_id"]:                         "shop",
		results[0].(map[string]any)["queue_id"]: "b",
		results[2].(map[string]any)["queue_id"]: nil,
	} {
		if got := s.do("GET", "/v1/deliveries/"+id.(string), key, "").want(200)["flow_key"]; got != want {
			t.Errorf("flow_key is %v, want %v", got, want)
		}
	}
}
