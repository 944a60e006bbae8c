# Everything a contributor does, by name. `make` alone lists it.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

CARGO ?= cargo
TAG ?= 0.1.0
# What images and stories are built with: release or dev.
PROFILE ?= release
export CARGO_TARGET_DIR := $(CURDIR)/target
BUILT = $(CARGO_TARGET_DIR)/$(if $(filter dev,$(PROFILE)),debug,release)
IMAGES = $(CARGO_TARGET_DIR)/images$(if $(filter dev,$(PROFILE)),-dev)
TESTBED = $(CARGO) run --release --quiet --package slicewire-testbed --bin testbed --

# What calls cargo itself is built first and then run: under `cargo run` it would hand on variables that
# make build scripts run again, and all that depends on them be built again.
RELEASE = $(CARGO_TARGET_DIR)/release

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-12s %s\n", $$1, $$2}'

.PHONY: prerequisites
prerequisites: ## Check what the machine has to have, and say what is missing
	@deploy/prerequisites.sh

.PHONY: prerequisites-browser
prerequisites-browser: ## The same, and what the story of the browser needs
	@deploy/prerequisites.sh browser

.PHONY: demo
demo: prerequisites ## Three clusters, a slice across two of them, shown step by step
	$(CARGO) build --release --package slicewire-demo
	$(RELEASE)/demo up

.PHONY: demo-down
demo-down: ## Remove what the demo left running
	$(CARGO) build --release --quiet --package slicewire-demo
	$(RELEASE)/demo down

.PHONY: images
images: ## One OCI archive a component in target/images, without Docker
	$(CARGO) build --profile $(PROFILE) --quiet --package slicewire-images
	$(BUILT)/images --profile $(PROFILE) --tag $(TAG) --output $(IMAGES)

.PHONY: crds
crds: ## Write the CRDs anew: deploy/crds and the charts' copies
	$(CARGO) run --quiet --package slicewire-api --bin crdgen -- deploy/crds
	@for role in hub worker; do \
	  rm -rf deploy/charts/slicewire-$$role/crds; \
	  cp -r deploy/crds/$$role deploy/charts/slicewire-$$role/crds; \
	done

.PHONY: rendered
rendered: crds ## Render the charts into what slicectl applies
	$(TESTBED) build
	@deploy/render.sh

.PHONY: rendered-check
rendered-check: ## Fail where the charts' CRDs or the rendered manifests are not current
	$(TESTBED) build >/dev/null
	@for role in hub worker; do \
	  diff -ru deploy/crds/$$role deploy/charts/slicewire-$$role/crds || { echo "run 'make crds'" >&2; exit 1; }; \
	done
	@deploy/render.sh ../target/rendered
	@diff -ru deploy/rendered target/rendered || { echo "run 'make rendered'" >&2; exit 1; }

.PHONY: proto-check
proto-check: ## Lint the .proto files; fail where a published one is broken
	proto/rpc/check.sh

# The workspace is built with one profile, dev, the images of the stories included: arithmetic and
# assertions are checked in them, too, and a cold run compiles the dependencies once.
.PHONY: test
test: prerequisites-browser ## All tests: what CI runs
	$(CARGO) test --workspace --exclude slicewire-tests --exclude slicewire-tunnel-tests
	$(CARGO) test --package slicewire-tests --test structure
	$(MAKE) --no-print-directory proto-check
	$(MAKE) --no-print-directory interop
	$(MAKE) --no-print-directory fuzz
	$(MAKE) --no-print-directory faults
	$(MAKE) --no-print-directory stories PROFILE=dev

# Clients of the API that others make; built once.
TOOLS = $(CARGO_TARGET_DIR)/tools
GRPCURL = $(TOOLS)/grpcurl-v1.9.4/grpcurl
PYTHON = $(TOOLS)/python-grpc-1.85.1/bin/python
NODE_MODULES = $(TOOLS)/browser/node_modules

$(GRPCURL):
	@echo "building grpcurl (once; kept in $(@D))" >&2
	@mkdir -p $(@D)
	@GOBIN=$(@D) GOFLAGS=-buildvcs=false go install -trimpath "-ldflags=-s -w" \
	  github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.4

$(PYTHON):
	@echo "installing grpcio-tools (once; kept in $(TOOLS))" >&2
	@rm -rf $(TOOLS)/python-grpc-1.85.1 && python3 -m venv $(TOOLS)/python-grpc.part
	@$(TOOLS)/python-grpc.part/bin/python -m pip install --quiet --disable-pip-version-check grpcio-tools==1.85.1
	@mv $(TOOLS)/python-grpc.part $(TOOLS)/python-grpc-1.85.1

$(NODE_MODULES): tests/browser/package-lock.json
	@echo "installing what generates and bundles a browser's client (once; kept in $(@D))" >&2
	@rm -rf $(@D) $(@D).part && mkdir -p $(@D).part && cp tests/browser/package*.json $(@D).part
	@cd $(@D).part && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error >/dev/null
	@mv $(@D).part $(@D)

.PHONY: stories
stories: prerequisites-browser images $(GRPCURL) $(PYTHON) $(NODE_MODULES) ## Whole stories on real Kubernetes clusters on this machine
	$(CARGO) build --profile $(PROFILE) --package slicewire-slicectl --package slicewire-testbed
	SLICEWIRE_BUILT=$(BUILT) SLICEWIRE_IMAGES=$(IMAGES) SLICEWIRE_TESTBED_PROGRAM=$(BUILT)/testbed \
	  SLICEWIRE_GRPCURL=$(GRPCURL) SLICEWIRE_PYTHON=$(PYTHON) SLICEWIRE_NODE_MODULES=$(NODE_MODULES) \
	  $(CARGO) test --profile $(PROFILE) --package slicewire-tests --test stories

.PHONY: faults
faults: prerequisites ## The testbed's own faults: power, links, processes, and nothing left behind
	$(CARGO) test --package slicewire-testbed --test faults

.PHONY: interop
interop: prerequisites ## The tunnel against every other WireGuard, the kernel's in a guest included
	$(CARGO) build --package slicewire-gateway
	SLICEWIRE_GATEWAY=$(CARGO_TARGET_DIR)/debug/slice-gateway \
	  $(CARGO) test --package slicewire-tunnel-tests -- --test-threads=10

.PHONY: fuzz
fuzz: prerequisites ## What reads bytes from outside, fuzzed for a bounded time; and the simulation
	$(CARGO) test --manifest-path tests/fuzz/Cargo.toml
	tests/fuzz/run.sh

# A part that misses its goal has measured it; one that measured nothing makes this fail.
.PHONY: bench
bench: prerequisites ## Every benchmark, one after the other
	@failed=; for part in tunnel attach first-packet memory policy policy-reach services dns qos api; do \
	  $(MAKE) --no-print-directory bench-$$part || failed="$$failed $$part"; \
	done; \
	[ -z "$$failed" ] || { echo "not measured in full:$$failed" >&2; exit 1; }

.PHONY: bench-tunnel
bench-tunnel: prerequisites ## The tunnel against everyone else's, as ratios of medians
	$(CARGO) build --release --package slicewire-gateway
	SLICEWIRE_GATEWAY=$(RELEASE)/slice-gateway $(CARGO) run --release --package slicewire-tunnel-tests --bin bench-tunnel

# On the testbed named by SLICEWIRE_TESTBED, brought up when it is not there: 'stories' by default.
BENCH = SLICEWIRE_TESTBED_PROGRAM=$(CURDIR)/target/release/testbed \
  $(CARGO) run --release --quiet --package slicewire-tests --bin

.PHONY: bench-attach
bench-attach: bench-clusters ## A pod's start held up for its slice NIC, against CNI bridge's ADD
	$(BENCH) bench-attach

.PHONY: bench-first-packet
bench-first-packet: bench-clusters ## From a SliceConfig to the first ping between clusters
	$(BENCH) bench-first-packet

.PHONY: bench-policy
bench-policy: prerequisites ## Policies: loading, changes, and what packets pay
	$(CARGO) run --release --quiet --package slicewire-tests --bin bench-policy

.PHONY: bench-policy-reach
bench-policy-reach: bench-clusters ## From a policy on the hub to packets dropped in another cluster
	$(BENCH) bench-policy-reach

.PHONY: bench-services
bench-services: bench-clusters ## Virtual addresses: loading, changes, what packets pay; from an export to its use
	@failed=; for program in bench-services bench-service-reach; do $(BENCH) $$program || failed=1; done; \
	[ -z "$$failed" ]

.PHONY: bench-dns
bench-dns: prerequisites ## The DNS server of a node against CoreDNS
	$(CARGO) run --release --quiet --package slicewire-tests --bin bench-dns

.PHONY: bench-qos
bench-qos: prerequisites ## Quality of service: ceilings, guarantees, round trips under load, and the cost
	$(CARGO) run --release --quiet --package slicewire-tests --bin bench-qos

.PHONY: bench-api
bench-api: prerequisites ## The API for portals: latency, watchers, floods, on a hub with 1,000 slices
	$(CARGO) build --release --quiet --package slicewire-controller --package slicewire-testbed
	$(BENCH) bench-api

.PHONY: bench-memory
bench-memory: bench-clusters ## The resident size of every process
	$(BENCH) bench-memory

.PHONY: bench-clusters
bench-clusters: prerequisites images
	$(CARGO) build --release --quiet --package slicewire-slicectl --package slicewire-testbed

.PHONY: lint
lint: ## What CI demands of the source
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	$(CARGO) clippy --package slicewire-testbed --test faults -- -D warnings

.PHONY: fmt
fmt: ## Format the source
	$(CARGO) fmt --all
