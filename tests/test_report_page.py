"""The report's page as a file: its contents, escaping, and the conditions under which it is written."""

from __future__ import annotations

import base64
import builtins
import json
import re
import zlib
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_pages import made_up

from throughtime.errors import UserError
from throughtime.sight.report import render as rendering
from throughtime.sight.report.data import ReportData
from throughtime.sight.report.packing import as_json, packed, packed_array, quantized, quantized_influence
from throughtime.sight.report.render import render, write

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&amp;{{ 7 * 7 }}\0\u2028 🜁 مرحبا \u202e"


class Elements(HTMLParser):
    """Count a page's elements and collect their references."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.attributes += attrs


@given(st.recursive(st.text() | st.floats(allow_nan=False, width=32) | st.none(), st.lists, max_leaves=5))
def test_json_in_a_page_round_trips_without_markup(value: Any) -> None:
    text = as_json([value, HOSTILE])
    assert text.isascii()
    assert not set("<>&") & set(text)
    assert json.loads(text)[1] == HOSTILE


def test_non_finite_numbers_become_null() -> None:
    assert as_json([np.array([np.nan, np.inf, 1.5]), 2]) == "[[null,null,1.5],2]"


def test_packed_arrays_are_zlib_in_base64() -> None:
    array = np.arange(300, dtype=np.float32)
    assert np.array_equal(np.frombuffer(zlib.decompress(base64.b64decode(packed_array(array, "<f4"))), "<f4"), array)
    assert re.fullmatch(r"[A-Za-z0-9+/=]+", packed(HOSTILE.encode()))


def test_quantized_values_are_within_half_a_level() -> None:
    draw = np.random.default_rng(0)
    gate, cell = draw.uniform(size=(50, 4)), draw.normal(size=(50, 4)) * [1, 10, 100, 0]
    levels, scales = quantized(gate)
    assert scales is None
    np.testing.assert_allclose(levels.T / 255, gate, atol=0.5 / 255 + 1e-6)
    levels, scales = quantized(cell)
    assert scales is not None
    found = (levels.T.astype(float) - 128) / 127 * scales
    # A level is 1/127 of the unit's largest value, so the error is at most half of that.
    assert (np.abs(found - cell) <= scales * (0.5 / 127 + 1e-6)).all()


def test_reach_is_quantized_by_order_of_magnitude() -> None:
    levels = quantized_influence(np.array([[1.0, 0.1, 0.001, 0.0], [0.0, 0.0, 0.0, 0.0]]))
    assert levels.tolist() == [[255, 170, 0, 0], [0, 0, 0, 0]]


def test_page_is_self_contained() -> None:
    page = render(made_up())
    found = Elements(page)
    links = [value for name, value in found.attributes if name in ("src", "href", "srcset", "action", "data")]
    assert links
    assert all(value and value.startswith("#") for value in links)
    assert not re.search(r"@import|url\(", re.search(r"<style>(.*?)</style>", page, re.S)[1])
    policy = next(value for name, value in found.attributes if value and value.startswith("default-src"))
    assert policy.startswith("default-src 'none'; script-src 'nonce-")
    assert "http" not in policy


def test_texts_add_no_elements_to_a_page() -> None:
    plain, hostile = Elements(render(made_up("plain text"))), Elements(
        render(made_up(list(HOSTILE), title=HOSTILE, facts=[HOSTILE], warnings=[HOSTILE]))
    )  # fmt: skip
    assert sorted(set(plain.names)) == sorted(set(hostile.names))
    assert "img" not in hostile.names
    assert sum(name == "script" for name in hostile.names) == sum(name == "script" for name in plain.names)


def test_empty_sections_are_omitted() -> None:
    page = render(made_up(reading=None, values=[], saturations=[], timescales=[]))
    ids = re.findall(r'<section id="(\w+)"', page)
    assert ids == ["flow", "training", "samples"]
    assert re.findall(r'href="#(\w+)">', page) == ["main", *ids]
    assert 'id="plotly"' not in render(ReportData("Nothing"))


def test_lone_surrogates_are_replaced(tmp_path: Path) -> None:
    path = write(made_up(["a", "\ud83d"], title="half \ud83d"), tmp_path / "report.html")
    assert path.read_bytes().decode("utf-8").startswith("<!doctype html>")


def test_report_overwrites_only_reports(tmp_path: Path) -> None:
    path, other = tmp_path / "report.html", tmp_path / "mine.html"
    small = made_up(reading=None, values=[])
    write(small, path)
    write(small, path)
    other.write_text("<p>my own page on a throughtime report</p>")
    with pytest.raises(UserError, match="is not a report"):
        write(small, other)
    with pytest.raises(UserError, match="is a directory"):
        write(small, tmp_path)
    assert other.read_text().startswith("<p>my own")
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["mine.html", "report.html"]


@pytest.mark.parametrize("package", ["jinja2", "plotly"])
def test_missing_package_error_names_the_extra(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.split(".")[0] == package:
            raise ModuleNotFoundError(name=name)
        return real(name, *args, **kwargs)

    rendering._plotly.cache_clear()
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=rf"{package}, from the extra `report`: run pip install '\.\[report\]'"):
        render(made_up())
