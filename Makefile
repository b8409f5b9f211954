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

VERSION := $(shell git -c safe.directory='*' describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X main.version=$(VERSION)

STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2

.PHONY: build demo test test-fast check bench fuzz clean deps

build: ## the two programs and the lab, into bin/
	$(GO) build -ldflags '$(LDFLAGS)' -o bin/ebs-release-agent ./agent
	$(GO) build -ldflags '$(LDFLAGS)' -o bin/ebs-release ./publisher
	$(GO) build -o bin/ebs-lab ./internal/lab/cmd/ebs-lab

demo: deps build ## the main job on one machine, from publish to scale-in (root)
	bin/ebs-lab demo --agent bin/ebs-release-agent --publisher bin/ebs-release

test: deps build ## every test (root)
	$(GO) test -count=1 -timeout 40m ./...

test-fast: build ## the inner loop: everything but the end-to-end scenarios
	$(GO) test $$($(GO) list ./... | grep -v /lab/e2e)

check: ## gofmt, go vet, staticcheck
	@test -z "$$(gofmt -l agent publisher internal | tee /dev/stderr)" || { echo 'gofmt: the files above are not formatted; run: gofmt -w agent publisher internal' >&2; exit 1; }
	$(GO) vet ./...
	$(GO) run $(STATICCHECK) ./...

deps: ## the Debian packages that the lab needs
	@packaging/dev/deps

clean:
	rm -rf bin dist
