"""Compare two networks: their losses, how far their gradients reach, and their gates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from throughtime import cells
from throughtime.errors import CellError, DataError, UserError
from throughtime.paths import run_path
from throughtime.program.cell import Cell
from throughtime.sight.arrays import token_ids_of
from throughtime.sight.gating.analysis import gates
from throughtime.sight.gating.saturation import Saturation, saturation
from throughtime.sight.gradients.flow import Flow, gradient_flow
from throughtime.sight.models import evaluating, language_model, only_recurrent
from throughtime.sight.untrained import held_out_token_ids, random_token_ids, untrained_model
from throughtime.tables import html_table, text_table

_STEPS, _STREAMS = 400, 4


@dataclass(frozen=True)
class Side:
    """One of the two networks.

    Attributes:
        name: its name.
        loss: the loss in nats per token; None if it is not a language model.
        loss_per_character: the loss in nats per character if a text was given; comparable across vocabularies.
        flow: its gradient flow.
        saturations: the saturation of each gate, by name such as `layer0.forget`.
    """

    name: str
    loss: float | None
    loss_per_character: float | None
    flow: Flow
    saturations: Mapping[str, Saturation]


@dataclass(frozen=True)
class Comparison:
    """A comparison of two networks."""

    a: Side
    b: Side

    def rows(self) -> list[tuple[str, str, str]]:
        """Return the rows of the table: a quantity and its value for each network, empty where it doesn't apply."""
        found: dict[str, list[str]] = {}
        for k, side in enumerate((self.a, self.b)):
            for what, shown in _shown(side).items():
                found.setdefault(what, ["", ""])[k] = shown
        return [(what, one, other) for what, (one, other) in found.items()]

    def __str__(self) -> str:
        return "\n".join(text_table([self._head, *self.rows()]))

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return html_table(self._head, self.rows())

    @property
    def _head(self) -> tuple[str, str, str]:
        return "", self.a.name, self.b.name

    def figure(self) -> Any:
        """Return a plotly figure of the gradient by lag for the layers of both networks."""
        from throughtime.sight.figures import lines_by_lag

        sides = [(side, name, f"{side.name} {name}") for side in (self.a, self.b) for name in side.flow.layers]
        by_lag = {label: side.flow.by_lag[name] for side, name, label in sides}
        return lines_by_lag(by_lag, {label: side.flow.horizon(name) for side, name, label in sides})


def compare(a: Any, b: Any, x: Any = None, *, window: int = 200, **fields: Any) -> Comparison:
    """Compare two runs, models or cells: loss, gradient flow by lag, horizons, and saturation of gates.

    Args:
        a, b: each a run or its directory, a model with one recurrent module, or a cell or its name, from which an
            untrained network is made (see `throughtime.sight.untrained_model`).
        x: the input of both: a text, for runs; token ids `[T, B]` or `[T]`; or any input, for models that are not
            language models. By default a run reads its held-out data and an untrained network random tokens.
        window: the largest lag.
        **fields: options for untrained networks, such as `hidden`, `layers` and `seed`.

    Returns:
        The comparison, with a table and a figure.

    Raises:
        UserError: if a or b is none of these, or the input does not fit.
    """
    return Comparison(*(_side(each, x, window, fields) for each in (a, b)))


def _side(given: Any, x: Any, window: int, fields: dict[str, Any]) -> Side:
    from throughtime.runs import Run

    characters = None
    model: nn.Module
    if isinstance(given, str | Path) and run_path(given).is_dir():
        given = Run.open(given)
    if isinstance(given, Run):
        name, model = str(given.path), given.model()
        if x is None:
            x = held_out_token_ids(given, _STEPS, _STREAMS)
        elif isinstance(x, str):
            characters = len(x)
            x = _encoded(given, x)
    elif isinstance(given, nn.Module):
        name, model = type(given).__name__, given
    elif isinstance(given, str | Cell):
        name, model = given if isinstance(given, str) else given.name, untrained_model(_cell(given), **fields)
        x = random_token_ids(_STEPS + 1, _STREAMS) if x is None else x
    else:
        raise UserError(f"expected a run, a model or a cell, got {type(given).__name__}")
    if x is None or isinstance(x, str):
        raise UserError(
            f"{name} {'requires an input' if x is None else 'does not read text'}: pass the model's input as x"
        )
    return _looked_at(name, model, x, window, characters)


def _cell(given: str | Cell) -> Cell:
    try:
        return cells.get(given)
    except CellError as error:
        raise UserError(f"{given!r} is neither a run's directory nor a cell: {error}") from None


def _encoded(run: Any, text: str) -> Any:
    ids = run.description.codecs.inputs.encode(text)
    if ids.size < 2:
        raise DataError(f"the text has {ids.size} tokens for {run.path}; at least 2 are needed")
    return ids


def _looked_at(name: str, model: nn.Module, x: Any, window: int, characters: int | None) -> Side:
    from throughtime.sight.hooks.record import record

    names = [
        f"layer{depth}{'.reverse' if direction else ''}.{gate}"
        for depth, directions in enumerate(only_recurrent(model).layers())
        for direction, (program, _) in enumerate(directions)
        for gate in gates(program)
    ]
    language, loss, per_character = language_model(model), None, None
    tape: Any = {}
    with evaluating(model), torch.no_grad():
        if names:
            with record(model, *names) as tape:
                loss = _read(model, language, x)
        else:
            loss = _read(model, language, x)
    if loss is not None:
        total, count = loss
        loss = total / count
        per_character = None if characters is None else total / characters
    found = {gate: saturation(tape[gate].float()) for gate in names}
    return Side(name, loss, per_character, gradient_flow(model, x, window=window), found)


def _read(model: nn.Module, language: Any, x: Any) -> Any:
    """Return the total loss and the number of tokens; None if the model is not a language model."""
    if language is None:
        model(x)
        return None
    ids = token_ids_of(x, language.vocabulary_size)
    total: Tensor = language.loss(ids[:-1], ids[1:])[0]
    return float(total), ids[1:].numel()


def _shown(side: Side) -> dict[str, str]:
    found = {}
    if side.loss is not None:
        found["loss, nats per token"] = f"{side.loss:.4f}"
    if side.loss_per_character is not None:
        found["loss, nats per character"] = f"{side.loss_per_character:.4f}"
    for name in side.flow.layers:
        found[f"horizon of {name}"] = str(side.flow.horizon(name))
    for gate, each in side.saturations.items():
        found[f"{gate} shut, open"] = f"{each.low.mean():.1%}, {each.high.mean():.1%}"
    return found
