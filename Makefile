.DEFAULT_GOAL := help
SHELL := /bin/sh
PORT ?= 8000
# Python 3.13 if it is installed: group commit is 1.45 times as fast as on 3.11.
PYTHON ?= $(shell for p in python3.13 python3 /usr/bin/python3 python3.12 python3.11; do \
	"$$p" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo "$$p" && break; done)
# The packages beside the service's own: CI installs those of all targets at once.
EXTRAS ?= dev
BIN := .venv/bin
READY := .venv/ready
BROWSER_READY := .venv/browser-ready
# Five test processes at a time, since tests spend some of their time waiting; each process has a
# PostgreSQL of its own, and a file's tests stay together. Browsers need more CPU time.
BESIDE := -n 5 --dist loadfile --no-loadscope-reorder
BROWSERS := -n 2 --dist loadfile

.PHONY: help setup run test static check nightly browser-setup browser browser-short bench bench-short bench-big bench-pair generate clients clients-short oidc dist dist-check crash soak rehearse rehearse-short rehearse-written clean

help: ## Show this help
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | awk -F'\t' '{printf "  make %-17s %s\n", $$1, $$2}'

$(READY): pyproject.toml src/ledger_client/pyproject.toml .ci/constraints.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer (with venv) is needed."; exit 1; }
	"$(PYTHON)" -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		-c .ci/constraints.txt -e src/ledger_client -e '.[$(EXTRAS)]'
	@touch $(READY)

setup: $(READY) ## Make the virtual environment

run: $(READY) ## Start everything on port 8000, with a story to look at
	@exec $(BIN)/python scripts/run.py --port $(PORT)

test: $(READY) ## Run the tests
	@$(BIN)/python -m pytest $(BESIDE)

static: $(READY) ## Format, lint, strict types, imports
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/mypy --config-file src/ledger_client/pyproject.toml src/ledger_client/execution_ledger
	@$(BIN)/lint-imports

check: static test rehearse-short ## All that a change can break: the one verdict, without Node and Chromium

nightly: check crash soak browser clients oidc dist-check rehearse bench ## The long forms: `make -k` goes on after a failure

$(BROWSER_READY): $(READY)
	@$(BIN)/python -c 'import axe_playwright_python, playwright' 2>/dev/null \
		|| $(BIN)/python -m pip install --quiet --disable-pip-version-check \
			-c .ci/constraints.txt -e '.[browser]'
	@scripts/chromium.sh
	@touch $(BROWSER_READY)

browser-setup: $(BROWSER_READY) ## Install the packages of the browser tests

browser: $(BROWSER_READY) ## Test the page in a real Chromium; pictures go to build/screenshots
	@rm -rf build/screenshots
	$(BIN)/python -m pytest $(BROWSERS) -m browser tests/browser

browser-short: $(BROWSER_READY) ## Each behaviour of the page at one width, in one browser; few pictures
	@rm -rf build/screenshots
	$(BIN)/python -m pytest -m 'browser and not soak' tests/browser

bench: $(READY) ## Measure the ledger beside this machine's limits; both figures are printed
	$(BIN)/python scripts/bench

bench-short: $(READY) ## The same on small data in a minute, against half the bounds
	$(BIN)/python scripts/bench --short

bench-big: $(READY) ## The same on 10 M events and 1 M lines; makes them first, and takes an hour
	$(BIN)/python scripts/bench --big

bench-pair: $(READY) ## Compare with the version of OLD=commit: every answer, and the speed
	@test -n "$(OLD)" || { echo "Name a commit: make bench-pair OLD=COMMIT"; exit 2; }
	$(BIN)/python scripts/bench/pair.py --old "$(OLD)"

generate: $(READY) ## Write the generated files of both clients anew, after a change of the API (Node 20)
	$(BIN)/python -m scripts.python_client
	$(BIN)/python -m scripts.typescript_client

clients: $(READY) ## Make clients of the OpenAPI document by public generators, and try them (Node 20)
	@$(BIN)/python -m scripts.clients

clients-short: $(READY) ## Test the ledger's own TypeScript client, if node is installed
	@$(BIN)/python -m scripts.clients --short

oidc: $(READY) ## Sign in by a strict OpenID provider, with logout by the back channel (Node 20)
	@mkdir -p build/oidc
	@cp tests/support/oidc_provider.json build/oidc/package.json
	@cd build/oidc && npm install --no-package-lock --no-audit --no-fund --silent
	$(BIN)/python -m pytest -m soak tests/sign_in/test_strict_provider.py

dist: $(READY) ## Make the packages of a release in dist/, of the last commit (Node 20)
	@$(BIN)/python -m scripts.release

dist-check: $(READY) ## The same twice, for the same bytes; install them, and try what was installed
	@$(BIN)/python -m scripts.release --check

crash: $(READY) ## Kill server and database under load, many times: no acknowledged write is lost
	$(BIN)/python -m pytest -m crash --crash-rounds 50

soak: $(READY) ## The long forms of tests: more random data, more rounds, more cases
	@$(BIN)/python -m pytest $(BESIDE) -m 'soak and not browser'

rehearse: $(READY) ## Break a real cluster in every way; ONLY="NAME…" performs single scenarios
	$(BIN)/python -m scripts.rehearse $(if $(ONLY),--only $(ONLY)) $(if $(BEFORE),--before $(BEFORE))

rehearse-short: $(READY) ## Kill and freeze two nodes on one PostgreSQL, in half a minute
	$(BIN)/python -m scripts.rehearse.short

rehearse-written: $(READY) ## Type the commands of the operator's pages on seven machines with systemd
	$(BIN)/python -m scripts.rehearse.written

clean: ## Remove the environment, caches and data sets (never the data in .ledger)
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
	@git worktree prune 2>/dev/null || true
