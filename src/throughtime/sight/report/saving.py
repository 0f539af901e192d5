"""Save a report's data for other programs."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from throughtime.files import replacing
from throughtime.sight.report.data import Array, ReportData
from throughtime.sight.report.packing import plain
from throughtime.sight.report.render import GENERATOR, require_writable
from throughtime.sight.report.units import interesting


def summary(data: ReportData) -> dict[str, Any]:
    """Summarize a report in a few numbers.

    Returns:
        The numbers of `sequences`, `steps` and `unknown` tokens, `loss` in nats per answer and `bits_per_answer`, the
        same in bits (both null if the answers are unknown), the `predictions` of unknown labels, `horizons` by layer
        (null if beyond `largest_lag`), the number of losses they were measured on as `horizon_losses`, the `sounds`
        played, and the most interesting `units` (see `interesting`).
    """
    found: dict[str, Any] = {"title": data.title}
    if data.reading:
        loss = data.reading.loss
        known = not math.isnan(loss)
        found |= {
            "sequences": max(1, len(data.reading.parts)),
            "steps": len(data.reading.tokens),
            "unknown": int(data.reading.unknown.sum()),
            "loss": loss if known else None,
            "bits_per_answer": loss / math.log(2) if known else None,
            "predictions": [
                {"sequence": part.name, "label": part.predicted, "probability": part.probability}
                for part in data.reading.parts
                if part.predicted and not part.answer
            ],
        }
    found["sounds"] = [sound.title for sound in data.sounds]
    found["horizons"] = {" ".join(filter(None, (f.label, f.group))): f.lag for f in data.flows}
    found["horizon_losses"] = max((f.losses for f in data.flows), default=0)
    found["largest_lag"] = max((len(f.by_lag) - 1 for f in data.flows), default=0)
    found["units"] = [
        {"value": f"{v.layer}.{v.name}", "unit": unit, "interest": float(v.interest[unit]), "note": v.notes[unit]}
        for v, unit in ((data.values[k], unit) for k, unit in interesting(data.values))
    ]
    return found


def save_data(data: ReportData, report: Path) -> tuple[Path, Path]:
    """Write a report's data next to it: arrays as safetensors, everything else as JSON.

    Args:
        data: the report's data.
        report: the page's path; the files have the same name with other extensions.

    Raises:
        UserError: if files with these names exist but contain something else.
    """
    from safetensors.numpy import save

    arrays_path, texts_path = data_paths(report)
    arrays, texts = _arrays(data), _texts(data)
    with replacing(arrays_path) as file:
        file.write(save({name: np.ascontiguousarray(a) for name, a in arrays.items()}, {"generator": GENERATOR}))
    with replacing(texts_path) as file:
        file.write((json.dumps({"generator": GENERATOR, **plain(texts)}, indent=1) + "\n").encode())
    return arrays_path, texts_path


def data_paths(report: Path) -> tuple[Path, Path]:
    """Return the paths that `save_data` writes.

    Raises:
        UserError: if they exist but contain something else.
    """
    paths = report.with_suffix(".safetensors"), report.with_suffix(".json")
    for path in paths:
        require_writable(path)
    return paths


def _arrays(data: ReportData) -> dict[str, Array]:
    found: dict[str, Array] = {}
    if data.reading:
        for name in ("losses", "top", "probabilities", "influence"):
            found[f"reading.{name}"] = getattr(data.reading, name)
        for name in ("label_influence", "inputs", "bit_probabilities"):
            if (array := getattr(data.reading, name)) is not None:
                found[f"reading.{name}"] = array
        found["reading.unknown"] = data.reading.unknown.astype(np.uint8)
    for value in data.values:
        found[f"values.{value.layer}.{value.name}"] = value.steps
        found[f"interest.{value.layer}.{value.name}"] = value.interest
    for flow in data.flows:
        found[".".join(filter(None, ("flow", flow.label, flow.group)))] = flow.by_lag
    if data.confusion:
        found["confusion"] = data.confusion.counts
    for roll in data.rolls:
        found[f"roll.{roll.title}.target"] = roll.target
        found[f"roll.{roll.title}.probabilities"] = roll.probabilities
    for number, sound in enumerate(data.sounds):
        for track in sound.tracks:
            found[f"sound.{number}.{track.name}"] = track.samples
        if sound.along is not None:
            found[f"sound.{number}.{sound.figure}"] = sound.along
    for saturation in data.saturations:
        found[f"shut.{saturation.layer}.{saturation.gate}"] = saturation.closed
        found[f"open.{saturation.layer}.{saturation.gate}"] = saturation.opened
    for timescale in data.timescales:
        found[f"timescale.{timescale.layer}.{timescale.gate}"] = timescale.steps
    return found


def _texts(data: ReportData) -> dict[str, Any]:
    return {
        **summary(data),
        "facts": data.facts,
        "step": data.step,
        "text": list(data.reading.tokens) if data.reading else None,
        "parts": [vars(part) for part in data.reading.parts] if data.reading else [],
        "confusion": list(data.confusion.labels) if data.confusion else None,
        "tables": [{"title": t.title, "columns": list(t.columns), "rows": t.rows} for t in data.tables],
        "alphabet": data.reading.alphabet if data.reading else None,
        "notes": {f"{v.layer}.{v.name}": list(v.notes) for v in data.values},
        "curves": {c.label: {"steps": c.steps, "values": c.values} for c in data.curves},
        "samples": [sample.text for sample in data.samples],
    }
