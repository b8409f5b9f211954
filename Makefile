# ebs-release: `sudo make demo` shows it, `sudo make test` proves it. CONTRIBUTING.md says the rest.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := build

# sudo's PATH does not have Go where the tarball puts it.
GO      := $(shell command -v go || echo /usr/local/go/bin/go)
GOBIN   := $(CURDIR)/bin
export PATH := $(GOBIN):$(dir $(GO)):$(PATH)
export GOFLAGS := -buildvcs=false -trimpath
export CGO_ENABLED := 0

VERSION := $(shell packaging/dev/version)
LDFLAGS := -s -w -X main.version=$(VERSION)

GOLANGCI_LINT := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0

# One fuzzer at a time, as go test wants it: PACKAGE:TARGET.
FUZZERS  := pointer:FuzzParse manifest:FuzzManifest manifest:FuzzChange pack:FuzzReader pack:FuzzOpen \
            filesystem:FuzzExt filesystem:FuzzXFS
FUZZTIME ?= 1m

# Where make test-fast and make race put what tests write and Go links: memory, where it has room. A disk takes milliseconds for each
# fsync. make test runs the same tests on the disk.
MEMORY := $(shell if [ "$$(df --output=avail -k /dev/shm 2>/dev/null | tail -1)" -gt 3000000 ] 2>/dev/null; then echo /dev/shm; else echo $${TMPDIR:-/tmp}; fi)
IN_MEMORY := TMPDIR=$(MEMORY)

.PHONY: build demo test test-fast race check bench fuzz packages clean deps help

build: ## the two programs and the lab, into bin/
	$(GO) build -ldflags '$(LDFLAGS)' -o bin/ebs-release-agent ./agent
	$(GO) build -ldflags '$(LDFLAGS)' -o bin/ebs-release ./publisher
	$(GO) build -o bin/ebs-lab ./internal/lab/cmd/ebs-lab

demo: build ## the main job on one machine, from publish to scale-in (root)
	@packaging/dev/deps demo
	bin/ebs-lab demo --agent bin/ebs-release-agent --publisher bin/ebs-release

test: build ## every test (root)
	@packaging/dev/deps test
	@# -v for the counts that the matrices print; without the lines that only say what runs and what passed. -p 1: emulated machines and tests that
	@# watch the clock, side by side, would make each other late.
	$(GO) test -v -count=1 -p 1 -parallel 4 -timeout 60m ./... 2>&1 | grep --line-buffered -vE '^=== |^ +--- PASS|no test files'

test-fast: build ## the inner loop: everything but the end-to-end scenarios, the virtual machines and the packages
	@# -p 4: most of these tests wait, for children and for deadlines.
	$(IN_MEMORY) $(GO) test -short -p 4 -parallel 4 $$($(GO) list ./... | grep -vE '/internal/(test/|lab/vm$$)|ebs-release/packaging$$')

race: ## the tests that need no built programs and no virtual machine, under the race detector (root)
	@packaging/dev/deps test
	$(IN_MEMORY) CGO_ENABLED=1 $(GO) test -race -short -p 1 -timeout 30m $$($(GO) list ./... | grep -vE '/internal/(test/|lab/vm$$)|ebs-release/(docs|packaging)$$')

check: ## gofmt, go vet, golangci-lint
	@test -z "$$(gofmt -l agent publisher internal packaging docs | tee /dev/stderr)" || { echo 'gofmt: the files above are not formatted; run: gofmt -w agent publisher internal packaging docs' >&2; exit 1; }
	$(GO) vet ./...
	$(GO) run $(GOLANGCI_LINT) run --allow-parallel-runners ./...

fuzz: ## everything that reads what others wrote, a minute each (FUZZTIME=10s)
	@for f in $(FUZZERS); do $(GO) test -run '^$$' -fuzz "^$${f#*:}$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 10x ./internal/$${f%:*}; done

bench: build ## boots and publishes beside the shell scripts that this replaces; docs/performance.md has the figures (root)
	@packaging/dev/deps bench
	$(GO) test -run '^$$' -bench 'Boot$$|BesideTheScript|Size' -benchtime 15x -timeout 30m ./internal/test/bench
	$(GO) test -run '^$$' -bench 'Live|BootBehind' -benchtime 3x -timeout 30m ./internal/test/bench
	$(GO) test -run '^$$' -bench Fleet -benchtime 3x -timeout 2h ./internal/test/bench
	$(GO) test -run '^$$' -bench Warm -benchtime 3x -timeout 1h ./internal/test/bench
	$(GO) test -run '^$$' -bench StormOfBoots -benchtime 3x ./internal/test/bench
	$(GO) test -run '^$$' -bench Followers -benchtime 3x -timeout 1h ./internal/test/bench

packages: ## .deb and .rpm of both programs for amd64 and arm64, into dist/
	packaging/dev/packages

deps: ## the Debian packages that the tests need (root)
	@packaging/dev/deps test

clean: ## what was built
	rm -rf bin dist

help: ## this list
	@sed -n 's/^\([a-z-]*\):[^#]*## /\1\t/p' Makefile | expand -t 12
