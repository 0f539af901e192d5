"""Figures as a person reads them."""

from __future__ import annotations

from collections.abc import Mapping

from throughtime.levels import UNITS


def figure_rows(figures: Mapping[str, float], level: str) -> list[tuple[str, str]]:
    """What an evaluation found, as labels and texts.

    Args:
        figures: what `throughtime.training.evaluate` returns.
        level: of the vocabulary.
    """
    unit = UNITS[level]
    bits = {unit: figures["bits_per_symbol"], "character": figures["bits_per_character"]}
    if f"{figures['bits_per_byte']:.4f}" != f"{figures['bits_per_character']:.4f}":
        bits["byte"] = figures["bits_per_byte"]
    rows = [
        ("loss", f"{_number(figures['loss'])} nats per {unit}"),
        ("perplexity", _number(figures["perplexity"], 2)),
        *((f"bits per {of}", _number(value)) for of, value in bits.items()),
        (f"{unit}s", f"{figures['symbols']:,.0f} predicted"),
    ]
    if figures["unknown"]:
        rows.append(("unknown", f"{figures['unknown']:,.0f} {unit}s that training never saw, taken as <unk>"))
    return rows


def _number(value: float, digits: int = 4) -> str:
    return f"{value:,.{digits}f}" if value < 1e9 else f"{value:.3g}"


def duration(seconds: float) -> str:
    """A time, in the units that suit it."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"
