"""Packed sequences match padded ones on every engine: results and gradients."""

from __future__ import annotations

import pytest
import torch
from helpers import Arguments, assert_close, differentiable_run, flat, random_arguments, run_on
from hypothesis import given, settings
from hypothesis import strategies as st
from random_programs import programs
from torch import Tensor

from throughtime import cells
from throughtime.engines import get, names
from throughtime.program.core import Program

SIZES = [5, 5, 4, 2, 2, 0]


def pack(padded: Tensor, sizes: list[int]) -> Tensor:
    return torch.cat([padded.new_zeros(0, padded.shape[-1]), *(padded[t, :n] for t, n in enumerate(sizes))])


def results_and_gradients(
    name: str,
    program: Program,
    arguments: Arguments,
    sizes: list[int],
    cotangents: list[Tensor | None],
    *,
    packed: bool,
) -> list[Tensor]:
    leaves = arguments.map(lambda t: t.detach().requires_grad_())
    result = differentiable_run(get(name), program, len(sizes), *leaves, sizes, packed=packed)
    ended = zip([*result.outputs, *result.states], cotangents, strict=True)
    results, weights = zip(*((r, g) for r, g in ended if r.requires_grad and g is not None), strict=True)
    gradients = torch.autograd.grad(results, leaves.flat, weights, allow_unused=True, materialize_grads=True)
    return [*result.outputs, *result.states, *gradients]


@pytest.mark.parametrize("states_too", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("name", names())
def test_packed_matches_padded_on_every_engine(name: str, cell: str, reverse: bool, states_too: bool) -> None:
    program = cells.get(cell).program(3, 4)
    program = program.flipped if reverse else program
    reason = get(name).refuses(program, torch.zeros(1, dtype=torch.float64))
    if reason is not None:
        pytest.skip(reason)
    padded = random_arguments(program, len(SIZES), 6)  # the last sequence is empty
    packed = padded._replace(inputs=[pack(x, SIZES) for x in padded.inputs])
    of_output = torch.randn(len(SIZES), 6, 4, dtype=torch.float64)
    of_states = [torch.randn_like(s) if states_too else None for s in padded.states]
    cotangents, of_packed = [of_output, *of_states], [pack(of_output, SIZES), *of_states]
    wanted = results_and_gradients(name, program, padded, SIZES, cotangents, packed=False)
    found = results_and_gradients(name, program, packed, SIZES, of_packed, packed=True)
    for place in (0, 1 + len(padded.states)):  # the output, and the gradient of the input
        wanted[place] = pack(wanted[place], SIZES)
    assert_close(found, wanted, 1e-13)


@settings(max_examples=40)
@given(program=programs(), sizes=st.lists(st.integers(0, 3), max_size=5).map(lambda s: sorted(s, reverse=True)))
def test_packed_matches_padded_for_random_programs(program: Program, sizes: list[int]) -> None:
    arguments = random_arguments(program, len(sizes), 3)
    wanted = run_on(get("reference"), program, len(sizes), *arguments, sizes)
    wanted = wanted._replace(outputs=[pack(o, sizes) for o in wanted.outputs])
    packed = arguments._replace(inputs=[pack(x, sizes) for x in arguments.inputs])
    for name in ("reference", "native"):
        engine = get(name)
        if engine.refuses(program, arguments.states[0]) is None:
            assert_close(flat(run_on(engine, program, len(sizes), *packed, sizes, packed=True)), flat(wanted), 1e-12)
