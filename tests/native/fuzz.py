"""Fuzz the native engine with mutated programs in JSON and mismatched arrays.

    PYTHONPATH=tests:tests/native python -m fuzz --seconds 60 --seed 1     # `make fuzz` does so under sanitizers
    PYTHONPATH=tests:tests/native python -m fuzz --again build/fuzz/FILE   # rerun one case

Each case must raise a clear error or return the reference engine's results. Anything else is a finding, whose case is
kept in a file. A case is written before it runs, so that a case that crashes the process is kept too.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from helpers import Arguments, flat, random_arguments, run_on
from native_cases import family
from torch import Tensor

from throughtime import cells
from throughtime.engines.native import NativeEngine, instruction_sets
from throughtime.engines.native.plan import lower
from throughtime.engines.reference import ReferenceEngine
from throughtime.errors import UserError
from throughtime.program import rewrite
from throughtime.program.core import Program
from throughtime.program.operations import OPERATIONS
from throughtime.program.saving import from_json, to_json

NUMBERS = [0, 1, -1, 2, 3, 7, 20, 33, 1 << 24, (1 << 24) + 1, (1 << 31) - 1, 1 << 31, 1 << 32, (1 << 63) - 1, 1 << 63]
NUMBERS += [-(1 << 63), 10**400]
# No finite number is near the largest one, where overflow would depend on the order of a sum, or so large that adding
# and subtracting it would round other values away and make comparisons random.
CONSTANTS = [0.0, -0.0, 1.0, -1.0, 0.5, 1e-300, 30.0, float("inf"), float("-inf"), float("nan")]
SPECIAL = [0.0, float("inf"), float("-inf"), float("nan"), 30.0, -30.0, 1e-30, 1e-310]
MAX_ELEMENTS = 1 << 21  # in all values of a run together, so that a case takes milliseconds
SECONDS_A_CASE = 60  # a longer case counts as hanging

LAYOUTS = ("straight", "strided", "transposed", "backwards", "repeated", "misaligned", "read-only")
DAMAGES = (
    "integers",
    "other float",
    "half",
    "complex",
    "swapped",
    "row less",
    "axis more",
    "axis less",
    "other library",
)
FLOATS = {"float32": torch.float32, "float64": torch.float64}


@dataclass
class Case:
    """A fuzz case: everything that determines a run."""

    text: str
    member: int = 0  # 0: the program, 1: the program with residuals, 2: its gradient
    steps: int = 3
    rows: int = 2
    dtype: str = "float64"
    tensors: bool = False  # torch tensors instead of NumPy arrays
    layouts: tuple[str, ...] = ("straight",)  # cycled over the arrays
    damage: tuple[str, int] | None = None  # kind and index of a damaged array
    special: int = 0  # the number of special elements, such as NaN
    batch_sizes: list[int] | None = None
    packed: bool = False
    threads: int = 1
    instruction_set: str = ""
    seed: int = 0


class Finding(Exception):
    """An outcome that must not happen."""


# Cases.


FEATURES: tuple[Callable[[Program], Program], ...] = (
    lambda program: program,
    lambda program: program.flipped,
    lambda program: rewrite.with_states(rewrite.with_reset(program, True)),
    lambda program: rewrite.with_zoneout(rewrite.with_recurrent_dropout(program), (0,)),
    lambda program: rewrite.with_skip(rewrite.with_clip(program, 1.0), "dense"),
    lambda program: rewrite.with_one_hot_input(program, 5) or program,
)


@lru_cache(maxsize=1024)
def source(name: str, hidden: int, feature: int, member: int) -> str:
    """Return a named cell's program with a feature, or its residual or gradient program, as JSON."""
    program = FEATURES[feature](cells.get(name).program(3, hidden))
    return to_json(family(program)[member] if member else program)


def draw_case(seed: int, number: int) -> Case:
    """Draw the case with this number."""
    draw = random.Random(f"{seed}/{number}")
    # Some cases are wide, because threads share a run only if there is enough work.
    hidden, steps, rows = (
        draw.choice((4, 4, 20)),
        draw.choice((0, 1, 2, 5, 9, 30)),
        draw.choice((0, 1, 2, 3, 5, 17, 70)),
    )
    if number % 20 == 19:
        hidden, steps, rows = 260, 60, draw.choice((1, 1, 2))
    feature, member = draw.randrange(len(FEATURES)), draw.choice((0, 0, 1, 2))
    content = json.loads(source(draw.choice(cells.names()), hidden, feature, member))
    for _ in range(draw.choice((0, 1, 1, 2, 3))):
        draw.choice(MUTATIONS)(draw, content)
    text = json.dumps(content)
    if draw.random() < 0.05:
        cut = draw.randrange(len(text))
        text = text[:cut] + draw.choice(("", "[", "\0", "9", "-")) + text[cut + draw.randrange(3) :]
    sizes = None
    if draw.random() < 0.3:
        sizes = sorted((draw.randint(0, rows) for _ in range(steps)), reverse=True)
        if sizes and draw.random() < 0.2:
            sizes[draw.randrange(steps)] = draw.choice((-1, rows + 1, 1 << 62, -(1 << 63)))
    return Case(
        text,
        draw.choice((0, 0, 0, 1, 2)),
        steps,
        rows,
        draw.choice(tuple(FLOATS)),
        draw.random() < 0.3,
        tuple(draw.choice(LAYOUTS) for _ in range(draw.randint(1, 3))),
        (draw.choice(DAMAGES), draw.randrange(100)) if draw.random() < 0.15 else None,
        draw.choice((0, 0, 0, 1, 5)),
        sizes,
        sizes is not None and draw.random() < 0.5,
        draw.choice((1, 2, 3)),
        draw.choice(instruction_sets()),
        number,
    )


def _leaf(draw: random.Random, content: Any) -> None:
    """Replace a random element with a value of any kind."""
    place, key = draw.choice(list(_places(content)))
    numbers = [*NUMBERS, *CONSTANTS, None, True, "", "x\n", [], {}]
    if type(place[key]) is int and draw.random() < 0.5:
        place[key] += draw.choice((-1, 1))
    else:
        place[key] = draw.choice(numbers)


def _everywhere(draw: random.Random, content: Any) -> None:
    """Replace all occurrences of a number, usually a width, with another number."""
    of_widths = [i[2] for i in content["body"] if isinstance(i, list) and len(i) == 4]
    old, new = draw.choice(of_widths or [4]), draw.choice(NUMBERS[:8])
    for place, key in list(_places(content)):
        if type(place[key]) is int and place[key] == old and not isinstance(place, dict):
            place[key] = new


def _shorter_or_longer(draw: random.Random, content: Any) -> None:
    """Remove, duplicate or swap elements."""
    place, key = draw.choice(list(_places(content)))
    if isinstance(place, dict):
        del place[key]
        return
    other = draw.randrange(len(place))
    match draw.randrange(3):
        case 0:
            del place[key]
        case 1:
            place.insert(other, place[key])
        case 2:
            place[key], place[other] = place[other], place[key]


def _operation(draw: random.Random, content: Any) -> None:
    """Replace an instruction's operation with another one of the same arity."""
    instruction = draw.choice(content["body"])
    alike = [name for name, row in OPERATIONS.items() if row.pointwise and row.arity == len(instruction[1])]
    instruction[0] = draw.choice(alike or list(OPERATIONS))


def _argument(draw: random.Random, content: Any) -> None:
    """Replace an argument with another value of the same width."""
    users = [(id, i) for id, i in enumerate(content["body"]) if i[1]]
    id, instruction = draw.choice(users)
    k = draw.randrange(len(instruction[1]))
    instruction[1][k] = _alike(draw, content, instruction[1][k], id)


def _result(draw: random.Random, content: Any) -> None:
    """Replace a state, an output or a reduction with another value of the same width, or add an output."""
    places = [(s, 3) for s in content["states"]] + [(o, 1) for o in content["outputs"]]
    places += [(term, k) for r in content["reductions"] for term in r[2] for k in range(len(term))]
    place, key = draw.choice(places)
    place[key] = _alike(draw, content, place[key], len(content["body"]))
    if draw.random() < 0.3:
        content["outputs"].append([f"y{draw.random()}", draw.randrange(len(content["body"]))])


def _instruction(draw: random.Random, content: Any) -> None:
    """Add instructions and use them as results."""
    body = content["body"]
    for _ in range(draw.randint(1, 4)):
        a = draw.randrange(len(body))
        width = body[a][2]
        match draw.choice(("slice", "concat", "expand", "constant", "pointwise", "pointwise")):
            case "slice":
                start = draw.randrange(width)
                body.append(["slice", [a], draw.randint(1, width - start), {"start": start}])
            case "concat":
                b = draw.randrange(len(body))
                body.append(["concat", [a, b], width + body[b][2], {}])
            case "expand":
                body.append([draw.choice(("row_sum", "row_max")), [a], 1, {}])
                body.append(["expand", [len(body) - 1], draw.choice((1, 4, 12)), {}])
            case "constant":
                body.append(["constant", [], width, {"value": draw.choice(CONSTANTS)}])
            case "pointwise":
                name, row = draw.choice([(n, row) for n, row in OPERATIONS.items() if row.pointwise])
                body.append([name, [_alike(draw, content, a, len(body)) for _ in range(row.arity or 1)], width, {}])
    _result(draw, content)
    _result(draw, content)


def _constant(draw: random.Random, content: Any) -> None:
    """Change a constant, or reverse time if there is none."""
    found = [i for i in content["body"] if i[0] == "constant"]
    if found:
        draw.choice(found)[3]["value"] = draw.choice(CONSTANTS)
    else:
        content["reverse"] = not content["reverse"]


def _alike(draw: random.Random, content: Any, value: int, before: int) -> int:
    body = content["body"]
    return draw.choice([id for id in range(before) if body[id][2] == body[value][2]] or [value])


def _places(content: Any) -> Iterator[tuple[Any, Any]]:
    """Iterate over all elements of nested lists and mappings, as pairs of container and key."""
    keys = list(content) if isinstance(content, dict) else range(len(content)) if isinstance(content, list) else ()
    for key in keys:
        yield content, key
        yield from _places(content[key])


# Mutations that keep programs well-formed are more frequent, as most others are rejected on loading.
_KEEPING: list[Callable[[random.Random, Any], None]] = [_operation, _argument, _result, _instruction, _constant]


def _tried(mutation: Callable[[random.Random, Any], None]) -> Callable[[random.Random, Any], None]:
    """Wrap a mutation to fall back to `_leaf` if earlier mutations left nothing to apply it to."""

    def mutate(draw: random.Random, content: Any) -> None:
        try:
            mutation(draw, content)
        except (TypeError, ValueError, LookupError, AttributeError):
            _leaf(draw, content)

    return mutate


MUTATIONS = [_tried(m) for m in (_leaf, _everywhere, _shorter_or_longer, *_KEEPING, *_KEEPING)]


# Running a case.


def run_case(case: Case) -> str:
    """Run a case and return its outcome in a word.

    Raises:
        Finding: if the outcome is neither a clear error nor the right result.
    """
    try:
        program = from_json(case.text)
    except UserError:
        return "refused"
    except Exception as error:
        raise Finding(f"reading the program: {error!r}") from error
    try:
        program = family(program)[case.member] if case.member else program
        lower(program)
    except UserError as error:
        raise Finding(f"a legal program's gradient, or its plan, is not legal: {error}") from error
    except Exception as error:
        raise Finding(f"deriving and lowering: {error!r}") from error
    if _elements(program, case) > MAX_ELEMENTS:
        return "too large"
    return _compared(case, program, arguments_of(case, program))


def _elements(program: Program, case: Case) -> int:
    values = sum(i.width for i in program.body) * max(1, case.steps * case.rows)
    return values + sum(int(np.prod([float(n) for n in of.shape])) for of in (*program.parameters, *program.reductions))


def _compared(case: Case, program: Program, arguments: Arguments) -> str:
    engine = NativeEngine(case.threads, case.instruction_set)
    sizes = case.batch_sizes
    fits = sizes is None or (sizes == sorted(sizes, reverse=True) and all(0 <= n <= case.rows for n in sizes))
    given, damaged = _given(case, arguments)
    try:
        found = run_on(engine, program, case.steps, *given, sizes, packed=case.packed)
    except (UserError, ValueError) as error:
        if fits and not damaged:
            raise Finding(f"a valid case was refused: {error!r}") from error
        return "refused"
    except Exception as error:
        raise Finding(f"the engine: {error!r}") from error
    if not fits or damaged:
        raise Finding("an invalid case was accepted")
    with _denormals_flushed():
        wanted = _reference(case, program, arguments)
        wide = _reference(case, program, arguments.map(Tensor.double))
        near = [_reference(case, program, _perturbed(arguments, seed)) for seed in range(3)]
    # The reference engine multiplies the zeros of one-hot inputs too, and the other factor may be NaN or infinite.
    numbers_alone = any(i.one_hot for i in program.inputs)
    for k, values in enumerate(zip(map(_tensor, flat(found)), wanted, wide, *near, strict=True)):
        _check_close(k, *values, numbers_alone=numbers_alone)
    return "right"


def arguments_of(case: Case, program: Program) -> Arguments:
    """Return the arguments of a case's program, including special numbers."""
    arguments = random_arguments(program, case.steps, case.rows, seed=case.seed)
    arguments = arguments.map(lambda t: t.to(FLOATS[case.dtype]))
    if case.packed:
        total = sum(n for n in case.batch_sizes or [] if 0 <= n <= case.rows)
        arguments = arguments._replace(inputs=[i.flatten(0, 1)[:total].clone() for i in arguments.inputs])
    draw = random.Random(case.seed)
    there = [t for t in arguments.flat if t.numel() and t.is_floating_point()]
    # Engines may skip products with the zeros of a one-hot input, so their other factor has to be finite.
    some = there and not any(i.one_hot for i in program.inputs)
    for _ in range(case.special if some else 0):
        array = draw.choice(there).view(-1)
        array[draw.randrange(len(array))] = draw.choice(SPECIAL)
    # Equal rows can be passed as one expanded row. Matrices keep distinct rows, since equal rows would
    # have equal products, and results divided by their differences would be arbitrary.
    vectors = len(arguments.inputs) + len(arguments.states)
    repeated = [k < vectors and _layout(case, k) == "repeated" and len(t) > 0 for k, t in enumerate(arguments.flat)]
    return arguments.like(
        [t[:1].expand_as(t).contiguous() if r else t for t, r in zip(arguments.flat, repeated, strict=True)]
    )


def _layout(case: Case, k: int) -> str:
    return case.layouts[k % len(case.layouts)]


def _given(case: Case, arguments: Arguments) -> tuple[list[list[Any]], bool]:
    """Return the arrays in the case's layouts and library, one possibly damaged, and whether one is."""
    laid = [_laid(t, _layout(case, k), case.tensors) for k, t in enumerate(arguments.flat)]
    damaged = False
    if case.damage is not None and len(laid) > 1:  # a single array can't be inconsistent with others
        kind, k = case.damage
        k %= len(laid)
        was = laid[k]
        sets_batch_size = k == len(arguments.inputs)  # the first state
        laid[k] = was if sets_batch_size and kind == "row less" else _damaged(was, kind)
        damaged = laid[k] is not was
    split = arguments.like(laid)
    return [split.inputs, split.states, split.parameters], damaged


def _laid(t: Tensor, layout: str, tensors: bool) -> Any:
    """Return the same numbers in another memory layout."""
    if layout == "strided":
        t = torch.stack([t, -t], -1)[..., 0]
    if layout == "transposed":
        t = t.mT.contiguous().mT if t.dim() > 1 else t
    if layout == "repeated":
        t = t[:1].expand_as(t) if len(t) and bool((t == t[:1]).all()) else t
    if tensors:
        return torch._neg_view(-t) if layout == "backwards" else t
    array = t.numpy()
    if layout == "backwards":
        array = array[::-1].copy()[::-1]
    if layout == "misaligned":
        memory = np.zeros(array.nbytes + 1, np.uint8)[1:].view(array.dtype).reshape(array.shape)
        memory[...] = array
        array = memory
    if layout == "read-only":
        array = array.copy()
        array.flags.writeable = False
    return array


def _damaged(array: Any, kind: str) -> Any:
    """Return a mismatched array, or the array itself if it can't be damaged in this way."""
    if kind == "other library":
        return array.resolve_neg().numpy() if isinstance(array, Tensor) else torch.zeros(array.shape)
    if kind == "row less":
        return array[:-1] if len(array) else array
    if kind == "axis more":
        return array[None]
    if kind == "axis less":
        return array.reshape(-1) if array.ndim > 1 else array.reshape(()) if array.size == 1 else array
    if isinstance(array, Tensor):
        other = torch.float32 if array.dtype == torch.float64 else torch.float64
        kinds = {"integers": torch.int64, "other float": other, "half": torch.float16, "complex": torch.complex64}
        return array.to(kinds[kind]) if kind in kinds else array
    if kind == "integers" and array.dtype == np.int64:
        return array
    if kind == "swapped":
        return array.astype(array.dtype.newbyteorder())
    other_type = np.float32 if array.dtype == np.float64 else np.float64
    types = {"integers": np.int64, "other float": other_type, "half": np.float16, "complex": np.complex64}
    return np.zeros(array.shape, types[kind])


@contextmanager
def _denormals_flushed() -> Iterator[None]:
    torch.set_flush_denormal(True)  # as the native engine does
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def _reference(case: Case, program: Program, arguments: Arguments) -> list[Tensor]:
    try:
        return flat(
            run_on(ReferenceEngine(), program, case.steps, *arguments, case.batch_sizes, packed=case.packed),
        )
    except Exception as error:
        raise Finding(f"the reference engine: {error!r}") from error


def _perturbed(arguments: Arguments, seed: int) -> Arguments:
    """Return the arguments, with each number perturbed by some thousands of rounding errors."""
    generator = torch.Generator().manual_seed(seed)

    def shake(t: Tensor) -> Tensor:
        step = 2.0**14 * torch.finfo(t.dtype).eps
        return t * (1 + step * torch.randn(t.shape, generator=generator, dtype=t.dtype))

    return arguments.map(shake)


def _tensor(array: Any) -> Tensor:
    return array if isinstance(array, Tensor) else torch.from_numpy(array)


def _check_close(
    k: int, found: Tensor, wanted: Tensor, wide: Tensor, *near: Tensor, numbers_alone: bool = False
) -> None:
    """Check that a result equals the reference's, as far as the program determines it.

    A mutated program may amplify rounding errors without limit. The reference engine shows by how much: a result is
    accepted within the range of the reference's results for arguments perturbed by thousands of rounding errors. Where
    some of these are NaN or jump, any result is accepted, and also where float32 overflows and float64 does not,
    because overflow may depend on the order of a sum.
    """
    if found.shape != wanted.shape or found.dtype != wanted.dtype:
        raise Finding(f"result {k} is {found.dtype} {list(found.shape)}, not {wanted.dtype} {list(wanted.shape)}")
    if not wanted.numel():
        return
    settled = wanted.isfinite() | (wide == wanted) | (wide.isnan() & wanted.isnan())
    settled &= wanted.isfinite() | (not numbers_alone)
    for other in near:
        settled &= (other == wanted) | (other.isnan() & wanted.isnan()) | (other.isfinite() & wanted.isfinite())
    spread = torch.stack([(other - wanted).abs().nan_to_num(0, 0) for other in near]).amax(0)
    size = wanted[wanted.isfinite()].abs().amax() if wanted.isfinite().any() else torch.tensor(0.0)
    same = (found == wanted) | (found.isnan() & wanted.isnan())
    close = (found - wanted).abs() <= spread + 256 * torch.finfo(wanted.dtype).eps * size
    wrong = settled & ~same & ~close
    if wrong.any():
        at = tuple(int(n) for n in wrong.nonzero()[0])
        raise Finding(
            f"result {k} of shape {list(wanted.shape)} has {int(wrong.sum())} wrong numbers: at {at} "
            f"{float(found[at])!r} instead of {float(wanted[at])!r}, where {float(spread[at]):.1e} is allowed"
        )


# Running many cases.


def fuzz(seed: int, *, cases: int | None = None, seconds: float | None = None, folder: Path | None = None) -> Counter:
    """Run cases up to a number or a time limit, and return the count of each outcome.

    Args:
        seed: the seed from which cases are drawn.
        cases: the maximum number of cases.
        seconds: the time limit in seconds.
        folder: the directory for findings; if None, they are not written.
    """
    came: Counter[str] = Counter()
    end = time.monotonic() + seconds if seconds is not None else float("inf")
    number = 0
    while (cases is None or number < cases) and time.monotonic() < end:
        case = draw_case(seed, number)
        if folder is not None:
            file = folder / f"{seed}-{number}.json"
            file.write_text(json.dumps(asdict(case)))
            faulthandler.dump_traceback_later(SECONDS_A_CASE, exit=True)
        try:
            came[run_case(case)] += 1
        except Finding as finding:
            came["findings"] += 1
            print(f"case {seed}/{number}: {finding}", flush=True)
        else:
            if folder is not None:
                file.unlink()
        number += 1
    faulthandler.cancel_dump_traceback_later()
    return came


def told(came: Counter[str]) -> str:
    """Format the counts of outcomes as a line of text."""
    words = ("refused", "right", "too large", "findings")
    return f"{came.total()} cases: " + ", ".join(f"{came[word]} {word}" for word in words)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=None, help="default: random")
    parser.add_argument("--folder", type=Path, default=Path("build/fuzz"), help="the directory for findings")
    parser.add_argument("--again", type=Path, metavar="FILE", help="rerun the case in a file")
    options = parser.parse_args()
    faulthandler.enable()
    torch.set_num_threads(1)
    if options.again is not None:
        print(run_case(Case(**json.loads(options.again.read_text()))))
        return 0
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1 << 30)
    print(f"seed {seed}; a case that crashes the process is kept in {options.folder}", flush=True)
    options.folder.mkdir(parents=True, exist_ok=True)
    came = fuzz(seed, seconds=options.seconds, folder=options.folder)
    print(told(came))
    return 1 if came["findings"] else 0


if __name__ == "__main__":
    sys.exit(main())
