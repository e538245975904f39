# Every target is one line that also works typed by hand.
GO ?= go
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help build agents up deps test short race conformance bench fuzz lint

help: ## Show this help
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## Build bin/vauban, and bin/azsphere, which is the same by another name
	CGO_ENABLED=0 $(GO) build -trimpath -o bin/vauban ./cmd/vauban
	ln -sf vauban bin/azsphere

# A MIPS processor of a device has no floating point more often than not.
agents: ## Build bin/agents/vauban-agent-linux-ARCH for devices
	@set -e; for a in amd64 arm64 arm riscv64 mips mipsle; do echo "linux/$$a"; \
		CGO_ENABLED=0 GOOS=linux GOARCH=$$a GOMIPS=softfloat $(GO) build -trimpath -ldflags "-s -w" -o bin/agents/vauban-agent-linux-$$a ./cmd/vauban-agent; done

up: build ## Run the whole platform here; make up ARGS=--demo adds virtual boards
	bin/vauban up $(ARGS)

deps: ## Install what the tests stand on: Debian packages and the SDKs from npm
	sh test/deps.sh

test: deps ## Pass all tests: units, contracts, SDKs, browser, crashes
	$(GO) vet ./...
	$(GO) test -timeout 12m ./...
	$(GO) test -race -timeout 10m -run 'Repeat|SameSeed' ./rtos/... ./board/... ./sim/fleet ./sim/infection

short: ## Tests that need nothing installed, in a minute
	$(GO) test -short ./...

race: ## The same under the race detector
	$(GO) test -race -short -timeout 15m ./...

conformance: deps ## Run all tests and write docs/conformance.md
	$(GO) test -timeout 12m -json ./... | $(GO) run ./internal/conform/report -o docs/conformance.md

bench: build ## Measure against mosquitto (Debian) in the same run
	bin/vauban bench --mosquitto $(ARGS)

FUZZTIME ?= 10s
fuzz: ## Fuzz every parser for FUZZTIME each
	@set -e; for f in $$(grep -rl --include='*_test.go' '^func Fuzz' .); do for t in $$(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\).*/\1/p' $$f); do \
		echo "$$(dirname $$f) $$t"; $(GO) test $$(dirname $$f) -run '^$$' -fuzz "^$$t\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 10x; done; done

lint: ## Look for bugs with golangci-lint, pinned in tools.mod
	$(GO) tool -modfile=tools.mod golangci-lint run ./...
