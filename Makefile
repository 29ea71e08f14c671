# SPDX-License-Identifier: Apache-2.0

# Where Go's own installer puts it, which sudo's PATH lacks.
export PATH := $(PATH):/usr/local/go/bin

PACKAGES ?= ./...
# For each fuzz target, as go test -fuzztime has it.
FUZZTIME ?= 60s
# make demo KEEP=1 leaves the demo running; USE=NAME shows a use of docs/uses instead, by METHOD.
KEEP ?=
USE ?=
METHOD ?=

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help
help: ## Say what there is to make
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: go root
go:
	@command -v go >/dev/null || { echo "make: Go 1.26 is missing: https://go.dev/dl/" >&2; exit 1; }
root:
	@test "$$(id -u)" = 0 || { echo "make: this needs root, for network namespaces and XDP: sudo make $(MAKECMDGOALS)" >&2; exit 1; }

.PHONY: build
build: go ## Build build/director
	@mkdir -p build
	CGO_ENABLED=0 go build -trimpath -o build/director ./cmd/director

.PHONY: man
man: go ## Write the manual pages to build/man, one for each command
	@rm -rf build/man
	@go run ./internal/cli/manual build/man

.PHONY: deb
deb: go ## Build a Debian package in build/
	@tools/deb.sh build

.PHONY: generate
generate: go tools-check ## Compile the BPF programs, and make the Go code for them
	go generate ./bpf

.PHONY: tools tools-test tools-check tools-demo tools-uses tools-vm tools-peers
tools: tools-test tools-check tools-demo tools-uses tools-vm tools-peers ## Install what the other targets need (Debian, as root)
tools-test tools-check tools-demo tools-uses tools-vm tools-peers: tools-%:
	@tools/install.sh $*

# These have all processors at work, or measure them: each runs by itself, one after the other. Their tests are without the
# race detector; the director that the end-to-end tests build has it (E2E_RACE).
ALONE := ./internal/bench,./test/demo,./test/e2e,./test/uses

# go list compiles everything beforehand, on all processors. -count=1: the end-to-end tests build
# the director themselves, which go's cache of test results does not know.
.PHONY: test
test: go tools-test ## Run all tests; without root the privileged ones are skipped
	@mkdir -p build
	@go list -e -race -test -deps -export $(PACKAGES) >/dev/null 2>&1 || true
	@go build -o build/gotest ./tools/gotest
	@E2E_RACE=1 build/gotest -alone $(ALONE) -beside -race $(PACKAGES) -- -count=1 -timeout 30m

.PHONY: test-vm test-vm-devices
test-vm: go root tools-vm build ## Run tests on Linux 6.1, in a virtual machine (some 4 min)
	@mkdir -p build/vm/tests
	@CGO_ENABLED=0 go test -c -o build/vm/tests/ ./bpf ./internal/nexthop
	@VM_TIMEOUT=1800 tools/vm.sh tools/vm-tests.sh
test-vm-devices: go root tools-vm build ## The same, with VLANs, bonds and tunnels of the kernel's (some 20 min)
	@mkdir -p build/vm/tests
	@CGO_ENABLED=0 go test -c -o build/vm/tests/ ./test/e2e
	@VM_TIMEOUT=1800 tools/vm.sh tools/vm-tests.sh devices

.PHONY: check check-format check-vet check-static check-law check-modules check-scripts check-objects
check: go tools-check check-format check-vet check-static check-law check-modules check-scripts check-objects ## Check format, vet, static analysis, import law, modules, scripts, BPF objects
	@echo "all checks passed"

check-format:
	@echo "check gofmt"
	@files=$$(gofmt -l .) && test -z "$$files" || { echo "not formatted (gofmt -w .):" $$files >&2; exit 1; }
check-vet:
	@echo "check go vet"
	@go vet ./...
check-static:
	@echo "check staticcheck"
	@go tool staticcheck ./...
check-law:
	@echo "check import law, function sizes, licence headers"
	@go test -count=1 ./test/law
check-modules:
	@echo "check go.mod and go.sum"
	@go mod verify >/dev/null
	@go mod tidy -diff || { echo "go.mod or go.sum is not tidy (go mod tidy)" >&2; exit 1; }
check-scripts:
	@echo "check shellcheck"
	@shellcheck tools/*.sh .ci/run contrib/systemd/prepare-state contrib/debian/*
check-objects:
	@echo "check that the BPF objects are those of their sources"
	@tools/objects.sh

.PHONY: fuzz fuzz-short
fuzz: go tools-test ## Fuzz each target for FUZZTIME (60s)
	@tools/fuzz.sh $(FUZZTIME)
fuzz-short: go tools-test ## Fuzz each target for 5 s
	@tools/fuzz.sh 5s

.PHONY: bench bench-quick
bench: go root ## Measure what a packet costs: a table, and build/bench.json; ONLY=dr4_new: only the figures whose keys match
	@mkdir -p build
	@go run ./internal/bench/cmd -o build/bench.json $(if $(ONLY),-only '$(ONLY)')
bench-quick: go root ## The same with fewer repetitions, in under 40 s
	@mkdir -p build
	@go run ./internal/bench/cmd -o build/bench.json -quick

.PHONY: bench-count
bench-count: go root tools-vm ## Count the instructions of a packet, in an emulated machine (some 2 min)
	@mkdir -p build
	@CGO_ENABLED=0 go build -o build/bench ./internal/bench/cmd
	@build/bench -o build/bench-count.json count

# QUICK=-quick measures less.
QUICK ?=
.PHONY: bench-peers
bench-peers: go root tools-peers tools-vm ## Measure it beside the kernel's ways, IPVS, HAProxy, nginx: build/peers
	@CGO_ENABLED=0 go build -o build/bench ./internal/bench/cmd
	@build/bench -o build/peers $(QUICK) peers

.PHONY: bench-scale
bench-scale: go root ## Measure how costs grow with connections, real servers, services, cores: build/scale
	@go run ./internal/bench/cmd -o build/scale $(QUICK) scale

.PHONY: demo
demo: root $(if $(USE),tools-uses,tools-demo) build ## Show a director at work in network namespaces; KEEP=1 leaves it running; USE=NAME [METHOD=nat] shows a use (docs/uses)
	@CGO_ENABLED=0 go build -o build/demo ./test/demo
	@build/demo -director build/director $(if $(USE),-use $(USE) $(if $(METHOD),-method $(METHOD)),$(if $(filter-out 0 no,$(KEEP)),-keep))

.PHONY: clean
clean: ## Remove what was built
	rm -rf build
