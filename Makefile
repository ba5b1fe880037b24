# `make demo` and `make test` are all that a newcomer needs; both make the environment first.
PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/.installed

CONFIG ?= demo/pretrain.yaml

.PHONY: demo show test quick faults check clean

demo: $(STAMP)
	rm -rf demo
	$(VENV)/bin/embre demo --out demo

show: $(STAMP)  # documents of a pretraining run before and after masking
	$(VENV)/bin/python tools/show_masking.py $(CONFIG)

test: $(STAMP)
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n 2 --dist loadgroup

quick: $(STAMP)  # without what starts processes or takes seconds
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n 2 --dist loadgroup -m "not slow and not ray"

faults: $(STAMP)  # breaks real runs on purpose, for half an hour
	OMP_NUM_THREADS=1 $(VENV)/bin/python tools/bench/faults.py

check: $(STAMP)
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/pyright --pythonpath $(VENV)/bin/python

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) demo
