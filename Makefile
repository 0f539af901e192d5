# The commands of the house. A fresh machine needs Linux, Python 3.11 or later and a C++ compiler.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# Pins the build's own needs too, which pip installs apart.
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help install browser demo test lint format bench wheel build/sanitize sanitize fuzz clean

help:  ## this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

install: $(INSTALLED)  ## make .venv with the commands, the tests' and the lint's needs

$(INSTALLED): pyproject.toml constraints.txt CMakeLists.txt $(wildcard csrc/*)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@

# The report's tests drive a real browser; what installs it needs Debian's tools and its administrator.
browser:  ## install the headless Chromium that the tests of the report drive
	@if ! command -v chromium >/dev/null || ! command -v chromedriver >/dev/null; then \
	    if command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then \
	        apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
	            chromium chromium-driver fonts-dejavu-core >/dev/null; \
	    else \
	        echo "The report's tests need chromium and chromedriver: install them (Debian: apt-get install chromium chromium-driver)."; \
	    fi; \
	fi

# A smaller network than by default: it is better after so short a time, on so short a text.
demo: install  ## train a network on text that is already on the machine
	$(BIN)/throughtime train --hidden 128 --layers 2 --dropout 0.1 --minutes 2.5

test: install browser  ## run the tests, on two processes
	$(BIN)/python -m pytest -n 2

lint: install  ## check style, format and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: install  ## put the code into the house's format
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: install  ## measure speed on this machine
	$(BIN)/throughtime bench
	$(BIN)/python benchmarks/cells.py

wheel: install  ## build a wheel into dist/
	$(BIN)/pip wheel --quiet --no-deps --wheel-dir dist .

# The interpreter under the venv's: the venv's own would load the package as it is installed there.
SANITIZED = LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libubsan.so)" \
	ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 \
	PYTHONPATH="$(CURDIR)/build/sanitize:$(CURDIR)/tests:$(CURDIR)/tests/native:$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" \
	$$($(BIN)/python -c 'import sys; print(sys._base_executable)')

build/sanitize: install
	$(BIN)/pip install --quiet --no-deps --upgrade --target $@ \
	    --config-settings=cmake.define.THROUGHTIME_SANITIZE=ON .

sanitize: build/sanitize  ## run the engine's tests under AddressSanitizer and UndefinedBehaviorSanitizer
	OMP_NUM_THREADS=2 $(SANITIZED) -m pytest -s tests/native tests/test_streaming.py \
	    -k 'not fork and not idle and not environment and not many_rows'

SECONDS ?= 60
fuzz: build/sanitize  ## feed the engine damaged programs and arrays under sanitizers, for SECONDS=60
	OMP_NUM_THREADS=2 $(SANITIZED) -m fuzz --seconds $(SECONDS)

clean:  ## remove everything that was made here, but for runs
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +
