"""Settings for all tests."""

import importlib
import os
from collections.abc import Iterator
from typing import Any

# One thread per test process, since `make test` runs one process per core. Tests of threads set their own number.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from hypothesis import HealthCheck, settings
from outcomes import Outcomes

# The first run of a program derives and checks it, which would exceed any deadline per example. No other check depends
# on the time either, so that tests pass on a busy machine.
settings.register_profile("throughtime", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("throughtime")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark browser tests as slow, so that the fast tests need no browser."""
    for item in items:
        if "driver" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    """Use a temporary cache, also in subprocesses, so that no test reads or writes the user's cache."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module", autouse=True)
def _seeded_module():
    """Seed torch before the fixtures that a file's tests share."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _seeded():
    """Seed torch, so that each test draws the same weights whenever it runs, alone or after others."""
    torch.manual_seed(0)


@pytest.fixture
def outcomes() -> Iterator[Outcomes]:
    """The outcomes of a random test's cases; each function must accept some of them and reject others."""
    found = Outcomes()
    yield found
    found.require_both()


@pytest.fixture(scope="session")
def _browser() -> Iterator[Any]:
    from report_pages import browser  # imports the report

    with browser() as driver:
        yield driver


@pytest.fixture
def driver(_browser: Any) -> Any:
    """A headless browser with a wide window, shared by all tests; its log is emptied before each."""
    _browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 1280, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    )
    _browser.get("about:blank")
    _browser.get_log("browser")
    return _browser


@pytest.fixture(scope="module")
def keras(tmp_path_factory):
    """Keras on the torch backend."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KERAS_BACKEND", "torch")
        patch.setenv("KERAS_HOME", str(tmp_path_factory.mktemp("keras")))
        yield importlib.import_module("keras")
