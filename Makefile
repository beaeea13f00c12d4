# `make` lists what can be done.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SECONDS ?= 60
GRANTS ?= 200
PYTHONS ?= 3.11 3.12 3.13 3.14

.PHONY: help
help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

# Three environments in one place: `run` is what the product needs, `dev` adds what checks it, `bench` what
# it is measured against.
$(VENV)/.run: requirements.lock pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.dev: requirements-dev.lock $(VENV)/.run
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@touch $@

.PHONY: install
install: $(VENV)/.run ## the environment in .venv, with `evergrant`, `celery` and `honcho` in it

.PHONY: demo
demo: $(VENV)/.run ## a live fleet against a sandbox Buddy, for SECONDS=60 with GRANTS=200
	@$(BIN)/evergrant demo --seconds $(SECONDS) --grants $(GRANTS)

# Tests wait for a third of their time and more, so there are half as many more at once as cores.
AT_ONCE = $$(($$(getconf _NPROCESSORS_ONLN) * 3 / 2))
# Each of these answers within seconds, all of them within minutes. A process takes tests from another that has
# more of them left; tests of one file mostly stay together, as do the servers that they share.
QUICK = -n $(AT_ONCE) --dist worksteal -m "not slow"
# Whole fleets, judged by the clock. Those of one file come one after the other.
SLOW = -n $(AT_ONCE) --dist loadfile -m slow

.PHONY: test
test: $(VENV)/.bench ## the quick tests
	@$(BIN)/python -m pytest $(QUICK)

.PHONY: check
check: lint $(VENV)/.bench ## what must pass before a change lands: lint and every test
	@.ci/second_chance $(BIN)/python $(QUICK)
	@.ci/second_chance $(BIN)/python $(SLOW)

.PHONY: coverage
coverage: $(VENV)/.bench ## the quick tests, and the lines and branches of the product that they miss
	@$(BIN)/python -m pytest $(QUICK) --cov

.PHONY: matrix
matrix: ## the quick tests under each of PYTHONS="3.11 3.12 3.13 3.14" that is found, in .venv-3.X
	@.ci/matrix $(PYTHONS)

.PHONY: servers
servers: $(VENV)/.dev ## the tests of the store against each Redis and Valkey that is found or can be had, in .venv-servers
	@.ci/servers

.PHONY: soak
soak: $(VENV)/.dev ## 1,000 grants of one-minute tokens for SECONDS=300, two workers, two beats; STORE_SERVER= names a program
	@SOAK_SECONDS=$(if $(filter 60,$(SECONDS)),300,$(SECONDS)) SOAK_GRANTS=1000 $(BIN)/python -m pytest -s tests/e2e/test_fleet.py

# What a variable is when only this file has set it, the target's own default takes its place.
chosen = $(if $(filter file,$(origin $(1))),$(2),$($(1)))

.PHONY: chaos
chaos: $(VENV)/.dev ## real processes, killed at random: GRANTS=2000 for SECONDS=300; SEED= replays a plan
	@CHAOS_SECONDS=$(call chosen,SECONDS,300) CHAOS_GRANTS=$(call chosen,GRANTS,2000) CHAOS_SEED=$(SEED) $(BIN)/python -m pytest -s -q tests/chaos

.PHONY: hanging
hanging: $(VENV)/.dev ## 100 grants of one-minute tokens beside 12, then 100 clients that hang, for SECONDS=300 each
	@HANGING_SECONDS=$(call chosen,SECONDS,300) $(BIN)/python -m pytest -s -q tests/e2e/test_hanging.py

.PHONY: rights
rights: $(VENV)/.dev ## a fleet whose Redis user has exactly the documented rights, for SECONDS=300
	@RIGHTS_SECONDS=$(call chosen,SECONDS,300) $(BIN)/python -m pytest -s -q tests/e2e/test_least_rights.py

.PHONY: promises
promises: $(VENV)/.dev ## 20 applications that use promised tokens of GRANTS=200 for SECONDS=300; workers and service are killed
	@PROMISES_SECONDS=$(call chosen,SECONDS,300) PROMISES_GRANTS=$(GRANTS) PROMISES_APPLICATIONS=20 $(BIN)/python -m pytest -s -q tests/e2e/test_promised_tokens.py

.PHONY: webhooks
webhooks: $(VENV)/.dev ## EVENTS=100000 to three receivers, one down, one erring, a fourth hanging; workers and Redis are killed KILLS=20 times
	@WEBHOOK_EVENTS=$(or $(EVENTS),100000) WEBHOOK_KILLS=$(or $(KILLS),20) $(BIN)/python -m pytest -s -q tests/e2e/test_webhooks.py

.PHONY: failovers
failovers: $(VENV)/.dev ## the primary killed FAILOVERS=10 times under the load of GRANTS=1000: Sentinels, then by hand
	@FAILOVERS=$(or $(FAILOVERS),10) FAILOVER_GRANTS=$(call chosen,GRANTS,1000) $(BIN)/python -m pytest -s -q -m trial tests/failovers/test_failovers.py

.PHONY: refusals
refusals: $(VENV)/.dev ## a Redis that refuses writes for 1, 10 and 60 s under the load of GRANTS=1000, in four ways
	@REFUSAL_SECONDS=1,10,60 REFUSAL_GRANTS=$(call chosen,GRANTS,1000) $(BIN)/python -m pytest -s -q -m trial tests/failovers/test_refused_writes.py

.PHONY: connections
connections: $(VENV)/.dev ## a server that is away, silent, full or impatient for SECONDS=60 under the load of GRANTS=1000
	@CONNECTION_SECONDS=$(SECONDS) CONNECTION_GRANTS=$(call chosen,GRANTS,1000) $(BIN)/python -m pytest -s -q -m trial tests/failovers/test_connections.py

# Incidents mostly wait, so three are provoked at once, each on a fleet of its own. What is said wrong fails, and
# stands in the table all the same.
ROWS = $(abspath $(VENV))/.incidents
.PHONY: incidents
incidents: $(VENV)/.dev ## what each face says of each incident, into docs/incidents.md; then a healthy fleet for SECONDS=300, with LINES=10000 imported
	@rm -rf $(ROWS) && mkdir $(ROWS)
	@INCIDENT_ROWS=$(ROWS) $(BIN)/python -m pytest -q -m trial -n 3 tests/incidents/test_incidents.py; said=$$?; \
	  $(BIN)/python -m tests.incidents.page $(ROWS) && exit $$said
	@HEALTHY_SECONDS=$(call chosen,SECONDS,300) HEALTHY_LINES=$(or $(LINES),10000) $(BIN)/python -m pytest -s -q -m trial tests/incidents/test_healthy.py

# Python's servers have an environment of their own; npm's is beside its script.
SERVERS = tests/foreign/servers
$(VENV)-foreign/.done: requirements-foreign.lock
	@test -x $(VENV)-foreign/bin/python || $(PYTHON) -m venv $(VENV)-foreign
	@$(VENV)-foreign/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-foreign.lock
	@touch $@

$(SERVERS)/node_modules/.done: $(SERVERS)/package-lock.json
	@npm ci --prefix $(SERVERS) --no-audit --no-fund --loglevel=error
	@touch $@

.PHONY: foreign
foreign: $(VENV)/.dev $(VENV)-foreign/.done $(SERVERS)/node_modules/.done ## at three servers that others wrote, and webhooks to a fourth; needs Node. SECONDS=300 of other kinds of clients
	@FOREIGN_SECONDS=$(call chosen,SECONDS,300) $(BIN)/python -m pytest -q -s -m foreign tests/foreign

$(VENV)-fuzz/.done: requirements-fuzz.lock
	@test -x $(VENV)-fuzz/bin/python || $(PYTHON) -m venv $(VENV)-fuzz
	@$(VENV)-fuzz/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-fuzz.lock
	@touch $@

.PHONY: fuzz
fuzz: $(VENV)/.dev $(VENV)-fuzz/.done ## calls of the HTTP service made from its OpenAPI document, for SECONDS=300; SEED= replays them
	@FUZZ_SECONDS=$(call chosen,SECONDS,300) FUZZ_SEED=$(SEED) FUZZ_PROGRAM=$(abspath $(VENV)-fuzz)/bin/schemathesis $(BIN)/python -m pytest -q -s -m fuzz tests/fuzz

$(VENV)/.browser: requirements-browser.lock $(VENV)/.dev
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-browser.lock
	@touch $@

# The browser comes with the system, not from the lock file: Debian's package is `chromium`.
BROWSER = tests/browser
$(BROWSER)/node_modules/.done: $(BROWSER)/package-lock.json
	@npm ci --prefix $(BROWSER) --no-audit --no-fund --loglevel=error
	@touch $@

.PHONY: browser
browser: $(VENV)/.browser $(SERVERS)/node_modules/.done $(BROWSER)/node_modules/.done ## people sign in with Chromium, at the sandbox and at oidc-provider, and use the console; needs Node. CHROMIUM= names the program
	@CHROMIUM=$(CHROMIUM) $(BIN)/python -m pytest -q -m browser tests/browser

.PHONY: simulate
simulate: $(VENV)/.dev ## SEEDS=10000 random runs and every small interleaving; SEED= replays one
	@SEED=$(SEED) SEEDS=$(SEEDS) $(BIN)/python -m tests.simulation

.PHONY: weeks
weeks: $(VENV)/.dev ## what a forecast plans beside what then comes, hour by hour: FLEET=3000 grants, DAYS=7
	@FLEET=$(FLEET) DAYS=$(DAYS) $(BIN)/python -m tests.simulation.weeks

$(VENV)/.bench: requirements-bench.lock $(VENV)/.dev
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-bench.lock
	@touch $@

.PHONY: bench
bench: $(VENV)/.bench ## every measurement of docs/performance.md, side by side; ONLY= picks some, REPEATS=3
	@$(BIN)/python -m bench $(if $(REPEATS),--repeats $(REPEATS)) $(ONLY)

.PHONY: lint
lint: $(VENV)/.dev lint-lua ## style, types, the direction of imports, and Lua
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

# luacheck comes with the system, not from the lock file: Debian's package is `lua-check`.
.PHONY: lint-lua
lint-lua: $(VENV)/.run ## the Lua scripts, as Redis is given them
	@$(BIN)/python .ci/lint_lua.py

$(VENV)-deploy/.done: requirements-deploy.lock
	@test -x $(VENV)-deploy/bin/python || $(PYTHON) -m venv $(VENV)-deploy
	@$(VENV)-deploy/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-deploy.lock
	@touch $@

# A kustomization is kubectl's own form: `kubectl kustomize` reads it where there is one, in the tests.
.PHONY: deploy-lint
deploy-lint: $(VENV)-deploy/.done ## the Dockerfile, the compose file and the manifests against linters and schemas
	@$(VENV)-deploy/bin/hadolint deploy/container/Dockerfile
	@$(VENV)-deploy/bin/check-jsonschema --builtin-schema vendor.compose-spec deploy/compose.yaml
	@$(VENV)-deploy/bin/kubernetes-validate --strict --quiet $(filter-out %/kustomization.yaml,$(wildcard deploy/kubernetes/*.yaml))

.PHONY: format
format: $(VENV)/.dev ## put the code into the house style
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

# Renovate repeats the command that uv notes at the head of each file, and reads options only with `=`.
UPGRADE ?= --upgrade
LOCK = $(BIN)/uv pip compile --quiet --universal --python-version=3.11 --generate-hashes $(UPGRADE)

.PHONY: lock
lock: $(VENV)/.dev ## resolve the newest versions into the lock files; UPGRADE= keeps those that still fit
	@$(LOCK) --group=build --group=procfile --output-file=requirements.lock pyproject.toml
	@$(LOCK) --group=build --group=dev --constraint=requirements.lock --output-file=requirements-dev.lock pyproject.toml
	@$(LOCK) --group=bench --constraint=requirements-dev.lock --output-file=requirements-bench.lock pyproject.toml
	@$(LOCK) --group=browser --constraint=requirements-dev.lock --output-file=requirements-browser.lock pyproject.toml
	@$(LOCK) --group=foreign --output-file=requirements-foreign.lock
	@$(LOCK) --group=deploy --output-file=requirements-deploy.lock
	@$(LOCK) --group=fuzz --output-file=requirements-fuzz.lock
	@npm $(if $(UPGRADE),update,install) --prefix $(SERVERS) --package-lock-only --no-audit --no-fund
	@npm $(if $(UPGRADE),update,install) --prefix $(BROWSER) --package-lock-only --no-audit --no-fund

.PHONY: clean
clean: ## remove the environments and what tools left behind
	@rm -rf $(VENV) .venv-* $(SERVERS)/node_modules $(BROWSER)/node_modules dist .coverage* .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
