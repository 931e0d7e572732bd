# Two commands: `make demo` and `make test`. Both make what they need in .venv, once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
NATIVE := CMakeLists.txt $(wildcard src/veilsum/arith/native/*)
SETTINGS := pyproject.toml constraints.txt
PACKAGE := $(shell find src -name '*.py' -o -name '*.css' -o -name '*.parquet')

.PHONY: demo demo-learn test slow quick lint bench docs clean

demo: $(VENV)/.user
	@$(BIN)/veilsum demo

demo-learn: $(VENV)/.user  ## three hospitals train one model on secret shares
	@$(BIN)/veilsum demo learn

# those of real processes need the cores for themselves
PROCESSES := tests/e2e tests/docs tests/bench

test: $(VENV)/.test lint
	$(BIN)/python -m pytest -q -m "not slow" -n 2 --dist worksteal $(addprefix --ignore ,$(PROCESSES))
	$(BIN)/python -m pytest -q -m "not slow" $(PROCESSES)

slow: $(VENV)/.test  ## what takes minutes more, as CI runs it after `make test`
	$(BIN)/python -m pytest -q -m slow -n 2 --dist worksteal $(addprefix --ignore ,$(PROCESSES))
	$(BIN)/python -m pytest -q -m slow $(PROCESSES)

quick: $(VENV)/.test lint  ## what a developer runs while working: no real processes
	$(BIN)/python -m pytest -q -m "not slow" -n 2 --dist worksteal $(addprefix --ignore ,$(PROCESSES))

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.user  ## peers are installed into .bench, never into .venv
	$(BIN)/python bench/transport.py
	$(BIN)/python bench/kernels.py
	$(BIN)/python bench/psi.py
	$(BIN)/python bench/mpc.py

docs: $(VENV)/.docs
	$(BIN)/sphinx-build -W --keep-going -q docs docs/_build/html
	@echo docs/_build/html/index.html

clean:
	rm -rf build dist veilsum-demo docs/_build

# -- stamps: a second run installs nothing

$(VENV)/.new:
	@command -v $(PYTHON) >/dev/null || { echo "python3 is missing: apt-get install python3 python3-venv"; exit 1; }
	@command -v g++ >/dev/null || { echo "a C++ compiler is missing: apt-get install g++"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "veilsum needs Python 3.11 or newer"; exit 1; }
	@echo "making $(VENV)"
	@$(PYTHON) -m venv $(VENV) || { echo "venv is missing: apt-get install python3-venv"; exit 1; }
	@touch $@

# an ordinary installation in .venv, as a user has it; made again when a file of the package changes
$(VENV)/.user: $(VENV)/.new $(SETTINGS) $(NATIVE) $(PACKAGE)
	@test -e $(VENV)/.test || { echo "installing veilsum into $(VENV) (once; about a minute)"; \
	  $(PIP) install -c constraints.txt .; }
	@touch $@

# for developers the package is editable, with everything that the tests need
$(VENV)/.test: $(VENV)/.new $(SETTINGS) $(NATIVE)
	@echo "installing veilsum for tests into $(VENV) (once; about a minute)"
	@$(PIP) install -c constraints.txt "scikit-build-core>=1.1" "nanobind>=3.1,<4" cmake ninja
	@$(PIP) install -c constraints.txt --no-build-isolation -e ".[test]"
	@touch $@

$(VENV)/.docs: $(VENV)/.test
	@$(PIP) install -c constraints.txt --no-build-isolation -e ".[docs]"
	@touch $@
