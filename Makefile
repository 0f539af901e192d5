# The commands of the house. A fresh machine needs Linux, Python 3.11 or later and a C++ compiler.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# Pins the build's own needs too, which pip installs apart.
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help install demo test lint format bench clean

help:  ## this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

install: $(INSTALLED)  ## make .venv with the commands, the tests' and the lint's needs

$(INSTALLED): pyproject.toml constraints.txt CMakeLists.txt $(wildcard csrc/*)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@

demo: install  ## train a network on text that is already on the machine
	$(BIN)/throughtime train --minutes 2.5

test: install  ## run the tests
	$(BIN)/python -m pytest

lint: install  ## check style, format and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: install  ## put the code into the house's format
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: install  ## measure speed on this machine
	$(BIN)/throughtime bench

clean:  ## remove everything that was made here, but for runs
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +
