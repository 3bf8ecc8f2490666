# The commands that CI runs too. Everything is installed into .venv, from pinned requirements.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Which RabbitMQ 4 is tested; demo, tests and benchmarks run on RABBITMQ_HOME too, if it is set.
RABBITMQ4 := $(or $(RABBITMQ_HOME),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/replicator/rabbitmq4)
# At the end of a run: how long the slowest took.
SLOWEST := --durations=10 --durations-min=1

.PHONY: help demo test test-quick test-pythons test-rabbitmq4 faults soak audit coverage check docs deploy-check image-check compose-check format bench clean
help: ## Show this help.
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## /{printf "make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/.run: requirements.txt pyproject.toml sandbox/pyproject.toml tools/venv.sh
	@tools/venv.sh $(PYTHON) $(VENV) requirements.txt
	@touch $@

$(VENV)/.dev: requirements-dev.txt requirements-docs.txt requirements.txt pyproject.toml sandbox/pyproject.toml tools/venv.sh
	@tools/venv.sh $(PYTHON) $(VENV) requirements-dev.txt
	@touch $@ $(VENV)/.run

$(VENV)/.bench: requirements-bench.txt requirements.txt pyproject.toml sandbox/pyproject.toml tools/venv.sh
	@tools/venv.sh $(PYTHON) $(VENV) requirements-bench.txt
	@touch $@ $(VENV)/.run

demo: $(VENV)/.run ## Watch it survive a broker outage and a kill, in about a minute.
	@tools/rabbitmq.sh
	@$(BIN)/replicator demo

test: $(VENV)/.dev ## Run all tests; the last lines say against which servers.
	@RABBITMQ_URL= tools/rabbitmq.sh
	@$(BIN)/python -m pytest -q -n 2 --dist loadfile $(SLOWEST) --ignore=tests/faults --ignore=tests/image

test-quick: $(VENV)/.dev ## Run the tests that need no server.
	@$(BIN)/python -m pytest -q -n 2 --dist loadfile tests/unit tests/outbox

test-pythons: ## Run test-quick on the promised Pythons besides the one of make test.
	@tools/test-pythons.sh $(PYTHON)

test-rabbitmq4: $(VENV)/.dev ## Run what concerns RabbitMQ on a RabbitMQ 4, with short faults.
	@[ -n "$(RABBITMQ_HOME)" ] || tools/rabbitmq4.sh "$(RABBITMQ4)"
	@RABBITMQ_HOME="$(RABBITMQ4)" $(BIN)/python tools/rabbitmq_version.py 4
	@# Of the faults: clusters, a sick node, kills around a publication, one random run of two lanes.
	@RABBITMQ_HOME="$(RABBITMQ4)" $(BIN)/python -m pytest -q -n 2 --dist loadfile $(SLOWEST) \
	    --ignore-glob='*/test_source_*' --ignore-glob='*/test_page_*' --ignore-glob='*/test_web_*' \
	    --ignore-glob='*/test_fuzz_*' --ignore-glob='*/test_rethinkdb_*' \
	    --ignore-glob='*/test_pipeline_*' --ignore-glob='*/test_checker.py' \
	    --ignore-glob='*/test_outbox_*' --ignore-glob='*/test_odd_*' \
	    -k "(not crash_points or write or confirmed) and (not random_faults or on_each_rabbitmq)" \
	    tests/integration tests/acceptance tests/faults

faults: $(VENV)/.dev ## Break everything while it runs; RUNS=500 LANES=3 runs the long campaign.
	@RABBITMQ_URL= tools/rabbitmq.sh
	@if [ -z "$(RUNS)" ]; then $(BIN)/python -m pytest -q -n 2 --dist loadfile tests/faults; \
	else $(BIN)/python -m tests.faults.campaign --runs $(RUNS) --lanes $(or $(LANES),1) \
	    $(if $(SEED),--seed $(SEED)) --output faults.jsonl && \
	    $(BIN)/python -m tests.faults.report faults.jsonl; fi

soak: $(VENV)/.dev ## Run an hour under load with a fault every 20 seconds, then publish a million entries.
	@RABBITMQ_URL= tools/rabbitmq.sh
	$(BIN)/python -m tests.faults.soak --minutes $(or $(MINUTES),60)
	$(BIN)/python -m tests.faults.outage

coverage: $(VENV)/.dev ## Check that tests reach every branch of the decisions (replicator/domain).
	@$(BIN)/coverage erase
	@$(BIN)/coverage run --branch --source=replicator/domain -m pytest -q tests/unit
	@$(BIN)/coverage report --show-missing --fail-under=100

check: $(VENV)/.dev ## Check style, types, layers, migrations against the declared schema, and the site.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	@tools/check-migrations.sh $(BIN)/alembic
	@$(MAKE) --no-print-directory docs

docs: $(VENV)/.dev ## Build the documentation into site/, and check its links and anchors.
	@# Not --quiet: --strict counts the warnings that are shown.
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

deploy-check: $(VENV)/.dev ## Check deploy/ and grafana/ with promtool, hadolint, Compose and Kubernetes' schemas.
	@tools/deploy-check.sh $(BIN)

image-check: $(VENV)/.dev ## Build the image and run it: rights, health, signals, what it says in the end.
	@RABBITMQ_URL= tools/rabbitmq.sh
	@tools/engine.sh tools/image-check.sh $(BIN)

compose-check: $(VENV)/.dev ## Bring deploy/compose.yaml up, follow a document through it, restart it.
	@tools/engine.sh tools/compose-check.sh $(BIN)

audit: ## Ask PyPI whether any pinned package has a known weakness.
	@tools/audit.sh $(PYTHON) .venv-audit

format: $(VENV)/.dev ## Format the code, and fix what ruff can fix.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.bench ## Compare with other programs; WORK="drain live" selects, ROUNDS=3, SCALE=1, OUTPUT.
	@RABBITMQ_URL= tools/rabbitmq.sh
	$(BIN)/python -m benchmarks $(WORK) --rounds $(or $(ROUNDS),3) --scale $(or $(SCALE),1) \
		$(if $(OUTPUT),--output $(OUTPUT)) --rabbitmq-args="$(RABBITMQ_ARGS)"

clean: ## Remove everything that make has created.
	rm -rf $(VENV) .venv-* site .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .grimp_cache .coverage
