"""Settings for all tests."""

import importlib
import os

# One thread per test process: `make test` runs one process per core. Tests of threads ask for theirs.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from hypothesis import settings

# The first run of a program derives and checks it, which no deadline per example can allow for.
settings.register_profile("throughtime", deadline=None)
settings.load_profile("throughtime")


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    """No test reads or writes the user's cache, those in other processes included."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def keras(tmp_path_factory):
    """Keras on torch."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KERAS_BACKEND", "torch")
        patch.setenv("KERAS_HOME", str(tmp_path_factory.mktemp("keras")))
        yield importlib.import_module("keras")
