# Two commands do everything, set-up included:
#   make demo    fine-tune the bundled model on a bundled task, in about two minutes
#   make test    run the tests
# They build a virtual environment in .venv and touch nothing outside this folder.

PYTHON ?= python3
# torch goes first and alone: asked for by another package, pip may take a build with gigabytes of CUDA.
# On Linux with a GPU, or for another index, say what pip should install: make demo TORCH="torch"
TORCH ?= torch==2.13.0
TEST_JOBS ?= 2
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
KERNELS := $(VENV)/.ready-kernels

.PHONY: demo test lint examples setup clean

demo: $(READY)
	$(BIN)/neurolora demo

test: $(KERNELS)
	OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false $(BIN)/python -m pytest -n $(TEST_JOBS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

examples: $(READY)
	for script in examples/*.py; do echo "== $$script"; OMP_NUM_THREADS=1 $(BIN)/python $$script || exit 1; done

setup: $(READY)

$(READY): pyproject.toml requirements/tested.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and \
	  f"neurolora needs Python 3.11 or newer, {sys.executable} is {v.major}.{v.minor}. Try: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(TORCH)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  --constraint requirements/tested.txt --editable '.[dev]'
	@touch $(READY)

# Triton is big and only the tests of the GPU's kernels need it, in its interpreter; Linux has it alone.
$(KERNELS): $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  --constraint requirements/tested.txt --editable '.[kernels]'
	@touch $(KERNELS)

clean:
	rm -rf $(VENV) build dist runs .pytest_cache .mypy_cache .ruff_cache
