"""Render a report as one self-contained HTML file."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from throughtime import __version__
from throughtime.errors import UserError
from throughtime.files import replacing, require_directory_of
from throughtime.packages import installing
from throughtime.sight.report.data import (
    Envelopes,
    Flow,
    Forecasts,
    ForecastWindow,
    Reading,
    ReportData,
    Roll,
    Sound,
    Values,
)  # fmt: skip
from throughtime.sight.report.packing import as_json, packed, packed_array, quantized, quantized_influence, shares
from throughtime.sight.report.units import interesting
from throughtime.spelling import counted

_PAGE = files("throughtime.sight.report") / "page"
_SCRIPTS = (
    "core.js", "text.js", "parts.js", "roll.js", "detail.js", "span.js", "units.js", "charts.js", "forecasts.js",
    "labels.js", "spectrogram.js", "sound.js", "main.js",
)  # fmt: skip
GENERATOR = "throughtime report"
_SIGNED = re.compile(rf'generator"[^"]{{1,10}}"{GENERATOR}"')
_HEAD = 2000  # leading characters of a page, which include its generator tag

Blocks = list[tuple[str, str]]


def render(data: ReportData) -> str:
    """Render the page as HTML. The same data renders identically except for a random nonce.

    Raises:
        UserError: if jinja2 or plotly is missing.
    """
    try:
        import jinja2
    except ModuleNotFoundError:
        raise _missing("jinja2") from None
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    safe = environment.from_string(asset("page.html.j2"))
    blocks: Blocks = []
    content = as_json(_content(data, blocks))
    if _draws(data):
        blocks.append(("plotly", _plotly()))
    from markupsafe import Markup

    return safe.render(
        data=data,
        parts=list(_parts(data)),
        kind=_kind(data.reading),
        interesting=interesting(data.values),
        surprises=_surprises(data.reading),
        has_losses=data.reading is not None and not np.isnan(data.reading.losses).all(),
        nonce=secrets.token_urlsafe(16),
        generator=GENERATOR,
        version=__version__,
        css=Markup(asset("page.css")),
        json=Markup(content),
        blocks=[(id, Markup(text)) for id, text in blocks],
        script=Markup("\n".join(map(asset, _SCRIPTS))),
    )


def write(data: ReportData, path: str | Path) -> Path:
    """Write the page to a file atomically, replacing an existing report.

    Raises:
        UserError: if the path exists but is not a report, or jinja2 or plotly is missing.
    """
    path = Path(path)
    require_writable(path)
    page = render(data)
    with replacing(path) as file:
        # Replace characters that can't be encoded, such as a lone surrogate in a title.
        file.write(page.encode("utf-8", "replace"))
    return path


def require_writable(path: Path) -> None:
    """Check that a report can be written to a path.

    Raises:
        UserError: if the path is a directory or a file other than a report, or its directory doesn't exist.
    """
    require_directory_of(path)
    if path.is_dir():
        raise UserError(f"{path} is a directory; pass a file name such as {path / 'report.html'}")
    if path.exists():
        with path.open(encoding="utf-8", errors="replace") as file:
            if not _SIGNED.search(file.read(_HEAD)):
                raise UserError(f"{path} already exists and is not a report; choose another name")


@cache
def asset(name: str) -> str:
    """Read one of the page's files, such as its style sheet."""
    return (_PAGE / name).read_text(encoding="utf-8")


@cache
def _plotly() -> str:
    try:
        from plotly.offline import get_plotlyjs
    except ModuleNotFoundError:
        raise _missing("plotly") from None
    return packed(get_plotlyjs().encode())


def _missing(package: str) -> UserError:
    return UserError(f"a report needs {package}, {installing('report')}")


def _draws(data: ReportData) -> bool:
    return bool(data.reading or data.forecasts or data.flows or data.timescales or data.saturations or data.curves)


def _parts(data: ReportData) -> Iterator[tuple[str, str]]:
    """Yield the ids and titles of the page's sections."""
    if data.forecasts:
        yield from (("forecasts", "Forecasts"), ("horizon", "Error by step"), ("lookback", "Looking back"))
    if data.reading:
        yield "text", {"text": "Text", "roll": "Pieces"}.get(_kind(data.reading), "Sequences")
        yield from (("units", "Units"), ("gates", "Over time"))
        if _surprises(data.reading):
            yield "surprise", "Loss" if data.reading.answers else "Surprise"
    for there, id, title in (
        (data.sounds, "sounds", "Sound"),
        (data.confusion, "confusion", "Confusion"),
        *((True, f"table-{k}", table.title) for k, table in enumerate(data.tables)),
        (data.rolls, "rolls", "Piano rolls"),
        (data.flows, "flow", "Reach"),
        (data.timescales, "timescales", "Timescales"),
        (data.saturations, "saturation", "Saturation"),
        (data.curves, "training", "Training"),
        (data.samples, "samples", "Samples"),
    ):
        if there:
            yield id, title


def _content(data: ReportData, blocks: Blocks) -> dict[str, Any]:
    """Return the page script's data: small items as JSON, long arrays as separate blocks."""

    def block(name: str, text: str) -> str:
        blocks.append((name, text))
        return name

    return {
        "step": data.step,
        "unit": data.unit or data.step,
        "loss": data.loss,
        "reading": _reading(data.reading, block) if data.reading else None,
        "values": [_values(value, number, block) for number, value in enumerate(data.values)],
        "interesting": interesting(data.values),
        "flows": [_flow(flow) for flow in data.flows],
        "timescales": [{"layer": t.layer, "gate": t.gate, "steps": t.steps} for t in data.timescales],
        "saturations": [
            {"layer": s.layer, "gate": s.gate, "closed": s.closed, "opened": s.opened} for s in data.saturations
        ],
        "curves": [{"label": c.label, "steps": c.steps, "values": c.values} for c in data.curves],
        "best": data.best_step,
        "forecasts": None if data.forecasts is None else _forecasts(data.forecasts),
        "confusion": None
        if data.confusion is None
        else {"labels": list(data.confusion.labels), "counts": data.confusion.counts, "of": data.confusion.of},
        "tables": [{"columns": list(table.columns), "rows": list(map(list, table.rows))} for table in data.tables],
        "rolls": [_roll(roll, number, block) for number, roll in enumerate(data.rolls)],
        "sounds": [_sound(sound, number, block) for number, sound in enumerate(data.sounds)],
        "samples": [sample.text for sample in data.samples],
    }


def _reading(reading: Reading, block: Any) -> dict[str, Any]:
    return {
        "tokens": list(reading.tokens),
        "unknown": reading.unknown.nonzero()[0],
        "losses": block("losses", packed_array(reading.losses, "<f4")),
        "choices": reading.top.shape[1],
        "top": block("top", packed_array(reading.top, "<u4")),
        "probabilities": block("probabilities", packed_array(reading.probabilities, "<f4")),
        "alphabet": {str(id): text for id, text in reading.alphabet.items()},
        "lags": reading.influence.shape[1],
        "first": reading.first,
        "influence": block("influence", packed_array(quantized_influence(reading.influence), "u1")),
        "kind": _kind(reading),
        "answers": list(reading.answers),
        "parts": [vars(part) for part in reading.parts],
        "label_influence": None
        if reading.label_influence is None
        else block("label_influence", packed_array(_label_influence(reading), "u1")),
        "features": list(reading.features),
        "inputs": None if reading.inputs is None else block("inputs", packed_array(reading.inputs, "<f4")),
        "bit_probabilities": None
        if reading.bit_probabilities is None
        else block("bit_probabilities", packed_array(shares(reading.bit_probabilities), "u1")),
    }


def _kind(reading: Reading | None) -> str:
    """Choose a reading's layout: a text, lines of tokens, curves over time, or piano rolls."""
    if reading is None or not (reading.parts or reading.inputs is not None):
        return "text"
    if reading.inputs is None:
        return "lines"
    return "curves" if reading.bit_probabilities is None else "roll"


def _surprises(reading: Reading | None) -> bool:
    """Return whether each step has its own loss."""
    return reading is not None and reading.label_influence is None and not bool(np.isnan(reading.losses).all())


def _label_influence(reading: Reading) -> Any:
    """Encode each step's influence on a label as one byte; a sequence's strongest step has 255."""
    assert reading.label_influence is not None
    rows = [reading.label_influence[part.start : part.stop] for part in reading.parts]
    return np.concatenate([shares(row / (row.max() or 1)) for row in rows])


def _roll(roll: Roll, number: int, block: Any) -> dict[str, Any]:
    return {
        "title": roll.title,
        "keys": list(roll.keys),
        "steps": len(roll.target),
        "target": block(f"roll-{number}-target", packed_array(roll.target > 0, "u1")),
        "probabilities": block(f"roll-{number}-probabilities", packed_array(shares(roll.probabilities), "u1")),
    }


def _sound(sound: Sound, number: int, block: Any) -> dict[str, Any]:
    tracks = []
    for k, track in enumerate(sound.tracks):
        scale = max(1.0, float(np.abs(track.samples).max(initial=0)))
        levels = np.rint(track.samples / scale * 32767)
        packed_levels = packed_array(levels, "<i2")
        tracks.append({"name": track.name, "scale": scale, "levels": block(f"sound-{number}-{k}", packed_levels)})
    return {
        "title": sound.title,
        "rate": sound.rate,
        "length": len(sound.tracks[0].samples),
        "tracks": tracks,
        "compared": sound.compared,
        "figure": sound.figure,
        "along": sound.along,
        "window": sound.window,
        "values": [_envelopes(value, f"sound-{number}-value-{k}", block) for k, value in enumerate(sound.values)],
    }


def _envelopes(value: Envelopes, name: str, block: Any) -> dict[str, Any]:
    """Encode both bounds as one byte per unit and window, on one scale per unit."""
    windows = len(value.low)
    levels, scales = quantized(np.concatenate([value.low, value.high]))
    return {
        "layer": value.layer,
        "name": value.name,
        "size": value.size,
        "windows": windows,
        "units": value.low.shape[1],
        "scales": scales,
        "order": np.argsort(-(value.low + value.high).std(0), kind="stable"),
        "levels": block(name, packed_array(levels, "u1")),
    }


def _forecasts(found: Forecasts) -> dict[str, Any]:
    def windows(each: Sequence[ForecastWindow]) -> list[dict[str, Any]]:
        return [{**vars(window), "times": list(window.times)} for window in each]

    return {
        "last": windows(found.last),
        "worst": windows(found.worst),
        "steps": [vars(curve) for curve in found.by_step],
        "lookback": vars(found.lookback),
        "share": found.share,
    }


def _values(value: Values, number: int, block: Any) -> dict[str, Any]:
    levels, scales = quantized(value.steps)
    return {
        "layer": value.layer,
        "name": value.name,
        "units": value.units,
        "interest": value.interest,
        "notes": list(value.notes),
        "scales": None if scales is None else scales,
        "levels": block(f"values-{number}", packed_array(levels, "u1")),
    }


def _flow(flow: Flow) -> dict[str, Any]:
    return {
        "label": flow.label,
        "group": flow.group,
        "values": flow.by_lag,
        "lag": flow.lag,
        "horizon": f"{flow.horizon}, measured on {counted(flow.losses, 'loss')}",
    }
