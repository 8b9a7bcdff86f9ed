# make demo   gates a real model with `pytest --quantgate gates.yaml`
# make test   runs every check: ruff, mypy, import-linter, pytest with coverage
# Both set themselves up: a virtual environment, the package, the engine (compiled once, some minutes).

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
WORKERS ?= 2
PYTEST_ARGS ?=

.PHONY: demo test lint types layers unit setup clean

demo: $(VENV)/.demo
	$(BIN)/pytest --quantgate gates.yaml -v

test: lint types layers unit

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/mypy

layers: $(VENV)/.dev
	$(BIN)/lint-imports

# Plugins load before a coverage plugin could start, so coverage starts pytest. First come the tests that
# judge times and want the machine for themselves; 5 is pytest's way to say that there were none.
unit: $(VENV)/.dev
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest tests -ra -m alone $(PYTEST_ARGS) || [ $$? -eq 5 ]
	$(BIN)/coverage run -m pytest tests -ra -m "not alone" -n $(WORKERS) $(PYTEST_ARGS)
	$(BIN)/coverage combine -q
	$(BIN)/coverage report

setup: $(VENV)/.dev

$(VENV)/.pip:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q "pip>=25.1"
	@touch $@

$(VENV)/.demo: $(VENV)/.pip pyproject.toml
	@echo "installing; the engine is compiled the first time, which takes some minutes"
	$(BIN)/python -m pip install -q -e ".[demo]"
	@touch $@

$(VENV)/.dev: $(VENV)/.demo pyproject.toml
	$(BIN)/python -m pip install -q -e ".[demo,convert,lm-eval,nvidia,signing]" --group dev
	@touch $@

clean:
	rm -rf $(VENV) .quantgate build dist .coverage .coverage.* .mypy_cache .ruff_cache .pytest_cache
