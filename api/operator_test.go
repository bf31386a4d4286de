package api

import (
	"testing"

	"github.com/harepost/harepost/engine"
)

// The admin token is the API key of the operator's account, where there is one, and
// of no other.
func TestAdminTokenOpensTheOperatorsAccount(t *testing.T) {
	without := startServer(t, Options{}, nil)
	without.do("GET", "/v1/deliveries", adminToken, "").refused(401)
	with := startServer(t, Options{}, func(o *engine.Options) {
		target, err := OperatorTarget("https://ops.example.com/harepost", false)
		if err != nil {
			t.Fatal(err)
		}
		o.Events.Target = &target
	})
	with.do("GET", "/v1/deliveries", adminToken, "").want(200)
	with.do("GET", "/v1/deliveries", adminToken+"x", "").refused(401)
	with.do("GET", "/v1/accounts/"+engine.OperatorAccount.String(), adminToken, "").want(200)
	closed := startServer(t, Options{AdminToken: "-"}, func(o *engine.Options) { o.Events.Target = new(engine.Target) })
	closed.do("GET", "/v1/deliveries", "", "").refused(401)
}
