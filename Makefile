# What one may want of this work tree, by name. `make` alone lists it.
# Needs Go and make, nothing else: the other tools are pinned in tools/go.mod
# and built when they are first used.

FUZZTIME   ?= 30s
N          ?= 30
COUNT      ?= 5
STEPS      ?= 1000000
DEAD       ?= 1000000
PROFILES   ?= out/profiles
BENCHFLAGS ?=
TESTFLAGS  ?=
PKG        ?= ./...
BENCH      ?= .
OLD        ?=
OTHER      ?=
NEW        ?= out/bench.txt

TOOL := go tool -modfile=tools/go.mod

# The race detector needs cgo and a C compiler. Without them the tests still
# run, and say loudly what was not looked for.
HAVE_RACE := $(shell test "$$(go env CGO_ENABLED)" = 1 && command -v $$(go env CC) >/dev/null 2>&1 && echo yes)
ifeq ($(HAVE_RACE),yes)
RACE := -race
else
RACE :=
endif

.DEFAULT_GOAL := help
.PHONY: demo-cluster dead-letters retention openapi-client api-docs help demo build test race lint fuzz crash torture model bench profile microbench microbench-smoke benchstat vuln clean no-race format vet staticcheck signs cluster-torture cluster-catchup

help: ## list the targets
	@awk -F ' ## ' '/^[a-z-]+:.* ## / { sub(/:.*/, "", $$1); printf "  %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo "Variables: PKG=./wal  TESTFLAGS='-run Torn -v'  FUZZTIME=30s"
	@echo "           N=30 (crash, torture)  N=200 (cluster-torture)  N=1000000 (retention, cluster-catchup)  STEPS=1000000 (model)  COUNT=5 (race)  COUNT=10 (microbench)"
	@echo "           BENCH=Apply (microbench)  OLD=before.txt NEW=out/bench.txt (benchstat)  BENCHFLAGS='--rounds 5 --html out/report.html'"

demo: build ## everything on one screen: server, receiver, deliveries, retries, dead letters
	bin/harepost demo

demo-cluster: build ## three nodes whose leader is killed under load: everything that was accepted arrives
	bin/harepost demo --cluster

build: ## build bin/harepost
	go build -trimpath -pgo=cmd/harepost/engine.pgo -o bin/harepost ./cmd/harepost

test: lint no-race ## vet, lint, and every test under the race detector, in quick sizes
	go test $(RACE) -timeout 30m $(TESTFLAGS) $(PKG)
	go test -count=1 ./internal/tcp # makes other calls under the race detector
	go test -C tools -count=1 ./... # they read files outside their module, which the cache does not see

race: ## the tests under the race detector, COUNT=5 times over
ifneq ($(HAVE_RACE),yes)
	@echo "make race needs cgo and a C compiler (CGO_ENABLED=$$(go env CGO_ENABLED), CC=$$(go env CC))" >&2; exit 1
endif
	go test -race -count=$(COUNT) -timeout 0 $(TESTFLAGS) $(PKG)

no-race:
ifneq ($(HAVE_RACE),yes)
	@echo
	@echo "*** NOT LOOKING FOR DATA RACES: no C compiler, or CGO_ENABLED=0."
	@echo "*** The tests run without -race, and passing them says less. Install gcc for the whole check."
	@echo
endif

lint: format vet staticcheck signs ## gofmt, vet, staticcheck, package comments; `make -k lint` shows all at once

format:
	@unformatted=$$(gofmt -l .); if [ -n "$$unformatted" ]; then echo "gofmt would change:"; echo "$$unformatted"; exit 1; fi

vet:
	go vet ./...
	go vet -C tools ./...

staticcheck:
	$(TOOL) staticcheck ./...

# Paths are printed as they are from here, whence the binary.
signs:
	@go build -C tools -o ../bin/signs ./signs
	bin/signs .

fuzz: ## every fuzz target in turn, FUZZTIME=30s each
	tools/fuzz.sh $(FUZZTIME)

crash: ## kills, power cuts and damaged bytes alone, in sizes of N=30 (a night: N=1000)
	HAREPOST_CRASH_N=$(N) go test -count=1 -timeout 0 -v -run 'Crash|Kill|Cut|Torn|Flip' $(TESTFLAGS) $(PKG)

cluster-torture: ## three nodes under load through N=200 kills, pauses, cuts and disk faults (as root: each with its own network, and a disk in memory, for which 200 take some 8 GiB), and upgrades to OTHER=path, a build of another version, and back
	@mkdir -p out
	HAREPOST_TORTURE_N=$(call GIVEN,N,200) HAREPOST_TORTURE_OTHER=$(abspath $(OTHER)) HAREPOST_TORTURE_JSON=$(CURDIR)/out/cluster-torture.json \
		go test -count=1 -timeout 0 -v -run TestClusterLosesNothing $(TESTFLAGS) ./bench/torture

cluster-catchup: ## a node that was away for N=1000000 sends catches up by snapshot under load, and with it and its sender killed meanwhile (2 GB of disk in TMPDIR, 2 GB of memory, a quarter of an hour)
	@mkdir -p out
	HAREPOST_TORTURE_AWAY=$(call GIVEN,N,1000000) HAREPOST_TORTURE_JSON=$(CURDIR)/out/cluster-catchup.json \
		go test -count=1 -timeout 0 -v -run TestANodeThatWasAwayCatchesUp $(TESTFLAGS) ./bench/torture

torture: ## N=30 seeds of three nodes in simulated time, an hour each (a night: N=2000), HAREPOST_SEED=... repeats one
	HAREPOST_SIMULATION_N=$(N) GOGC=400 go test -count=1 -timeout 0 -v -run TestClusterSimulation $(TESTFLAGS) ./raftstore

model: ## the scheduler and its wheel against their models, STEPS=1000000
	HAREPOST_SCHEDULER_STEPS=$(STEPS) HAREPOST_WHEEL_STEPS=$(STEPS) go test -count=1 -timeout 0 -v -run 'AtLength' $(TESTFLAGS) ./scheduler/...

bench: build ## deliveries a second beside a forwarder that keeps nothing; bin/harepost bench has more scenarios
	@mkdir -p out
	bin/harepost bench throughput --dir out $(BENCHFLAGS)

dead-letters: build ## DEAD=1000000 dead letters: count, replay, stop, purge; and what fresh sends notice
	@mkdir -p out
	bin/harepost bench dead-letters --dir out --count $(DEAD) $(BENCHFLAGS)

isolation: bench-black-holes bench-noisy-tenant bench-outage bench-backlog bench-many-hosts ## what bad destinations and accounts do to others, and what millions pending cost: the five below

BENCHFLAGS_black-holes := --restart
.PHONY: isolation bench-black-holes bench-noisy-tenant bench-outage bench-backlog bench-many-hosts
bench-black-holes: build ## a healthy host beside 999 that never answer, and after a kill, BENCHFLAGS='--healthy-rate 200'
bench-noisy-tenant: build ## ten accounts beside one at a hundred times their rate, BENCHFLAGS='--rounds 1'
bench-outage: build ## a host goes away and comes back with less capacity, BENCHFLAGS='--away 20s --excess slow'
bench-backlog: build ## ten million pending: memory, restart, kill -9 in the drain, BENCHFLAGS='--count 1000000'
bench-many-hosts: build ## 100,000 host names, BENCHFLAGS='--hosts 10000 --https'
bench-black-holes bench-noisy-tenant bench-outage bench-backlog bench-many-hosts:
	@mkdir -p out
	bin/harepost bench $(@:bench-%=%) --dir out --output out/$@.json --html out/$@.html $(BENCHFLAGS_$(@:bench-%=%)) $(BENCHFLAGS)

retention: ## what dropping N=1000000 finished deliveries writes, and how long it takes
	HAREPOST_RETAIN_N=$(if $(filter file,$(origin N)),1000000,$(N)) go test -count=1 -timeout 0 -v -run TestRetentionWritesNextToNothing ./engine/state

profile: build ## one round of bench, with CPU profiles of server and forwarder into PROFILES=out/profiles
	@mkdir -p $(PROFILES)
	bin/harepost bench throughput --dir out --rounds 1 --profile-dir $(PROFILES) $(BENCHFLAGS)

# Found and not listed, so that none is left out. go runs the benchmarks of several
# packages one after the other. Compare runs of an otherwise idle machine only:
# benchstat takes a neighbour's load for a change.
BENCHED = $(shell grep -rl --include='*_test.go' --exclude-dir=tools '^func Benchmark' . | xargs -n1 dirname | sort -u)
GIVEN   = $(if $(filter file,$(origin $(1))),$(2),$($(1)))

# tee hides the status of what it reads from: microbench.ok is there only after success.
microbench: ## Go benchmarks matching BENCH=. of all packages or PKG=./wal, COUNT=10 times each, into out/bench.txt
	@mkdir -p out
	@rm -f out/microbench.ok
	@(go test -run '^$$' -bench '$(BENCH)' -benchmem -count=$(call GIVEN,COUNT,10) -timeout 0 $(TESTFLAGS) $(call GIVEN,PKG,$(BENCHED)) \
		&& touch out/microbench.ok) | tee out/bench.txt
	@rm out/microbench.ok 2>/dev/null || { echo "*** a benchmark failed: see above" >&2; exit 1; }

microbench-smoke: ## every Go benchmark once, to see that it runs, and the tests of allocations without -race
	go test -count=1 -run Alloc -bench . -benchtime 1x -benchmem $(TESTFLAGS) $(call GIVEN,PKG,$(BENCHED))

benchstat: ## what moved from OLD=before.txt to NEW=out/bench.txt, beyond the noise
	@if [ ! -f "$(OLD)" ] || [ ! -f "$(NEW)" ]; then \
		echo "usage: make benchstat OLD=before.txt NEW=out/bench.txt, both from make microbench" >&2; exit 1; fi
	$(TOOL) benchstat $(OLD) $(NEW)

vuln: ## known vulnerabilities in what we call, from the Go vulnerability database
	tools/vuln.sh

openapi-client: ## a client generated from api/openapi.json with npm, at work on a server
	tools/openapi-client/run.sh

api-docs: ## docs/api-reference.md from api/openapi.json
	go run -C tools ./apidocs ../api/openapi.json > docs/api-reference.md

clean: ## remove what the targets above made
	rm -rf bin out tools/openapi-client/node_modules tools/openapi-client/out
