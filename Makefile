# Two commands on a fresh machine: `make demo` searches real data, `make test` passes the tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test lint docs lab bench clean
.DELETE_ON_ERROR:

demo: $(VENV)/.installed
	$(BIN)/gantune search search_spaces/dcgan.yaml
	$(BIN)/gantune best dcgan --export winner
	$(BIN)/gantune report dcgan
	@echo "Look at winner/samples.png and runs/dcgan/report.html"

test: lint
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(VENV)/.installed-dev
	$(BIN)/mkdocs build --strict

lab: $(VENV)/.installed-dev
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[cluster]'
	GANTUNE_LAB=1 $(BIN)/pytest tests/cluster

bench: $(VENV)/.installed
	$(BIN)/python benchmarks/overhead.py
	$(BIN)/python benchmarks/trainer.py

clean:
	rm -rf $(VENV) build site *.egg-info runs trained winner samples.png .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
	find gantune tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	    { echo "gantune needs Python 3.10 or newer; try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@ $(VENV)/.installed
