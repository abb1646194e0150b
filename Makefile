# Everything on a fresh machine: `make demo` runs the main job, `make test` passes the tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: setup demo test lint unit format benchmarks clean

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: $(READY)
	$(BIN)/pgn-edge demo

test: lint unit

unit: $(READY)
	$(BIN)/python -m pytest

# Neither mypy nor import-linter sees the mapped packages of an editable install, so both read an installed copy.
lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	rm -rf build/copy build/lib build/bdist.*
	$(BIN)/python -m pip install --disable-pip-version-check -q --no-deps --target build/copy .
	cd build/copy && ../../$(BIN)/lint-imports --config ../../pyproject.toml --cache-dir ../imports
	cd build/copy && ../../$(BIN)/mypy --config-file ../../pyproject.toml --cache-dir ../mypy -p pgn_edge

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# On an otherwise idle machine; results land in benchmarks/results.
benchmarks: $(READY)
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/chain.py
	$(BIN)/python benchmarks/export_speed.py
	$(BIN)/python benchmarks/export_table.py

clean:
	rm -rf $(VENV) build dist runs *.egg-info
