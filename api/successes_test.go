package api

import "strings"

// successes makes every answer that is no error, in the order of a user's day.
func (r *tour) successes() {
	s := startServer(r.t, Options{Dev: true}, nil)
	for _, path := range []string{"/healthz", "/readyz", "/metrics"} {
		r.ask(s, 200, "GET", path, "", "", "")
	}
	tag := r.ask(s, 200, "GET", "/v1/openapi.json", "", "", "").header.Get("ETag")
	r.ask(s, 304, "GET", "/v1/openapi.json", "", "", "", "If-None-Match: "+tag)

	made := r.ask(s, 201, "POST", "/v1/accounts", "", adminToken, `{"name":"acme"}`).want(201)
	id, key := made["account_id"].(string), made["api_key"].(string)
	r.ask(s, 200, "GET", "/v1/accounts", "", adminToken, "")
	r.ask(s, 200, "GET", "/v1/accounts/{id}", id, adminToken, "")
	r.ask(s, 200, "PATCH", "/v1/accounts/{id}", id, adminToken, `{"rate_limit_per_minute":0}`)
	r.secrets(s, key)
	r.domains(s, key)
	r.deliveries(s, key)
	r.jobs(s, key)
	r.destinations(s, key)
	r.ask(s, 200, "GET", "/v1/backup", "", adminToken, "")
	r.ask(s, 204, "DELETE", "/v1/accounts/{id}", id, adminToken, "")
	r.cluster()
}

func (r *tour) secrets(s *testServer, key string) {
	r.ask(s, 200, "GET", "/v1/signing-secret", "", key, "")
	r.ask(s, 200, "POST", "/v1/signing-secret/rotate", "", key, "")
	further := r.ask(s, 201, "POST", "/v1/keys", "", key, "").want(201)["id"].(string)
	r.ask(s, 200, "GET", "/v1/keys", "", key, "")
	r.ask(s, 204, "DELETE", "/v1/keys/{id}", further, key, "")
}

func (r *tour) domains(s *testServer, key string) {
	const name, body = "your-app.com", `{"domain":"your-app.com"}`
	r.ask(s, 201, "POST", "/v1/domains", "", key, body)
	record := r.ask(s, 200, "POST", "/v1/domains", "", key, body).want(200)["record"].(map[string]any)
	s.names.set(record["name"].(string), "TXT", record["value"].(string))
	r.ask(s, 200, "POST", "/v1/domains/verify", "", key, body)
	r.ask(s, 200, "GET", "/v1/domains", "", key, "")
	r.ask(s, 200, "GET", "/v1/domains/{domain}", name, key, "")
	r.ask(s, 204, "DELETE", "/v1/domains/{domain}", name, key, "")
}

func (r *tour) deliveries(s *testServer, key string) {
	gone := startReceiver(r.t, 410)
	send := `{"target":"` + gone.url + `","labels":["tour"]}`
	id := r.ask(s, 202, "POST", "/v1/send", "", key, send).want(202)["queue_id"].(string)
	s.settled(key, id)
	r.ask(s, 202, "POST", "/v1/deliveries/{id}/replay", id, key, "")
	s.settled(key, id)
	r.ask(s, 202, "POST", "/v1/send/batch", "", key, "["+strings.Repeat(later(gone.url, "")+",", 2)+`{}]`)
	r.ask(s, 200, "GET", "/v1/deliveries/{id}?include=payload", id, key, "")
	r.ask(s, 200, "GET", "/v1/dead-letters", "", key, "")
	pending := r.ask(s, 200, "GET", "/v1/deliveries?status=queued", "", key, "").want(200)
	r.ask(s, 200, "POST", "/v1/deliveries/{id}/cancel", idsOf(pending)[0], key, "")
}

func (r *tour) destinations(s *testServer, key string) {
	const name = "your-app.com"
	r.ask(s, 200, "GET", "/v1/destinations", "", key, "")
	r.ask(s, 200, "PATCH", "/v1/destinations/{host}", name, key, `{"rate":5}`)
	r.ask(s, 200, "POST", "/v1/destinations/{host}/pause", name, key, "")
	r.ask(s, 200, "POST", "/v1/destinations/{host}/resume", name, key, "")
	r.ask(s, 200, "GET", "/v1/destinations/{host}", name, key, "")
}

// jobs are stopped while they run: they have the dead letters of several
// seconds before them.
func (r *tour) jobs(s *testServer, key string) {
	s.dead(r.t, key, 3, "")
	for _, path := range []string{"/v1/replays/{id}", "/v1/jobs/{id}"} {
		slow := r.ask(s, 202, "POST", "/v1/dead-letters/replay", "", key, `{"filter":{},"rate_per_second":1}`)
		id := slow.want(202)["job_id"].(string)
		r.ask(s, 200, "GET", path, id, key, "")
		r.ask(s, 200, "POST", path+"/cancel", id, key, "")
	}
	r.ask(s, 200, "GET", "/v1/jobs", "", key, "")
	r.ask(s, 200, "GET", "/v1/replays", "", key, "")
	for _, path := range []string{"/v1/dead-letters/replay", "/v1/deliveries/cancel"} {
		r.ask(s, 200, "POST", path, "", key, `{"filter":{},"dry_run":true}`)
	}
	r.ask(s, 202, "POST", "/v1/deliveries/cancel", "", key, `{"filter":{}}`)
	r.ask(s, 200, "DELETE", "/v1/dead-letters?all=true&dry_run=true", "", key, "")
	r.ask(s, 202, "DELETE", "/v1/dead-letters?all=true", "", key, "")
}
