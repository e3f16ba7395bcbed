# What a person does with this project: `make demo`, `make test`. `make help` lists the rest.
PYTHON ?= python3
VENV := .venv
VENV_2_11 := .venv-airflow-2.11
VENV_BENCH := .venv-bench
BIN := $(VENV)/bin
UV_VERSION := 0.13.9
# Airflow 2.11 runs on Python 3.10 to 3.12: the first such interpreter, the chosen one before others.
PYTHON_2_11 := $(shell for p in $(PYTHON) python3.12 python3.11 python3.10; do \
	$$p -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 10), (3, 11), (3, 12)))' >/dev/null 2>&1 && echo $$p && break; done)

# The unit tests of what Airflow is part of once more, on Airflow 2.11. It keeps no state of tasks: what tests that
# state says so and is skipped.
ON_2_11 = env -u FLORA_TESTS_LEAVE_NOTHING_OUT $(VENV_2_11)/bin/coverage run -m pytest --quiet \
	tests/unit/provider tests/unit/runs tests/unit/watching tests/unit/files_in tests/unit/files_out

export AIRFLOW_HOME ?= $(CURDIR)/.airflow
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help demo test test-processes test-quick faults check docs airflow build pins format bench clean

help:  ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

demo: $(VENV)/.ready  ## Run a technique from a DAG on a real Airflow and show what happens
	@$(BIN)/python scripts/demo.py

test: $(VENV)/.ready $(if $(PYTHON_2_11),$(VENV_2_11)/.ready) tests/conformance/node_modules/.ready  ## Run the whole test suite
	$(BIN)/coverage erase
	@mkdir -p build
	@echo "The quick tests run beside those of Airflow's processes; what they say comes after these"
	@$(MAKE) --no-print-directory test-quick > build/test-quick.log 2>&1 & quick=$$!; \
	trap 'kill $$quick' INT TERM; \
	$(MAKE) --no-print-directory test-processes; processes=$$?; \
	wait $$quick; quick=$$?; cat build/test-quick.log; exit $$((processes + quick))
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

# Airflow's processes mostly wait: the other tests run beside them.
test-processes:
	$(BIN)/coverage run -m pytest tests/airflow tests/faults

test-quick:
	$(BIN)/coverage run -m pytest --ignore=tests/airflow --ignore=tests/faults
	@$(if $(PYTHON_2_11),$(ON_2_11),echo "No Python 3.10 to 3.12 is here: the unit tests on Airflow 2.11 are left out")

faults: $(VENV)/.ready  ## Kill and break everything, and write what came of it to the docs (20 minutes)
	FLORA_FAULTS=all $(BIN)/python -m pytest --tb=line $(ARGS) tests/faults

check: $(VENV)/.ready  ## Lint, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.ready  ## Build the documentation into docs/_build; warnings are errors
	$(BIN)/sphinx-build -W --keep-going -b html docs docs/_build

airflow: $(VENV)/.ready  ## Start a real Airflow with the emulator behind it and the examples in it
	@$(BIN)/python scripts/airflow_with_emulator.py

bench: $(VENV_BENCH)/.ready  ## Measure beside other providers and write docs/performance.rst (half an hour)
	@$(VENV_BENCH)/bin/python benchmarks/run_all.py $(ARGS)

build: $(VENV)/.ready  ## Build the sdist and, from it, the wheel
	$(BIN)/python -m build

format: $(VENV)/.ready  ## Put the code into its format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

pins: $(VENV)/.ready  ## Resolve the pinned versions anew
	$(BIN)/uv pip compile --quiet --upgrade --universal --no-header --python-version 3.10 \
		--group dev --extra emulator pyproject.toml -o requirements/dev.txt
	$(BIN)/uv pip compile --quiet --upgrade --universal --no-header --python-version 3.10 \
		--group airflow-2-11 --extra emulator pyproject.toml -o requirements/airflow-2.11.txt
	$(BIN)/uv pip compile --quiet --universal --no-header --python-version 3.10 -c requirements/dev.txt \
		--group dev --group bench --extra emulator pyproject.toml -o requirements/bench.txt

clean:  ## Remove everything that make made
	rm -rf $(VENV) $(VENV_2_11) $(VENV_BENCH) .airflow build dist docs/_build tests/conformance/node_modules

# One recipe for both environments. uv installs in seconds; where it cannot reach the index that pip is
# configured for, pip does the same work.
define environment
	$(1) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet uv==$(UV_VERSION)
	$(@D)/bin/uv pip install --quiet --python $(@D)/bin/python -r $(2) \
		|| $(@D)/bin/python -m pip install --quiet -r $(2)
	$(@D)/bin/python -m pip install --quiet --no-deps --no-build-isolation -e .
	touch $@
endef

$(VENV)/.ready: requirements/dev.txt pyproject.toml
	@echo "Installing Airflow and the provider into $(VENV) ..."
	@$(call environment,$(PYTHON),requirements/dev.txt)

$(VENV_2_11)/.ready: requirements/airflow-2.11.txt pyproject.toml
	@echo "Installing Airflow 2.11 into $(VENV_2_11) ..."
	@$(call environment,$(PYTHON_2_11),requirements/airflow-2.11.txt)

$(VENV_BENCH)/.ready: requirements/bench.txt pyproject.toml
	@echo "Installing what the benchmarks compare with into $(VENV_BENCH) ..."
	@$(call environment,$(PYTHON),requirements/bench.txt)

tests/conformance/node_modules/.ready: tests/conformance/package.json
	@if command -v npm >/dev/null; then \
		cd tests/conformance && npm install --no-package-lock --no-audit --no-fund --loglevel=error && touch node_modules/.ready; \
	else echo "npm is not here: the conformance tests will be left out"; fi
