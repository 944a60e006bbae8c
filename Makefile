# Everything a contributor does, by name. `make` alone lists it.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

CARGO ?= cargo
TAG ?= 0.1.0
PROFILE ?= release
TESTBED = $(CARGO) run --release --quiet --package slicewire-testbed --bin testbed --

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-12s %s\n", $$1, $$2}'

.PHONY: prerequisites
prerequisites: ## Check what the machine has to have, and say what is missing
	@deploy/prerequisites.sh

.PHONY: demo
demo: prerequisites ## Three clusters, a slice across two of them, shown step by step
	$(CARGO) run --release --quiet --package slicewire-demo --bin demo -- up

.PHONY: demo-down
demo-down: ## Remove what the demo left running
	$(CARGO) run --release --quiet --package slicewire-demo --bin demo -- down

.PHONY: images
images: ## One OCI archive a component in target/images, without Docker
	$(CARGO) run --release --quiet --package slicewire-images --bin images -- --profile $(PROFILE) --tag $(TAG)

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

.PHONY: test
test: prerequisites ## Unit, property and network-namespace tests: what CI runs
	$(CARGO) test --workspace --exclude slicewire-tests --exclude slicewire-tunnel-tests
	$(CARGO) test --package slicewire-tests --test structure

.PHONY: stories
stories: prerequisites images ## Whole stories on real Kubernetes clusters on this machine
	$(CARGO) build --release --package slicewire-slicectl --package slicewire-testbed
	SLICEWIRE_TESTBED_PROGRAM=$(CURDIR)/target/release/testbed $(CARGO) test --package slicewire-tests --test stories

.PHONY: interop
interop: prerequisites ## The tunnel against every other WireGuard, the kernel's in a guest included
	$(CARGO) test --package slicewire-tunnel-tests

.PHONY: bench
bench: bench-tunnel ## Every benchmark there is

.PHONY: bench-tunnel
bench-tunnel: prerequisites ## The tunnel against everyone else's, as ratios of medians
	$(CARGO) build --release --package slicewire-gateway
	$(CARGO) run --release --package slicewire-tunnel-tests --bin bench-tunnel

.PHONY: lint
lint: ## What CI demands of the source
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings

.PHONY: fmt
fmt: ## Format the source
	$(CARGO) fmt --all
