# What a person does with this project: `make demo`, `make test`. `make help` lists the rest.
PYTHON ?= python3
VENV := .venv
VENV_2_11 := .venv-airflow-2.11
VENV_BENCH := .venv-bench
BIN := $(VENV)/bin
UV_VERSION := 0.13.9

# What `make compatibility` tries, one environment each: the Python, and the day whose packages are installed. An
# `airflow` has the newest packages of that day, as its users had; a `floor` the oldest that pyproject.toml allows.
SETS := airflow-2.11.0 airflow-2.11.2 airflow-3.0.6 airflow-3.1.8 airflow-3.2.2 airflow-3.3.2 floor-2.11.0 floor-3.0.3
airflow-2.11.0 := 3.10 2025-05-25
airflow-2.11.2 := 3.12 2026-03-20
airflow-3.0.6 := 3.11 2025-09-30
airflow-3.1.8 := 3.13 2026-03-20
airflow-3.2.2 := 3.12 2026-07-01
airflow-3.3.2 := 3.13 2026-09-24
floor-2.11.0 := 3.10 2025-05-25
floor-3.0.3 := 3.10 2025-07-19
# Where the unit tests of what Airflow is part of run too: the oldest packages, and an Airflow 3 without a state store.
SETS_WITH_UNIT_TESTS := airflow-3.0.6 floor-2.11.0
# Where the pages in Airflow's UI are looked at too: the oldest Airflow that has them.
SETS_WITH_PAGES := airflow-3.1.8
# $(call find_python,3.12): that Python, on the path or in pyenv; nothing if it is not here.
find_python = $(shell for p in python$(1) "$${PYENV_ROOT:-$$HOME/.pyenv}"/versions/$(1).*/bin/python; do \
	"$$p" -c 'import sys; sys.exit("%d.%d" % sys.version_info[:2] != "$(1)")' >/dev/null 2>&1 && echo "$$p" && break; done)

# Airflow 2.11 runs on Python 3.10 to 3.12: the first such interpreter, the chosen one before others.
PYTHON_2_11 := $(shell for p in $(PYTHON) python3.12 python3.11 python3.10; do \
	$$p -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 10), (3, 11), (3, 12)))' >/dev/null 2>&1 && echo $$p && break; done)

WHEEL := build/compatibility/.built
NODE_MODULES := tests/conformance/node_modules tests/airflow/pages/node_modules

export AIRFLOW_HOME ?= $(CURDIR)/.airflow
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help demo test test-one-airflow test-pages test-airflow test-slow test-2-11 simulate compatibility faults check docs \
	airflow screenshots build pins format bench clean $(foreach kind,on install-on units-on try try-units,$(SETS:%=$(kind)-%))

help:  ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 16

demo: $(VENV)/.ready  ## Run a technique from a DAG on a real Airflow and show what happens
	@$(BIN)/python -m scripts.demo

# $(call beside,COMMAND,OTHER): runs both at once, and fails if one does. The first takes the time that the other leaves:
# Airflow's processes mostly wait, but lose attempts of their tasks if they have to. Its output, which is in $(LOG),
# comes to the terminal in the end.
LOG = build/$@.log
define beside
	@mkdir -p build
	@nice -n 5 $(1) > $(LOG) 2>&1 & first=$$!; trap 'kill $$first' INT TERM; \
	$(2); second=$$?; wait $$first; first=$$?; cat $(LOG); exit $$((first + second))
endef
AND_ALL = $(MAKE) --no-print-directory --keep-going

# Several processes, each with whole files. A test that hangs ends its process and shows where it was.
BY_FILE = --dist loadfile -o faulthandler_timeout=1800 -o faulthandler_exit_on_timeout=true
IN_PARALLEL = $(BY_FILE) --no-loadscope-reorder

test: $(VENV)/.ready $(NODE_MODULES:%=%/.ready)  ## Run the tests a person waits for, one real kill among them
	@echo "The unit tests run beside those of real Airflow processes; their output comes in the end"
	$(call beside,\
		$(BIN)/python -m pytest -n 4 $(IN_PARALLEL) -m "not slow" --cov --cov-report term \
			--ignore=tests/airflow --ignore=tests/compatibility --ignore=tests/faults,\
		$(AND_ALL) test-one-airflow test-pages)

test-one-airflow: $(VENV)/.ready
	$(BIN)/python -m pytest tests/airflow/test_processes.py tests/faults/test_faults.py

test-pages: $(VENV)/.ready $(NODE_MODULES:%=%/.ready)
	$(BIN)/python -m pytest tests/airflow/pages

test-airflow: $(VENV)/.ready $(if $(PYTHON_2_11),$(VENV_2_11)/.ready)  ## Run the tests of real Airflow processes, and the slow tests
	$(call beside,\
		$(AND_ALL) test-slow test-2-11,\
		FLORA_FAULTS=part $(BIN)/python -m pytest tests/airflow --ignore=tests/airflow/pages \
			--ignore=tests/airflow/test_processes.py tests/faults)

test-slow: $(VENV)/.ready
	$(BIN)/python -m pytest -n 2 $(IN_PARALLEL) -m slow tests/unit tests/docs tests/simulation

# What `make compatibility` cannot run on Airflow 2: its sets have neither S3 nor OpenLineage. There is no store of
# task states: what tests that says so and is skipped.
test-2-11: $(if $(PYTHON_2_11),$(VENV_2_11)/.ready)
	$(if $(PYTHON_2_11),env -u FLORA_TESTS_LEAVE_NOTHING_OUT $(VENV_2_11)/bin/python -m pytest --quiet \
		-n 2 $(IN_PARALLEL) tests/unit/files tests/unit/lineage tests/unit/batch tests/unit/test_dags_and_provider.py,\
		@echo "No Python 3.10 to 3.12 is here: the tests on Airflow 2.11 are left out")

simulate: $(VENV)/.ready  ## Play histories of tasks in a modelled world: SEED=1 COUNT=20000 JOBS=2
	$(BIN)/python -m tests.simulation $(if $(SEED),--seed $(SEED)) $(if $(COUNT),--count $(COUNT)) $(if $(JOBS),--jobs $(JOBS)) $(ARGS)

# One set at a time: beside each other, Airflows of two slow cores lose attempts of their tasks.
compatibility: $(VENV)/.ready $(NODE_MODULES:%=%/.ready) $(WHEEL)  ## Try the built wheel on each Airflow that is supported, with the packages of its day
	@$(MAKE) --no-print-directory $(SETS_WITH_UNIT_TESTS:%=install-on-%)
	@echo "Unit tests run beside the others; their output comes in the end"
	$(call beside,$(AND_ALL) $(SETS_WITH_UNIT_TESTS:%=units-on-%),$(AND_ALL) $(SETS:%=on-%))

$(WHEEL): $(VENV)/.ready pyproject.toml README.md hatch_build.py $(shell find airflow_provider_flora -type f -not -name '*.pyc')
	@rm -rf $(@D)
	@$(BIN)/python -m build --no-isolation --wheel --outdir $(@D) . > /dev/null
	@touch $@

# $(call if_here,SET,TARGET)
if_here = if [ -n "$(call find_python,$(firstword $($(1))))" ]; then \
		echo "=== $(2)"; $(MAKE) --no-print-directory $(2); \
	else \
		echo "=== $(1) is left out: no Python $(firstword $($(1))) is here"; [ -z "$$FLORA_TESTS_LEAVE_NOTHING_OUT" ]; \
	fi

$(SETS:%=on-%): on-%: $(WHEEL)
	@$(call if_here,$*,try-$*)
$(SETS:%=install-on-%): install-on-%: $(WHEEL)
	@$(call if_here,$*,.venv-$*/.wheel)
$(SETS:%=units-on-%): units-on-%: $(WHEEL)
	@$(call if_here,$*,try-units-$*)

# The wheel, so that nothing of the checkout is taken for granted: it comes before the checkout, from which the tests
# are imported.
$(SETS:%=.venv-%/.wheel): .venv-%/.wheel: .venv-%/.ready $(WHEEL)
	@$(BIN)/uv pip install --quiet --no-deps --reinstall --python .venv-$*/bin/python $(dir $(WHEEL))*.whl
	@$(BIN)/uv pip check --quiet --python .venv-$*/bin/python
	@touch $@

$(SETS:%=try-%): try-%: .venv-%/.wheel
	FLORA_AIRFLOW_PYTHON=.venv-$*/bin/python $(BIN)/python -m pytest --quiet tests/compatibility
	$(if $(filter $*,$(SETS_WITH_PAGES)),FLORA_AIRFLOW_PYTHON=.venv-$*/bin/python $(BIN)/python -m pytest --quiet \
		tests/airflow/pages)

# What is not there on an older Airflow is skipped by unit tests that say so.
$(SETS:%=try-units-%): try-units-%: .venv-%/.wheel
	env -u FLORA_TESTS_LEAVE_NOTHING_OUT .venv-$*/bin/pytest --quiet \
		-n 2 $(BY_FILE) --import-mode=append tests/unit --ignore=tests/unit/api --ignore=tests/unit/files

faults: $(VENV)/.ready  ## Kill and break everything, and write what came of it to the docs (an hour)
	FLORA_FAULTS=all $(BIN)/python -m pytest --tb=line $(ARGS) tests/faults

check: $(VENV)/.ready  ## Lint, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.ready  ## Build the documentation into docs/_build; warnings are errors
	$(BIN)/sphinx-build -W --keep-going -b html docs docs/_build

airflow: $(VENV)/.ready  ## Start a real Airflow with the emulator behind it and a run of each example in it
	@$(BIN)/python -m scripts.airflow_with_emulator

screenshots: $(VENV)/.ready  ## Take the pictures of the docs, in the system's Chromium (5 minutes)
	@$(BIN)/python -m scripts.screenshots

bench: $(VENV_BENCH)/.ready  ## Measure beside other providers and write docs/performance.rst (40 minutes)
	@$(VENV_BENCH)/bin/python -m benchmarks.run_all $(ARGS)

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
	@$(MAKE) --no-print-directory $(SETS:%=pins-%)

# The day stays: these change with pyproject.toml alone. PyAV has no wheel for each Python, and takes FFmpeg to build.
$(SETS:%=pins-%): pins-%:
	echo 'apache-airflow==$(lastword $(subst -, ,$*))' | $(BIN)/uv pip compile --quiet --upgrade --no-header \
		--python-version $(firstword $($*)) --exclude-newer $(lastword $($*)) $(if $(filter floor-%,$*),--resolution lowest-direct) \
		--only-binary av --group unit-test --extra emulator pyproject.toml - -o requirements/$*.txt

clean:  ## Remove everything that make made
	rm -rf $(VENV) $(VENV_2_11) $(VENV_BENCH) $(SETS:%=.venv-%) .airflow build dist docs/_build $(NODE_MODULES)

# One recipe for all environments. uv installs in seconds; where it cannot reach the index that pip is configured for,
# pip does the same work.
define environment
	$(1) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet uv==$(UV_VERSION)
	$(@D)/bin/uv pip install --quiet --python $(@D)/bin/python -r $(2) \
		|| $(@D)/bin/python -m pip install --quiet -r $(2)
	$(3)
	touch $@
endef
with_checkout = $(@D)/bin/python -m pip install --quiet --no-deps --no-build-isolation -e .

$(VENV)/.ready: requirements/dev.txt pyproject.toml
	@echo "Installing Airflow and the provider into $(VENV) ..."
	@$(call environment,$(PYTHON),requirements/dev.txt,$(with_checkout))

$(VENV_2_11)/.ready: requirements/airflow-2.11.txt pyproject.toml
	@echo "Installing Airflow 2.11 into $(VENV_2_11) ..."
	@$(call environment,$(PYTHON_2_11),requirements/airflow-2.11.txt,$(with_checkout))

$(VENV_BENCH)/.ready: requirements/bench.txt pyproject.toml
	@echo "Installing what the benchmarks compare with into $(VENV_BENCH) ..."
	@$(call environment,$(PYTHON),requirements/bench.txt,$(with_checkout))

$(SETS:%=.venv-%/.ready): .venv-%/.ready: requirements/%.txt
	@echo "Installing $* into $(@D) ..."
	@$(call environment,$(call find_python,$(firstword $($*))),requirements/$*.txt)

tests/%/node_modules/.ready: tests/%/package.json
	@if command -v npm >/dev/null; then \
		cd $(<D) && npm install --no-package-lock --no-audit --no-fund --loglevel=error && touch node_modules/.ready; \
	else echo "npm is not here: the tests in $(<D) that need it will be left out"; fi
