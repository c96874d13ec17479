# Needs Python 3.11 or newer and make; everything else goes into .venv.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test soak clean

# The learning-rate question on synthetic data: a minute or two on two cores, after the installation.
demo: .venv/demo
	$(BIN)/python train.py experiment=quickstart

# Lint, types, tests: more workers than cores, because many tests wait for processes. Modules are
# compiled once, not by each of these processes, also where an environment variable asks for that.
test: export OMP_NUM_THREADS := 1
test: export PYTHONDONTWRITEBYTECODE :=
test: .venv/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q -rs -n 4 --dist loadfile --no-loadscope-reorder -m "not soak"

# The long campaigns: kills, many seeds.
soak: .venv/test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m soak

clean:
	rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache

.venv/bin/python:
	$(PYTHON) -m venv .venv

# One installation serves both; `make test` adds its tools.
.venv/demo: .venv/bin/python pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --constraint constraints.txt --editable .
	touch $@

.venv/test: .venv/demo
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[test]"
	touch $@
