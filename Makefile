# `make` prints what each target does. The two to know: `sudo make up` and `make test`.
SHELL       := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
MAKEFLAGS   += --no-print-directory
.DEFAULT_GOAL := help

GO      := $(CURDIR)/scripts/go
# Asked once, and only by the targets that stamp it.
VERSION  = $(eval VERSION := $(shell scripts/version.sh))$(VERSION)
# -buildvcs=false: git refuses a checkout of another owner, which under sudo it is.
GOBUILD  = $(GO) build -trimpath -buildvcs=false -ldflags '-s -w -X main.version=$(VERSION)'
STATIC   = CGO_ENABLED=0 $(GOBUILD)
# Where the pinned tools of scripts/tools are built; a runner may keep it between runs.
# Finds Go for what follows in the recipe, and leaves bin/ to the checkout's owner.
GIVE_BACK = . scripts/env.sh; vedette_give_back
KERNEL  ?= 6.12
PHASE   ?= 5
GUEST   ?=
SIZE    ?= 1000
HOLD    ?= 90s
SEED    ?=
HERD    ?= leader
# Named by what pins them, so that a changed version is a new file.
PINNED  := $(shell cat scripts/tools/go.mod scripts/tools/go.sum | sha256sum | cut -c1-12)
TOOLS   ?= $(CURDIR)/bin/tools/$(PINNED)

##@ Run
.PHONY: up demo bench evasion isolation sim torture eval drill quiet
up: ## (root) three coordinators and a sensor on this host, with a live view; Ctrl-C ends all of it
	@exec scripts/bootstrap.sh up
demo: ## (root) an attack over three of four hosts, found, contained, proven, released; < 3 minutes; HANDS_OFF=1: contained with nobody typing
	@exec scripts/bootstrap.sh demo $(if $(HANDS_OFF),-hands-off)
bench: ## (root) the figures of this machine beside their targets; out/bench.jsonl
	@exec scripts/bootstrap.sh bench
evasion: ## (root) what has blinded other sensors, tried on this one; out/evasion.jsonl
	@exec scripts/bootstrap.sh evasion
isolation: ## (root) what leaks out of an isolated host, by path; PHASE=60 seconds each, GUEST=6.12 also there, over real reboots; out/isolation.jsonl
	@exec scripts/bootstrap.sh isolation -seconds '$(PHASE)' -guest '$(GUEST)'
sim: ## a fleet of SIZE=1000 real sessions against three nodes on loopback, for HOLD=90s; SEED=1, HERD=leader, all or none; out/sim.jsonl
	@exec scripts/bootstrap.sh sim -size '$(SIZE)' -hold '$(HOLD)' -seed '$(or $(SEED),1)' -herd '$(HERD)'

eval: ## how well it decides, where the truth is known: baseline, dispositions, rules, investigator, campaigns; FULL=1 for the long run, ONLY=a,b; out/eval.jsonl, pictures in out/eval/
	@exec scripts/bootstrap.sh eval -only '$(ONLY)' -hosts '$(or $(HOSTS),0)' $(if $(FULL),-full)
quiet: ## (root) an hour of ordinary work (MINUTES=n, NIGHTLY=1: eight hours) with a sensor beside it: 0 incidents; out/quiet.jsonl
	@exec scripts/bootstrap.sh quiet -minutes '$(or $(MINUTES),$(if $(NIGHTLY),480,60))' -seed '$(or $(SEED),1)'
torture: ## (root) kills, partitions, power cuts on a real cluster: what was lost; SEED=n again, NIGHTLY=1 for a night; out/torture.jsonl
	@exec scripts/bootstrap.sh torture -seed '$(or $(SEED),0)' $(if $(NIGHTLY),-nightly)
drill: ## (root) every drill against a real sensor: what is proven and missed by ATT&CK technique; out/drill.jsonl, out/drill-layer.json
	@exec scripts/bootstrap.sh drill

##@ Test
.PHONY: test lint check-generated fuzz package-test vmtest
# STEPS are make targets that count as tests and run before the Go tests, BESIDE those that
# run while they do: make test STEPS="lint" BESIDE="vmtest-6.12".
# The programs are built once, for all tests that run them.
test: export VEDETTE_BIN = $(CURDIR)/bin
test: ## every test; as root also those that need the kernel and namespaces
	@$(GO) build -buildvcs=false -o bin/testrun ./scripts/testrun
	@$(GIVE_BACK); exec bin/testrun -step build -step torture-programs $(addprefix -step ,$(STEPS)) $(addprefix -beside ,$(BESIDE))
lint: $(TOOLS)/golangci-lint ## golangci-lint, with the dependency rules of the tree
	@$(GIVE_BACK); $(TOOLS)/golangci-lint run --config scripts/golangci.yml ./...
check-generated: tools-generate ## what is generated is what its sources say
	@TOOLS=$(TOOLS) scripts/check-generated.sh
fuzz: ## each fuzz target for FUZZTIME (default 10s)
	@FUZZTIME=$${FUZZTIME:-10s} scripts/fuzz.sh
package-test: package ## (root) the real packages through install, enrol, run, upgrade, purge in a throw-away root
	@TOOLS=$(TOOLS) scripts/package/test.sh
vmtest: ## the kernel tests on a real Debian kernel in qemu: KERNEL=6.1 or 6.12; out/vmtest-KERNEL.jsonl
	@exec scripts/bootstrap.sh vmtest -kernel '$(KERNEL)'
vmtest-%: # the step of CI
	@exec scripts/bootstrap.sh vmtest -quick -kernel '$*'

##@ Build
.PHONY: build torture-programs generate package clean help tools-generate FORCE
build: bin/vedette bin/vedette-sensor bin/vedette-coordinator ## the three programs into bin/
	@$(GIVE_BACK)
torture-programs: bin/vedette-torture bin/failpoint/vedette-coordinator
	@$(GIVE_BACK)
generate: tools-generate ## Go from proto/ (buf) and from bpf/ (clang 19)
	@TOOLS=$(TOOLS) scripts/generate.sh .
package: build $(TOOLS)/nfpm ## deb and rpm of the sensor, the coordinator and the CLI into dist/
	@TOOLS=$(TOOLS) VERSION='$(VERSION)' scripts/package/build.sh
clean: ## remove what was built and the state of `make up`
	@scripts/clean.sh
help: ## this list
	@awk 'BEGIN { FS = ":.*## " } \
		/^##@/ { printf "\n%s\n", substr($$0, 5) } \
		/^[a-z-]+:.*## / { printf "  %-16s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

# Go's own cache decides what is rebuilt; make only names the outputs.
bin/vedette-coordinator: FORCE
	@CGO_ENABLED=1 $(GOBUILD) -o $@ ./cmd/vedette-coordinator
# It can be told where to die: for torture, and never packaged.
bin/failpoint/vedette-coordinator: FORCE
	@CGO_ENABLED=1 $(GOBUILD) -tags failpoint -o $@ ./cmd/vedette-coordinator
# Its clock can be moved: see scripts/skewed-clock.sh. All of Go's library is built again, once.
bin/skewed/vedette-coordinator: FORCE
	@scripts/skewed-clock.sh bin/skewed/_clock # an underscore: no package of this module
	@CGO_ENABLED=1 $(GOBUILD) -overlay bin/skewed/_clock/overlay.json -tags failpoint,skew -o $@ ./cmd/vedette-coordinator
bin/vedette bin/vedette-sensor: FORCE
	@$(STATIC) -o $@ ./cmd/$(@F)
bin/vedette-up bin/vedette-demo bin/vedette-bench bin/vedette-evasion bin/vedette-vmtest bin/vedette-isolation bin/vedette-sim bin/vedette-torture bin/vedette-drill bin/vedette-quiet: FORCE
	@$(STATIC) -o $@ ./scripts/$(@F:vedette-%=%)
# It plays the coordinator's engine, and what that imports has the store's cgo in it.
bin/vedette-eval: FORCE
	@CGO_ENABLED=1 $(GOBUILD) -o $@ ./scripts/$(@F:vedette-%=%)
FORCE:

TOOL_golangci-lint         := github.com/golangci/golangci-lint/v2/cmd/golangci-lint
TOOL_nfpm                  := github.com/goreleaser/nfpm/v2/cmd/nfpm
TOOL_buf                   := github.com/bufbuild/buf/cmd/buf
TOOL_protoc-gen-go         := google.golang.org/protobuf/cmd/protoc-gen-go
TOOL_protoc-gen-connect-go := connectrpc.com/connect/cmd/protoc-gen-connect-go

tools-generate: $(addprefix $(TOOLS)/,buf protoc-gen-go protoc-gen-connect-go)
$(addprefix $(TOOLS)/,golangci-lint nfpm buf protoc-gen-go protoc-gen-connect-go):
	@echo "building $(@F) (once)" >&2
	@$(GO) build -C scripts/tools -trimpath -buildvcs=false -o $@ $(TOOL_$(@F))
