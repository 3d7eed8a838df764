# The commands people need. Each is a script or a line of cargo, nothing hidden.

.DEFAULT_GOAL := help
.PHONY: help demo test bench soak fuzz fmt lint

help: ## Shows these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-6s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: ## Builds shipbell and shows it at work on a real registry (ONCE=1: checks the webhook and ends)
	@scripts/demo

test: ## Installs what the checks need, and runs them all
	@scripts/install-test-tools
	@scripts/test

bench: ## Measures shipbell beside its floors and peers, as one table (ONLY=append: those rows; ONLY=lists: lists and pages; ROUNDS=3; QUICK=1)
	@scripts/bench

soak: ## Runs the tests of the journal's durability for hours (MODEL_CASES=1000000, ROUNDS=1000)
	@scripts/soak

fuzz: ## Runs each fuzz target for a minute (SECONDS_EACH=600: for ten)
	@scripts/fuzz

fmt: ## Formats the sources
	cargo fmt

lint: ## Checks formatting and lints, as make test does
	cargo fmt --check
	cargo clippy --all-targets --locked -- -D warnings
