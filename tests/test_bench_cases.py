"""Every contestant's results for every benchmark case match torch's within the case's bound."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

pytest.importorskip("throughtime._native", reason="the native engine's extension module is not built")

from throughtime.bench.arguments import Arguments
from throughtime.bench.cases import CASES, FORWARD, LONG, PACKED, QUICK, TEXT, TRAINING, Case, select
from throughtime.bench.contestants import CONTESTANTS
from throughtime.bench.measuring import error, present
from throughtime.errors import UserError

KINDS = dict.fromkeys((case.mode, case.cell) for case in CASES)
SMALL = [
    Case(*kind, *shape)
    for kind in KINDS
    for shape in ((1, 5, 3), (7, 33, 20))
    if kind[0] != TEXT or shape[0] > 1  # the loss of three tokens is meaningless
] + [Case(mode, cell, 7, 33, 20, 5) for mode, cell in KINDS if mode in (FORWARD, TRAINING)]


@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
def test_all_contestants_agree(case: Case) -> None:
    arguments = Arguments.of(case)
    results = {}
    for contestant in present(case):
        ready = contestant.prepare(case, arguments, threads=1)
        if ready.results is not None:
            results[contestant.name] = ready.results(ready.call())
    wanted = next(found for name, found in results.items() if name.startswith("torch"))
    assert "throughtime" in results
    if case.mode in (TRAINING, PACKED, LONG):
        assert len(wanted) == 2 + len(arguments.parameters) + case.is_built_in  # torch's layers have two biases
    assert {name: error(found, wanted) for name, found in results.items() if error(found, wanted) > case.bound} == {}


@pytest.mark.parametrize("cell", ["lstm", "peephole_lstm"])
def test_largest_shape_is_within_its_bound(cell: str) -> None:
    """Sums grow with the shape; the bound also holds at the grid's largest hidden size."""
    case = Case(TRAINING, cell, 2, max(case.hidden for case in CASES), 30)
    arguments = Arguments.of(case)
    ours, torchs = (c.prepare(case, arguments, threads=1) for c in present(case)[:2])
    assert ours.results is not None
    assert torchs.results is not None
    assert error(ours.results(ours.call()), torchs.results(torchs.call())) <= case.bound


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_long_sequence_is_within_its_bound(cell: str) -> None:
    case = Case(LONG, cell, 8, 5, 3_000)
    arguments = Arguments.of(case)
    ready = {c.name: c.prepare(case, arguments, threads=1) for c in present(case)}
    results = {name: r.results(r.call()) for name, r in ready.items() if r.results is not None}
    wanted = results.pop("torch")
    assert results.keys() == {"throughtime", "throughtime, all kept"}
    assert {name: off for name, of in results.items() if (off := error(of, wanted)) > case.bound} == {}


@pytest.mark.parametrize(("cell", "gates"), [("rnn", 1), ("gru", 3), ("lstm", 4), ("peephole_lstm", 4)])
def test_flops_match_the_textbook(cell: str, gates: int) -> None:
    steps, batch, hidden = 10, 3, 16
    forward = 2 * steps * batch * gates * hidden * (hidden + hidden)
    assert Case("forward", cell, batch, hidden, steps).flops == forward
    assert Case("training", cell, batch, hidden, steps).flops == 3 * forward
    assert Case("long", cell, batch, hidden, steps).flops == 3 * forward  # recomputation does not count as work


def test_lengths_of_a_packed_batch_range_from_one_to_all_steps() -> None:
    lengths = Case(PACKED, "lstm", 100, 8, 100).lengths
    assert lengths == sorted(lengths, reverse=True)
    assert (lengths[0], lengths[-1]) == (100, 1)
    assert sum(lengths) / 100 == pytest.approx(50.5)


def test_arguments_of_a_case_are_reproducible() -> None:
    forward, training = (replace(QUICK[0], mode=mode) for mode in ("forward", "training"))
    assert torch.equal(Arguments.of(forward).x, Arguments.of(forward).x)
    assert not torch.equal(Arguments.of(forward).x, Arguments.of(training).x)


def test_names_are_unique_and_every_case_has_another_contestant() -> None:
    assert len({case.name for case in CASES}) == len(CASES)
    assert all(any(c.takes(case) and c.packages == ("torch",) for c in CONTESTANTS) for case in CASES)


@pytest.mark.parametrize(
    ("wanted", "count"),
    [
        ([], len(CASES)),
        (["training"], 116),
        (["training/gru/", "training/lstm"], 64),
        (["*/lstm/b32/h128"], 2),
        (["forward/rnn/b1/h32", "forward/rnn/b1"], 7),
    ],
)
def test_cases_are_selected_by_name(wanted: list[str], count: int) -> None:
    assert len(select(CASES, wanted)) == count


def test_unknown_case_name_raises() -> None:
    with pytest.raises(UserError, match="did you mean training/gru"):
        select(CASES, ["training/gruu"])
