"""A stack of recurrent layers as a function: what every recurrent module runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from throughtime.engines import choose
from throughtime.engines.base import Result, declared
from throughtime.engines.operator import program_of, run
from throughtime.engines.watching import together
from throughtime.errors import UserError
from throughtime.nn.features import Feature, Form, Place, Reset, Starts, StateSequence, places_of
from throughtime.nn.masks import dropped, scaled_mask
from throughtime.nn.options import Options
from throughtime.program.core import Program
from throughtime.program.recording import with_outputs
from throughtime.program.rewrite import input_weights, rewritten, with_symbols

Layers = Sequence[Sequence[tuple[Program, Sequence[Tensor]]]]  # of each layer each direction's program and parameters


_PLAIN = Options()


def run_stack(
    layers: Layers,
    x: Tensor,
    states: Sequence[Tensor] | None,
    *,
    dropout: float = 0.0,
    options: Options = _PLAIN,
    starts: Starts | None = None,
    engine: str | None = None,
    form: Form | None = None,
    features: Sequence[Feature] = (),
) -> tuple[list[Tensor], list[Tensor]]:
    """Runs layer upon layer.

    Args:
        layers: each layer's directions: a program and its parameters.
        x: `[T, B, input]`; `[N, input]` if packed; without `input` where the first layer's input is one-hot.
        states: for each state of the cell the initial `[layers * directions, B, width]`; what the cell declares, or
            `starts`, if not given.
        dropout: the probability with which an element between two layers is dropped.
        options: how layers and directions are joined, and which of the steps are returned.
        starts: what states start with, where that is learned.
        engine: the engine's name; chosen by device if not given.
        form: how x lies; `[T, B, input]` if not given.
        features: what more takes part in each layer's run, in this order.

    Returns:
        The last layer's output `[T, B, directions * output]`, `[N, ...]` if packed, of each direction where they stay
        apart, `[B, ...]` of the last steps; and the final states, as `states`.
    """
    kind = x.device.type
    if in_autocast(kind) and layers[0][0][1][0].dtype == torch.float32:
        # Arithmetic in float32, as an error of a state would be carried on; what goes out is what autocast asks for.
        with torch.autocast(kind, enabled=False):
            outputs, final = run_stack(
                layers,
                x.float(),
                None if states is None else [s.float() for s in states],
                dropout=dropout,
                options=options,
                starts=starts,
                engine=engine,
                form=form,
                features=features,
            )
        dtype = torch.get_autocast_dtype(kind)
        return [y.to(dtype) for y in outputs], [s.to(dtype) for s in final]
    form = Form(*x.shape[:2]) if form is None else form
    rows = form.rows
    ended: list[list[Tensor]] = [[] for _ in layers[0][0][0].states]
    number = 0
    below = [x]  # what a layer takes: of each direction, where they stay apart
    for depth, directions in enumerate(layers):
        taken = below
        if depth > 0 and dropout > 0:
            taken = [_thinned(y, dropout, options, form) for y in below]
        outputs = []
        for way, (program, parameters) in enumerate(directions):
            if states is not None:
                initial = [s[number] for s in states]
            elif starts is not None:
                initial = [start.expand(rows, -1) for start in starts[depth][way]]
            else:
                initial = None
            place, given = Place(depth, way == 1), taken[way % len(taken)]
            result = _run(engine, program, place, features, form, given, initial, parameters, options.checkpoint_every)
            outputs.append(result.outputs[0])
            for of_state, last in zip(ended, result.states, strict=True):
                of_state.append(last)
            number += 1
        top = depth == len(layers) - 1
        if top and options.returns == "last":
            below, outputs = [form.pad(x) for x in below], [form.pad(y) for y in outputs]
        reverse = [program.reverse for program, _ in directions]
        below = joined(below, outputs, reverse, options, top, form.batch_sizes)
    return below, [of[0].unsqueeze(0) if len(of) == 1 else torch.stack(of) for of in ended]


def over_rows_of(layers: Layers, table: Tensor) -> Layers | None:
    """The stack for symbols, whose vectors are the rows of a table.

    Args:
        layers: what runs on the vectors.
        table: `[n, input]`.

    Returns:
        The stack whose input is one-hot, of n elements; None if the first layer's cell does more with its input than
        to multiply it by matrices of their own.
    """
    first, *rest = layers
    found = []
    for program, parameters in first:
        changed = with_symbols(program, len(table))
        if changed is None:
            return None
        weights = input_weights(program)
        found.append((changed, [p @ table.T if k in weights else p for k, p in enumerate(parameters)]))
    return [found, *rest]


def in_autocast(kind: str) -> bool:
    """Whether autocast is on for this type of device; some, such as `meta`, have none."""
    return torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)


def _thinned(x: Tensor, dropout: float, options: Options, form: Form) -> Tensor:
    """The input of a layer after dropout."""
    if not options.variational:
        return dropped(x, dropout)
    mask = scaled_mask(x, (1, form.rows, x.shape[-1]), dropout)
    return x * (mask if form.batch_sizes is None else form.pack(mask.expand(form.steps, -1, -1)))


def joined(
    below: list[Tensor],
    outputs: list[Tensor],
    reverse: Sequence[bool],
    options: Options,
    top: bool,
    batch_sizes: Sequence[int] | None = None,
) -> list[Tensor]:
    """What a layer gives to the next one, or to the caller.

    Args:
        below: what it took, `[T, B, width]`; of each direction, where they stay apart.
        outputs: what its directions gave, `[T, B, width]`.
        reverse: whether each direction runs from the last step to the first.
        options: how directions and layers are joined, and which of the steps are returned.
        top: whether it is the last layer.
        batch_sizes: the number of active rows at each step; all if not given.
    """
    if top and options.returns == "last":
        outputs = [_last_step(y, back, batch_sizes) for y, back in zip(outputs, reverse, strict=True)]
        below = [_last_step(y, back, batch_sizes) for y, back in zip(below, reverse, strict=False)]
    outputs = _merged(outputs, options.merge)
    return outputs if options.skip is None else _passed_by(below, outputs, options.skip, top)


def _merged(outputs: list[Tensor], merge: str) -> list[Tensor]:
    """What two directions give together."""
    if len(outputs) == 1 or merge == "none":
        return outputs
    forward, backward = outputs
    if merge == "concat":
        return [torch.cat(outputs, -1)]
    if merge == "product":
        return [forward * backward]
    both = forward + backward
    return [both if merge == "sum" else 0.5 * both]


def _passed_by(below: list[Tensor], outputs: list[Tensor], skip: str, top: bool) -> list[Tensor]:
    """What a layer gives together with what has gone past it."""
    past = [below[way % len(below)] for way in range(len(outputs))]
    pairs = list(zip(past, outputs, strict=True))
    if skip == "residual":
        return [x + y if x.shape == y.shape else y for x, y in pairs]
    return outputs if top else [torch.cat(pair, -1) for pair in pairs]


def _last_step(y: Tensor, reverse: bool, batch_sizes: Sequence[int] | None) -> Tensor:
    """What is given at the last step that each row takes, `[B, width]`; 0 for a row that takes none."""
    if not len(y):
        return y.new_zeros(y.shape[1:])
    if reverse:
        return y[0]
    if batch_sizes is None:
        return y[-1]
    last = torch.as_tensor(batch_sizes, device=y.device)[:, None] > torch.arange(y.shape[1], device=y.device)
    found: Tensor = y[(last.sum(0) - 1).clamp(min=0), torch.arange(y.shape[1], device=y.device)]
    return found


def ways_of(program: Program, directions: int, reverse: bool = False) -> list[Program]:
    """The program of each direction of a layer, ready to be run in a compiled graph."""
    ways = [program.flipped] if reverse else [program, program.flipped][:directions]
    for way in ways:
        _ = way.text  # kept from here on: a graph that is being captured cannot write it
    return ways


def _run(
    engine: str | None,
    program: Program,
    place: Place,
    features: Sequence[Feature],
    form: Form,
    x: Tensor,
    states: list[Tensor] | None,
    parameters: Sequence[Tensor],
    checkpoint_every: int | None,
) -> Result:
    inputs, packed = [x], form.batch_sizes is not None
    like = x if x.is_floating_point() else parameters[0]
    # Else the engine begins them, which is quicker: but it knows no rows without steps, and no features' inputs.
    if states is None and (features or (form.batch_sizes is not None and form.rows != next(iter(form.batch_sizes), 0))):
        states = declared(program, like, form.rows)
    if features:
        padded = x.new_empty(()).expand(form.steps, form.rows, x.shape[-1]) if packed else x
        for feature in features:
            inputs += [form.pack(given) for given in feature.inputs(place, padded)]
    if torch.compiler.is_compiling():
        names = [feature.in_graph() for feature in features]
        rewrites = [name for name in names if name is not None]
        outputs, final = _run_in_graph(
            engine,
            program.text,
            rewrites,
            form.steps,
            inputs,
            states,
            list(parameters),
            form.batch_sizes,
            packed,
            checkpoint_every,
        )
        start = len(program.outputs)
        for feature in features:
            end = start + feature.adds(program)
            feature.receive(place, [form.pad(y) for y in outputs[start:end]])
            start = end
        return Result(outputs, final, [])
    if not features:
        chosen, sizes = choose(engine, program, like), form.batch_sizes
        of = chosen, program, form.steps, inputs, states, parameters, sizes
        return run(*of, packed=packed, checkpoint_every=checkpoint_every)
    own = len(program.outputs)
    ends = []
    for feature in features:
        program = feature.rewrite(place, program)
        ends.append(len(program.outputs))
    watch = together([w for feature in features if (w := feature.watch(place, program)) is not None])
    seen = program if watch is None else with_outputs(program, watch.values, own)[0]
    chosen = usual = choose(engine, seen, like)
    for feature in features:
        chosen = feature.engine(place, program, chosen)
    if chosen is not usual and watch is not None and watch.gradients:
        raise UserError(
            "gradients cannot be recorded where a function of Python takes a value's place: write the edit in the cell "
            "language."
        )
    if watch is not None and packed:
        watch = watch.seen_through(form.pad)
    result = run(
        chosen,
        program,
        form.steps,
        inputs,
        states,
        parameters,
        form.batch_sizes,
        watch,
        packed=packed,
        checkpoint_every=checkpoint_every,
    )
    for feature, start, end in zip(features, [own, *ends], ends, strict=False):
        feature.receive(place, [form.pad(y) for y in result.outputs[start:end]])
    return result


@torch.compiler.allow_in_graph  # type: ignore[untyped-decorator]
def _run_in_graph(
    engine: str | None,
    text: str,
    rewrites: Sequence[str],
    steps: int,
    inputs: list[Tensor],
    states: list[Tensor] | None,
    parameters: list[Tensor],
    batch_sizes: Sequence[int] | None,
    packed: bool,
    checkpoint_every: int | None,
) -> tuple[list[Tensor], list[Tensor]]:
    """What a graph that is being captured holds of a run; a graph has no programs in it, but their text."""
    program = rewritten(program_of(text), tuple(rewrites))
    chosen = choose(engine, program, inputs[0])
    result = run(
        chosen,
        program,
        steps,
        inputs,
        states,
        parameters,
        batch_sizes,
        packed=packed,
        checkpoint_every=checkpoint_every,
    )
    return result.outputs, result.states


Output = Tensor | PackedSequence | tuple[Tensor | PackedSequence, ...]
_ROWS_AXIS = {"steps": 1, "last": 0, "states": 2}  # of what is returned


def run_any_form(
    layers: Layers,
    input: Tensor | PackedSequence,
    states: Sequence[Tensor] | None,
    *,
    batch_first: bool = False,
    dropout: float = 0.0,
    options: Options = _PLAIN,
    starts: Starts | None = None,
    engine: str | None = None,
    lengths: Tensor | Sequence[int] | None = None,
    reset: Tensor | None = None,
    masks: Sequence[Feature] = (),
    features: Sequence[Feature] = (),
    symbols: bool = False,
) -> tuple[Output, list[Tensor]]:
    """Runs a stack on any form of input that torch's layers take.

    Args:
        layers, dropout, options, starts, engine, features: see `run_stack`.
        input: `[T, B, features]` (`[B, T, features]` if `batch_first`), `[T, features]`, or a packed sequence.
        states: as `run_stack`; without the axis of rows where the input has none.
        batch_first: whether the axis of rows comes first in input and output.
        lengths: the number of steps of each row, 0 to T; all if not given.
        reset: of the form of the input without its features, not 0 where a row's states start afresh.
        masks: what draws the inputs that the layers' programs have besides x; it comes before a reset.
        symbols: whether the input is `[T, B]`, without features, for layers whose input is one-hot.

    Returns:
        The output in the form of the input, a tuple if there are several; and the final states in the form of the
        states.
    """
    rows_axis = _ROWS_AXIS[options.returns]

    def ordered(
        x: Tensor, states: Sequence[Tensor] | None, form: Form, order: Tensor | None
    ) -> tuple[list[Tensor], list[Tensor]]:
        if states is not None and order is not None:
            states = [s[:, order] for s in states]
        taking = [*masks, *features] if reset is None else [*masks, Reset(reset, starts), *features]
        sequence = StateSequence() if options.returns == "states" else None
        if sequence is not None:
            taking = [*taking, sequence]
        for feature in taking:
            feature.begin(form)
        outputs, final = run_stack(
            layers,
            x,
            states,
            dropout=dropout,
            options=options,
            starts=starts,
            engine=engine,
            form=form,
            features=taking,
        )
        if sequence is not None:
            outputs = sequence.sequences
        back = form.back
        return outputs, final if back is None else [s.index_select(1, back) for s in final]

    if isinstance(input, PackedSequence):
        if lengths is not None or reset is not None:
            raise UserError("lengths and reset are for a padded input; give no packed sequence with them.")
        outputs, final = ordered(input.data, states, form_of(input), input.sorted_indices)
        if options.returns == "steps":
            return _alone([input._replace(data=y) for y in outputs]), final
        back = input.unsorted_indices
        return _alone(outputs if back is None else [y.index_select(rows_axis, back) for y in outputs]), final
    single = input.dim() == 2 and not symbols
    if single:
        x = input.unsqueeze(1)
        states = None if states is None else [s.unsqueeze(1) for s in states]
        reset = None if reset is None else reset.unsqueeze(1)
    else:
        x = input.transpose(0, 1) if batch_first else input
        reset = reset.T if batch_first and reset is not None else reset
    if lengths is None:
        outputs, final = ordered(x, states, Form(x.shape[0], x.shape[1]), None)
    else:
        order, sizes = _sizes_of(lengths, *x.shape[:2])
        order = order.to(x.device)
        back = torch.argsort(order)
        places = places_of(x.shape[1], sizes).to(x.device)
        form = Form(len(sizes), x.shape[1], sizes, back, places)
        row = places % form.rows
        theirs = form._replace(places=places - row + order[row])
        reset = None if reset is None else reset[:, order]
        outputs, final = ordered(theirs.pack(x), states, form, order)
        if options.returns == "steps":
            outputs = [theirs.pad(y) for y in outputs]
        else:
            outputs = [y.index_select(rows_axis, back) for y in outputs]
    if single:
        return _alone([y.squeeze(rows_axis) for y in outputs]), [s.squeeze(1) for s in final]
    if batch_first and rows_axis == 1:
        outputs = [y.transpose(0, 1) for y in outputs]
    return _alone(outputs), final


def _eager(reason: str) -> Callable[..., Any]:
    """What calls a function outside of the graph that torch.compile captures; the reason is shown under fullgraph."""

    def call(function: Callable[..., Any], *args: Any) -> Any:
        return function(*args)

    found: Callable[..., Any] = torch.compiler.disable(call, reason=reason)  # type: ignore[no-untyped-call]
    return found


_OTHERWISE = "compile the model without fullgraph=True"
_with_packed = _eager(f"a PackedSequence cannot be part of a graph: {_OTHERWISE}, or pass a padded input and lengths")
_with_hooks = _eager(f"throughtime.record and throughtime.edit work outside of a graph: {_OTHERWISE}")
_in_transform = _eager(f"a recurrent layer under a transform of torch.func runs outside of a graph: {_OTHERWISE}")


def outside_graph(module: Any, input: Any) -> Callable[..., Any] | None:
    """What calls a module's run outside of the graph that torch.compile captures; None if it can be a part of it."""
    if isinstance(input, PackedSequence):  # Dynamo skips a frame with one in it, and would compile what that calls
        return _with_packed
    if not torch.compiler.is_dynamo_compiling():
        return None
    if any(feature.outside_graphs for feature in module.watching):
        return _with_hooks
    # As torch's own layers do: an operator has no rule for a transform that is itself a part of the graph.
    return None if torch._C._functorch.maybe_current_level() is None else _in_transform


def _alone(outputs: Sequence[Tensor | PackedSequence]) -> Output:
    return outputs[0] if len(outputs) == 1 else tuple(outputs)


def form_of(packed: PackedSequence) -> Form:
    """How the data of a packed sequence lie."""
    sizes: list[int] = packed.batch_sizes.tolist()
    return Form(len(sizes), sizes[0] if sizes else 0, sizes, packed.unsorted_indices)


def _sizes_of(lengths: Tensor | Sequence[int], steps: int, rows: int) -> tuple[Tensor, list[int]]:
    """The order of rows from long to short, and the number of active rows at each step.

    Raises:
        UserError: if there is not one length from 0 to T for each row.
    """
    try:
        numbers = torch.as_tensor(lengths).cpu()
    except (TypeError, ValueError):
        raise UserError(f"lengths must be whole numbers, one a row; given {lengths!r}.") from None
    given = numbers.to(torch.int64)
    if given.shape != (rows,) or bool(((given < 0) | (given > steps) | (given != numbers)).any()):
        raise UserError(f"lengths must be {rows} whole numbers from 0 to {steps}, one a row; given {numbers.tolist()}.")
    order = torch.argsort(given, descending=True, stable=True)
    sizes: list[int] = (given[:, None] > torch.arange(steps)).sum(0).tolist()
    return order, sizes
