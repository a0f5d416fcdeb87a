# Everything runs from .venv, which `make setup` builds: it needs git, make and Python 3.11-3.13, no root and no FFmpeg.
# PYTHON=/path/to/python3.12 chooses the Python.

.DEFAULT_GOAL := help
.PHONY: setup demo test test-big check bench lock clean help
MAKEFLAGS += --no-print-directory
export PYTHON

python := .venv/bin/python
typed  := wildstream $(wildcard train.py tools/*.py)

setup: .venv/.setup-done  ## build .venv with everything at its locked version; quick when nothing changed
	@:

.venv/.setup-done: requirements.lock pyproject.toml tools/setup.sh
	@bash tools/setup.sh
	@touch $@

demo: setup  ## make a small data set, pack it, train on it, show the result in demo/
	@$(python) -m wildstream.cli demo --out demo

test: setup  ## run all tests, a file at a time on each of two processes
	@$(python) -m pytest --numprocesses 2 --dist loadfile

test-big: setup  ## run the tests of large backbones, which the others leave out: minutes
	@$(python) -m pytest -m big

check: setup  ## lint, format, types, architecture
	@$(python) -m ruff check .
	@$(python) -m ruff format --check .
	@$(python) -m mypy $(typed)
	@$(python) -m pytest tests/test_river.py

bench: setup  ## measure the throughput on this machine, against other ways where they are installed (extra "bench")
	@$(python) -m benchmarks.run --short

lock:  ## resolve the dependencies of pyproject.toml anew into requirements.lock
	@bash tools/setup.sh lock

clean:  ## delete .venv, caches and what the demo made
	rm -rf .venv demo .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

help:  ## show this
	@sed -n 's/^\([a-z-]*\):.*  ## /  make \1\t/p' Makefile | expand -t 14
