# Commands for developers. A fresh machine needs Linux, Python 3.11 or later and a C++ compiler.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
DEVELOPMENT := $(VENV)/.development
SITE := $(VENV)/.site
# Also pins the build requirements, which pip installs in a separate environment.
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help install browser demo test test-all test-docs docs lint format bench wheel build/asan build/tsan sanitize \
	sanitize-quick sanitize-threads fuzz clean

help:  ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

install: $(INSTALLED)  ## create .venv with the package and what its commands need

$(INSTALLED): pyproject.toml constraints.txt CMakeLists.txt $(wildcard csrc/*)
	@echo "Installing throughtime and PyTorch into $(VENV), and compiling the engine: 1 to 3 minutes."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --editable '.[train]'
	@touch $@

# The package is already installed, so pip only adds the dependencies and doesn't compile the engine again.
$(DEVELOPMENT): $(INSTALLED)
	@echo "Installing the development requirements into $(VENV): 1 to 3 minutes."
	@$(BIN)/pip install --quiet 'throughtime[dev]'
	@touch $@

# The report's tests drive a real browser. Installing it needs apt-get and root.
browser:  ## install headless Chromium for the report's tests
	@if ! command -v chromium >/dev/null || ! command -v chromedriver >/dev/null; then \
	    if command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then \
	        apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
	            chromium chromium-driver fonts-dejavu-core >/dev/null; \
	    else \
	        echo "The report's tests need chromium and chromedriver. On Debian: apt-get install chromium chromium-driver"; \
	    fi; \
	fi

# Smaller than the default network, which would be worse after such a short training on such a short text.
demo: install  ## train a network on text that is already on your machine
	@$(BIN)/throughtime train --hidden 128 --layers 2 --dropout 0.1 --minutes 2.5

# Two workers, because CI machines can have as few as two cores. Each test process uses one thread. A file's tests run in
# one worker, which trains the networks that they share once. Slow tests include those in a browser.
test: $(DEVELOPMENT)  ## run the tests, except slow ones and the book's
	$(BIN)/python -m pytest -n 2 --dist loadfile -m 'not slow and not book'

test-all: $(DEVELOPMENT) browser  ## run all tests
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-docs: $(DEVELOPMENT)  ## run the book's snippets and the notebooks
	$(BIN)/python -m pytest -n 2 -m book

# The site reads the sources without importing the package, so it needs neither PyTorch nor a compiler.
$(SITE): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["docs"], sep="\n")' \
	    | xargs -d '\n' $(BIN)/pip install --quiet
	@touch $@

docs: $(SITE)  ## build the documentation site in build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo "Built build/site/index.html"

lint: $(DEVELOPMENT)  ## check style, format, spelling and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/codespell
	$(BIN)/mypy

format: $(DEVELOPMENT)  ## format the code
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: $(DEVELOPMENT)  ## measure speed on this machine
	$(BIN)/throughtime bench
	$(BIN)/python benchmarks/cells.py

wheel: install  ## build a wheel in dist/
	$(BIN)/pip wheel --quiet --no-deps --wheel-dir dist .

# Sanitizer builds run on the base interpreter, since the venv's would load the installed package. ASan keeps freed memory
# for a while, so that tests which bound the memory of the process don't apply.
BASE_PYTHON = PYTHONPATH="$(CURDIR)/$(1):$(CURDIR)/tests:$(CURDIR)/tests/native:$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" \
	$$($(BIN)/python -c 'import sys; print(sys._base_executable)')
ASAN = LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libubsan.so)" \
	ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 $(call BASE_PYTHON,build/asan)
# The interpreter isn't instrumented, so only tests written for ThreadSanitizer can run.
TSAN = LD_PRELOAD="$$(gcc -print-file-name=libtsan.so)" TSAN_OPTIONS=exitcode=66 $(call BASE_PYTHON,build/tsan)

build/asan: SANITIZERS = address,undefined
build/tsan: SANITIZERS = thread
ISAS = avx2;avx512
build/asan build/tsan: $(DEVELOPMENT)
	$(BIN)/pip install --quiet --no-deps --upgrade --target $@ \
	    --config-settings=cmake.define.THROUGHTIME_SANITIZE=$(SANITIZERS) \
	    --config-settings=cmake.define.THROUGHTIME_ISAS='$(ISAS)' .

sanitize: build/asan sanitize-threads  ## run the engine's tests under ASan, UBSan and TSan
	OMP_NUM_THREADS=2 $(ASAN) -m pytest -s tests/native tests/test_streaming.py \
	    -k 'not fork and not idle and not environment and not many_rows and not leak and not bounded'

# Compiling the inner loops takes most of the time.
sanitize-quick: ISAS = avx2
sanitize-quick: build/asan  ## run tests of memory, plans, threads and token ids under ASan and UBSan
	OMP_NUM_THREADS=2 $(ASAN) -m pytest -s tests/native/test_native_memory.py \
	    tests/native/test_native_plan.py tests/native/test_native_races.py tests/native/test_native_token_ids.py \
	    -k 'not bounded and not opcheck and not finite_differences'

sanitize-threads: build/tsan
	$(TSAN) -m pytest -s tests/native/test_native_races.py

SECONDS ?= 60
fuzz: build/asan  ## fuzz the engine with damaged programs and arrays, for SECONDS=60
	OMP_NUM_THREADS=2 $(ASAN) -m fuzz --seconds $(SECONDS)

clean:  ## remove everything built here, but keep runs
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +
