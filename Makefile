# The same commands that CI runs. Everything is installed into .venv, from pinned requirements.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: help demo test check format bench clean
help: ## Show this.
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/.run: requirements.txt pyproject.toml tools/venv.sh
	@tools/venv.sh $(PYTHON) $(VENV) requirements.txt
	@touch $@

$(VENV)/.dev: requirements-dev.txt requirements.txt pyproject.toml tools/venv.sh
	@tools/venv.sh $(PYTHON) $(VENV) requirements-dev.txt
	@touch $@ $(VENV)/.run

demo: $(VENV)/.run ## Watch it survive a broker outage and a kill; about a minute.
	@tools/rabbitmq.sh
	@$(BIN)/replicator demo

test: $(VENV)/.dev ## Run all tests; the last lines say against which servers.
	@tools/rabbitmq.sh
	@$(BIN)/python -m pytest -q

check: $(VENV)/.dev ## Lint, types, layers, and the migrations against the declared schema.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	@tools/check-migrations.sh $(BIN)/alembic

format: $(VENV)/.dev ## Put the code into the one form.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.dev ## Measure against the tutorial's feeder, and the bounds on memory and restart.
	@tools/rabbitmq.sh
	$(BIN)/python -m benchmarks.drain
	$(BIN)/python -m benchmarks.restart
	$(BIN)/python -m benchmarks.backlog

clean: ## Remove what make has made.
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
