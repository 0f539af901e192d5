"""Shared helpers for the tests of reports: pages with made-up data, and a headless browser to open them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from throughtime.sight.report.data import (
    ConfusionMatrix,
    Curve,
    Envelopes,
    Example,
    Flow,
    Reading,
    ReportData,
    Roll,
    Sample,
    Saturation,
    Sound,
    Table,
    Timescale,
    Track,
    Values,
)
from throughtime.sight.report.render import write

TEXT = "FIRST WATCH:\nWho comes so fast in silence of the night?\n\nSECOND WATCH:\nA friend, and all his household.\n\n"
LAGS = 16
PATIENCE = 120  # seconds until a page that doesn't answer fails a test; a busy machine may be slow


def made_up(text: list[str] | str = TEXT * 3, units: int = 12, **more: Any) -> ReportData:
    """Make a report on a text. The most interesting unit, number 3, is 1 at capital letters and -1 elsewhere."""
    tokens, draw = list(text), np.random.default_rng(0)
    steps = len(tokens)
    cell = draw.normal(size=(steps, units)).astype(np.float32)
    if units > 3:
        cell[:, 3] = [1.0 if s.isupper() else -1.0 for s in tokens]
    interest = np.linspace(0.1, 0.4, units)
    interest[min(3, units - 1)] = 0.9
    notes = ["high at uppercase letters" if u == 3 else "" for u in range(units)]
    gate = 1 / (1 + np.exp(-cell[:, ::-1]))
    alphabet = dict(enumerate(sorted(set(tokens))))
    ids = {s: k for k, s in alphabet.items()}
    top = draw.integers(0, len(alphabet), size=(steps, 5))
    top[:, 0] = [ids[s] for s in tokens]
    influence = np.exp(-np.arange(LAGS) / 3) * draw.uniform(0.2, 1, size=(steps, LAGS))
    losses = draw.gamma(1, 1.5, size=steps)
    losses[0] = np.nan
    fall = 0.7 ** np.arange(60)
    reading = Reading(
        tokens=tokens,
        unknown=np.arange(steps) == 7,
        losses=losses,
        top=top,
        probabilities=np.tile([0.5, 0.2, 0.1, 0.05, 0.01], (steps, 1)),
        alphabet=alphabet,
        influence=influence,
    )
    content: dict[str, Any] = {
        "title": "A made-up report",
        "facts": ["2 x lstm", f"{units} units"],
        "warnings": ["1 character was never seen in training."],
        "reading": reading,
        "values": [
            Values("layer0", "cell", cell, np.argsort(-interest), interest, notes),
            Values("layer1", "forget", gate, np.argsort(-interest), interest / 9, [""] * units),
        ],
        "flows": [
            Flow("layer0", fall, 13, "13 steps", 160, "before training"),
            Flow("layer0", 0.97 ** np.arange(60), None, "more than 59 steps", 160, "after training"),
        ],
        "timescales": [Timescale("layer0", "forget", 10 ** draw.uniform(0, 3, units))],
        "saturations": [Saturation("layer0", "forget", draw.uniform(0, 0.5, units), draw.uniform(0, 0.5, units))],
        "curves": [
            Curve("training", np.arange(1, 50), 1 + 2 / np.arange(1, 50)),
            Curve("validation", np.arange(1, 50, 7), 1.1 + 2 / np.arange(1, 50, 7)),
        ],
        "samples": [Sample("temperature 0.8", "Good morrow.\n")],
        "best_step": 43,
    }
    return ReportData(**content | more)


@contextmanager
def browser(width: int = 1280, height: int = 900, dark: bool = False) -> Iterator[Any]:
    """Open headless Chromium without network access.

    If Chromium is missing, the test fails and is not skipped, since nothing else tests the page in a browser.
    """
    from selenium import webdriver

    missing = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    if missing:
        pytest.fail(f"{' and '.join(missing)} not found; install them with `make browser`")
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--no-proxy-server",
        "--force-prefers-reduced-motion",  # otherwise clicks would have to wait for smooth scrolling
        "--host-resolver-rules=MAP * ~NOTFOUND",
        f"--window-size={width},{height}",
    ):
        options.add_argument(argument)
    if dark:
        options.add_argument("--force-dark-mode")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        driver.set_script_timeout(PATIENCE)
        # Chromium windows are at least about 500 pixels wide, but an emulated device can be narrower.
        driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500},
        )
        yield driver
    finally:
        driver.quit()


def open_page(driver: Any, path: Path) -> None:
    """Open a page from its file and wait until it is ready."""
    from selenium.webdriver.support.ui import WebDriverWait

    driver.get(path.resolve().as_uri())
    WebDriverWait(driver, PATIENCE, 0.02).until(
        lambda d: d.execute_script("return document.documentElement.dataset.ready && !!document.querySelector('main')")
    )


def made_up_sound(rate: int = 8000, seconds: float = 1.0) -> ReportData:
    """Make a report on a 1,000 Hz tone, then silence. The prediction is half as loud, and one unit is on during it."""
    t = np.arange(round(seconds * rate)) / rate
    tone = (0.5 * np.sin(2 * np.pi * 1000 * t) * (t < seconds / 2)).astype(np.float32)
    size = 20
    on = np.stack([(t[::size] < seconds / 2) * 1.0, np.zeros(len(t[::size]))], 1)
    figure = np.where(np.arange(50) < 25, -6.02, np.nan)
    tracks = [Track("dry", 2 * tone), Track("target", tone), Track("prediction", tone / 2)]
    values = [Envelopes("layer0", "hidden", on, on, size), Envelopes("layer0", "cell", 2 * on - 1, 3 * on - 1, size)]
    sound = Sound("a tone", rate, tracks, (1, 2), "ESR, dB", figure, len(t) // 50, values)
    drawn = Sound("drawn", rate, [Track("drawn", tone)])
    return ReportData(title="How a tone was learned", step="sample", sounds=[sound, drawn])


def made_up_lines(whole: bool = True, **more: Any) -> ReportData:
    """Make a report on three short sequences, with one label each (the second one wrong) or with one tag per token."""
    words, labels, draw = ["abc", "de", "fghi"], ["x", "y", "x"], np.random.default_rng(0)
    tokens = list("".join(words))
    steps, starts = len(tokens), np.cumsum([0, *map(len, words)])
    answers = [label for word, label in zip(words, labels, strict=True) for _ in word]
    parts = [
        Example(
            f"file:{k}", int(starts[k]), int(starts[k + 1]), labels[k] if whole else "", "x" if whole else "", 0.75, 0.5
        )
        for k in range(3)
    ]
    reading = Reading(
        tokens=tokens,
        unknown=np.zeros(steps, bool),
        losses=np.full(steps, 0.5),
        top=np.tile([0, 1], (steps, 1)),
        probabilities=np.tile([0.75, 0.25], (steps, 1)),
        alphabet={0: "x", 1: "y"},
        influence=np.zeros((steps, 0)) if whole else np.tile([0.001, 0.1, 1.0, 0.1, 0.001], (steps, 1)),
        first=1 if whole else -2,
        answers=answers,
        parts=parts,
        label_influence=np.array([1.0, 0.5, 0, 1, 0.25, 0, 0, 1, 1]) if whole else None,
    )
    return ReportData(**_content(reading, draw) | {"step": "character" if whole else "token"} | more)


def made_up_times(roll: bool, **more: Any) -> ReportData:
    """Make a report on two numeric sequences: piano rolls of twelve keys, or series of two features."""
    draw = np.random.default_rng(0)
    steps, features = 30, 12 if roll else 2
    bits = (draw.random((steps, features)) < 0.3).astype(np.float32)
    parts = [Example("0", 0, 20, loss=4.0), Example("first", 20, 30, loss=3.0)]
    if not roll:
        parts = [Example("0", 0, 20, "up", "up", 0.8, 0.2), Example("first", 20, 30, "up", "down", 0.6, 0.9)]
    reading = Reading(
        tokens=[*map(str, range(20)), *map(str, range(10))],
        unknown=np.zeros(steps, bool),
        losses=draw.gamma(1, 2.0, steps),
        top=np.zeros((steps, 0 if roll else 1), np.int64),
        probabilities=np.ones((steps, 0 if roll else 1)),
        alphabet={} if roll else {0: "up"},
        influence=draw.uniform(0.1, 1, (steps, 5)) if roll else np.zeros((steps, 0)),
        answers=[] if roll else ["up"] * steps,
        parts=parts,
        label_influence=None if roll else draw.random(steps),
        inputs=bits if roll else draw.normal(size=(steps, features)).astype(np.float32),
        features=[f"C{k}" for k in range(features)],
        bit_probabilities=draw.random((steps, features)) if roll else None,
    )
    content = _content(reading, draw) | {"step": "step"}
    if roll:
        content |= {
            "confusion": None, "tables": [], "rolls": [Roll("Piece 0", [f"C{k}" for k in range(features)], bits, bits)]
        }  # fmt: skip
    return ReportData(**content | more)


def _content(reading: Reading, draw: Any) -> dict[str, Any]:
    """Return the parts that `made_up_lines` and `made_up_times` share: four units and classification results."""
    steps = len(reading.tokens)
    values = Values("layer0", "cell", draw.normal(size=(steps, 4)), np.arange(4), np.linspace(1, 0, 4), [""] * 4)
    return {
        "title": "Inside a made-up run",
        "unit": "sequence",
        "reading": reading,
        "values": [values],
        "confusion": ConfusionMatrix(["x", "y"], np.array([[2, 0], [1, 0]])),
        "tables": [Table("Worst mistakes", "The worst.", ("text", "probability", "support"), [("de", 1.0, 1200)])],
    }


def large_page(folder: Path) -> Path:
    """Write a page with 2,000 characters and 12 recorded values of 256 units to a folder."""
    draw = np.random.default_rng(0)
    names = [f"{name}{k}" for name in ("forget", "cell") for k in range(3)]
    values = [
        Values(layer, name, draw.normal(size=(2000, 256)), np.arange(256), np.linspace(1, 0, 256), [""] * 256)
        for layer in ("layer0", "layer1")
        for name in names
    ]
    return write(made_up((TEXT * 20)[:2000], units=256, values=values), folder / "report.html")
