# Two commands for a fresh clone:   make demo   (ask the embedded model about an image)   and   make test
# Each target makes its virtual environment by itself; a second call finds it ready.
#
#   PYTHON=python3.12            the interpreter the environment is made with (3.10 or newer)
#   VENV=.venv-4.57              where the environment lives
#   TRANSFORMERS=4.57.6          the Transformers version in it
#   PYTEST_ARGS="tests/parity"    further arguments for pytest
#
# make test-vllm   runs vLLM itself (its CPU build, some 2 GB in .venv-vllm) and compares its answers with generate's.

PYTHON ?= python3
VENV ?= .venv
TRANSFORMERS ?= $(shell $(PYTHON) -c 'import sys; print("5.24.0" if sys.version_info >= (3, 11) else "5.20.2")')
WORKERS ?= 2
PYTEST_ARGS ?=
HARNESS_VENV ?= .venv-harness
# Each Gradio goes with one line of huggingface_hub.
GRADIO := $(if $(filter 4.%,$(TRANSFORMERS)),gradio==6.17.3 gradio_client==2.5.0,gradio==6.31.0 gradio_client==2.7.2)

# A file's tests run in one process, which makes its fixtures once; tests/conftest.py puts the long files first.
SPREAD = -n $(WORKERS) --dist loadfile --no-loadscope-reorder

# vLLM brings a Transformers of its own.
VLLM := .venv-vllm

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# The stamps carry the Transformers version, so that another version re-installs instead of finding the old one.
READY := $(VENV)/.ready-$(TRANSFORMERS)
READY_DEV := $(VENV)/.ready-dev-$(TRANSFORMERS)
# Transformers' own common model tests come with its source distribution only.
COMMON_TESTS := $(VENV)/transformers-$(TRANSFORMERS)/tests
# A thread per process; freed memory stays with it, since new pages for each tensor take 4 % of the time (glibc); the
# processes compile a file once.
TEST_SETTINGS := OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1 PYTHONDONTWRITEBYTECODE= \
    MALLOC_TOP_PAD_=67108864 MALLOC_TRIM_THRESHOLD_=268435456 MALLOC_MMAP_THRESHOLD_=33554432
SOURCES := modeling conversion xgenmm_hf examples tests setup.py

.PHONY: demo test test-vllm test-oldest test-newest test-harnesses recipe eval bench docs lint typecheck format clean
.DELETE_ON_ERROR:

demo: $(READY)
	@$(BIN)/python examples/demo.py

test: $(READY_DEV) $(COMMON_TESTS)/test_modeling_common.py
	$(TEST_SETTINGS) XGENMM_TRANSFORMERS_TESTS=$(COMMON_TESTS) $(BIN)/pytest $(SPREAD) --durations 25 $(PYTEST_ARGS)

test-vllm: $(VLLM)/.ready
	$(VLLM)/bin/python -m pytest tests/vllm $(PYTEST_ARGS)

$(VLLM)/.ready: setup.py constraints.txt tests/vllm/requirements.txt
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -m pip --disable-pip-version-check install --quiet -c constraints.txt torch
	$(VLLM)/bin/python -m pip --disable-pip-version-check install --quiet --no-deps -r tests/vllm/requirements.txt
	$(VLLM)/bin/python -m pip --disable-pip-version-check install --quiet --no-deps --no-build-isolation -e .
	@touch $@

# The fast tests with the lower bounds of setup.py, and with the newest release of everything but PyTorch.
FAST := tests/modeling tests/parity tests/conversion tests/packaging tests/xgenmm_hf/inference tests/xgenmm_hf/cli
FAST_TEST = $(TEST_SETTINGS) $(1)/bin/pytest $(SPREAD) -m "not slow" $(FAST) $(PYTEST_ARGS)

test-oldest:
	$(PYTHON) tests/support/bounds.py oldest .venv-oldest
	$(call FAST_TEST,.venv-oldest)

test-newest:
	$(PYTHON) tests/support/bounds.py newest .venv-newest
	$(call FAST_TEST,.venv-newest)

# Every benchmark's command through lmms-eval and VLMEvalKit themselves, on stand-in data; in an environment of its own.
test-harnesses: $(HARNESS_VENV)/.ready
	$(TEST_SETTINGS) $(HARNESS_VENV)/bin/python -m pytest $(PYTEST_ARGS) \
	    tests/xgenmm_hf/evaluation/test_harness_commands.py tests/xgenmm_hf/evaluation/test_lmms_eval.py \
	    tests/xgenmm_hf/evaluation/test_vlmevalkit.py tests/xgenmm_hf/evaluation/metrics

$(HARNESS_VENV)/.ready: setup.py constraints.txt tests/support/harnesses.txt
	$(PYTHON) -m venv $(HARNESS_VENV)
	$(HARNESS_VENV)/bin/python -m pip --disable-pip-version-check install --quiet -c constraints.txt torch setuptools wheel
	$(HARNESS_VENV)/bin/python -m pip --disable-pip-version-check install --quiet --no-deps -r tests/support/harnesses.txt
	$(HARNESS_VENV)/bin/python -m pip --disable-pip-version-check install --quiet --no-deps --no-build-isolation -e .
	@touch $@

# The embedded model through the whole recipe, from nothing: hours on two cores. What is done is found again.
recipe: $(READY_DEV)
	PYTHONPATH=examples $(BIN)/python -m embedded_model --work runs/recipe

# Measures the embedded model and rewrites the table of examples/embedded_model/README.md: half an hour.
eval: $(READY_DEV)
	HF_HUB_OFFLINE=1 PYTHONPATH=examples $(BIN)/python -m embedded_model.measure.table --work runs/eval

# Speed and memory of every part against the machine's limits, in minutes on two cores.
bench: $(READY_DEV)
	$(BIN)/python tests/benchmarks/bench.py --preset 4b-slice --device cpu

# The documentation site, into build/site; a warning is an error.
docs: docs/requirements.txt
	$(PYTHON) -m venv build/docs-env && build/docs-env/bin/pip install --quiet -r docs/requirements.txt
	@rm -rf build/reference && mkdir -p build/reference/xgenmm_hf
	@cp -r xgenmm_hf build/reference/ && cp -r modeling conversion build/reference/xgenmm_hf/
	NO_MKDOCS_2_WARNING=1 build/docs-env/bin/mkdocs build --strict --quiet

lint: $(READY_DEV)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	@$(MAKE) --no-print-directory typecheck

typecheck: $(READY_DEV)
	@rm -rf build/typecheck && $(BIN)/python setup.py --quiet build_py --build-lib build/typecheck
	$(BIN)/mypy

format: $(READY_DEV)
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

clean:
	rm -rf .venv .venv-4.57 .venv-vllm .venv-harness build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find modeling conversion xgenmm_hf examples tests -type d -name __pycache__ -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
	    || { echo "error: $(PYTHON) is older than Python 3.10; name another one: make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(READY): setup.py constraints.txt | $(BIN)/python
	@rm -f $(VENV)/.ready-*
	@echo "Installing PyTorch, Transformers $(TRANSFORMERS) and xgenmm-hf into $(VENV); the first time takes minutes."
	$(PIP) install --quiet -c constraints.txt torch
	$(PIP) install --quiet -c constraints.txt "transformers==$(TRANSFORMERS)" -e .
	@touch $@

$(READY_DEV): $(READY) tests/page-requirements.txt
	$(PIP) install --quiet -c constraints.txt "transformers==$(TRANSFORMERS)" -e ".[dev]"
	$(PIP) install --quiet --no-deps $(GRADIO) -r tests/page-requirements.txt
	@touch $@

$(COMMON_TESTS)/test_modeling_common.py: | $(READY_DEV)
	$(PIP) download --quiet --no-deps --no-build-isolation --no-binary transformers "transformers==$(TRANSFORMERS)" \
	    --dest $(VENV)/download
	tar -xzf $(VENV)/download/transformers-$(TRANSFORMERS).tar.gz -C $(VENV) transformers-$(TRANSFORMERS)/tests
	@rm -rf $(VENV)/download && touch $@
