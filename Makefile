# Everything on a fresh machine, with Python 3.10 to 3.13: `make demo` runs the main job, `make test` passes the tests.
# The demo installs only its own libraries; the tests add those of the other backbones and the developers' tools.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := $(VENV)/.demo
READY := $(VENV)/.ready
INSTALL = $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt

.PHONY: setup demo test test-gpu lint unit format benchmarks benchmarks-gpu performance clean

setup: $(READY)

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(DEMO): pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) -e '.[demo]'
	touch $@

$(READY): $(DEMO)
	$(INSTALL) -e '.[dev]'
	touch $@

demo: $(DEMO)
	$(BIN)/pgn-edge demo

test: lint unit

# Tests that compute go in two processes of one thread each, which takes less time than one process of two threads. Tests
# that wait for servers, cameras and signals go alone (`WAITING` in tests/conftest.py).
unit: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m "not waits" tests
	$(BIN)/python -m pytest -m waits tests

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

# What touches engines and drivers; `doctor` says first what it will find.
test-gpu: $(READY)
	$(BIN)/pgn-edge doctor
	$(BIN)/python -m pytest tests/runtime tests/export/test_compile.py tests/core/test_gpu.py

# On an otherwise idle machine; results land in benchmarks/results. A missed target does not keep the others from being
# measured: the page says which.
benchmarks: $(READY)
	$(INSTALL) -q -e '.[bench]'
	-$(BIN)/python benchmarks/startup.py
	-$(BIN)/python benchmarks/chain.py
	-$(BIN)/python benchmarks/cpu.py
	-$(BIN)/python benchmarks/batching.py
	-$(BIN)/python benchmarks/swap.py
	-$(BIN)/python benchmarks/soak.py
	-$(BIN)/python benchmarks/cameras.py
	-$(BIN)/python benchmarks/remote.py
	-$(BIN)/python benchmarks/service.py
	-$(BIN)/python benchmarks/training.py
	-$(BIN)/python benchmarks/export_speed.py
	$(BIN)/python benchmarks/projections.py
	$(BIN)/python benchmarks/transport.py --latency
	$(BIN)/python benchmarks/transport.py --train
	$(BIN)/python benchmarks/transport.py
	$(BIN)/python benchmarks/export_table.py
	$(BIN)/python benchmarks/performance.py
	$(BIN)/python benchmarks/readme.py

# The same on a machine with an NVIDIA GPU, and TensorRT, TensorRT-RTX or onnxruntime-gpu.
benchmarks-gpu: $(READY)
	$(BIN)/python benchmarks/gpu/roofline.py
	-$(BIN)/python benchmarks/gpu/chain.py
	-$(BIN)/python benchmarks/training.py --device cuda --samples 100 --waiting-steps 20 --output benchmarks/results/gpu
	$(BIN)/python benchmarks/performance.py
	$(BIN)/python benchmarks/readme.py

performance: $(READY)
	$(BIN)/python benchmarks/performance.py
	$(BIN)/python benchmarks/readme.py

clean:
	rm -rf $(VENV) build dist runs *.egg-info
