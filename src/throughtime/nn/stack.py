"""A stack of recurrent layers as a function: what every recurrent module runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.fx import Proxy
from torch.nn.utils.rnn import PackedSequence

from throughtime.engines import choose
from throughtime.engines.autograd import Pass
from throughtime.engines.base import Layout, Operands, Result, declared_states
from throughtime.engines.operator import program_of
from throughtime.engines.taps import merged
from throughtime.errors import UserError
from throughtime.nn.forms import Lengths, Output, State, form_of
from throughtime.nn.hooks import Hook, LayerDirection, Reset, Starts, StateSequence
from throughtime.nn.masks import dropped, scaled_mask
from throughtime.nn.options import Options
from throughtime.program.core import Program
from throughtime.program.recording import with_outputs
from throughtime.program.rewrite import input_weights, rewritten, with_symbols

Layers = Sequence[Sequence[tuple[Program, Sequence[Tensor]]]]  # of each layer each direction's program and parameters


class Stack(NamedTuple):
    """Layers, and how they are joined.

    Attributes:
        layers: each layer's directions: a program and its parameters.
        options: how layers and directions are joined, and which of the steps are returned.
        dropout: the probability with which an element between two layers is dropped now.
        engine: the engine's name; chosen by device if None.
        starts: learned initial states.
        masks: the hooks that draw the masks of training; they come before all others.
        plain: whether input and initial states are known to be plain memory, so that no layer has to look again.
        promotes: whether results under autocast have at least the precision of the state (of the input without one), as
            those of torch's GRU and of its cells with gates.
    """

    layers: Layers
    options: Options = Options()
    dropout: float = 0.0
    engine: str | None = None
    starts: Starts | None = None
    masks: Sequence[Hook] = ()
    plain: bool = False
    promotes: bool = False

    def run(
        self,
        input: Tensor | PackedSequence,
        state: State | None,
        hooks: Sequence[Hook] = (),
        *,
        batch_first: bool = False,
        lengths: Lengths | None = None,
        reset: Tensor | None = None,
        token_ids: bool = False,
        further: Sequence[Tensor | PackedSequence] = (),
    ) -> tuple[Output, State]:
        """Run on any form of input that a recurrent layer takes.

        Args:
            input, batch_first, lengths, token_ids: see `throughtime.nn.forms.form_of`.
            state: the initial `[layers * directions, B, width]`, without B if the input has no batch axis; a tuple of
                them if the cell has several states. The learned values, or those that the cell declares, if None.
            hooks: intercept each layer's run, in this order.
            reset: of the form of the input without its features: not 0 where a sequence's states are reset.
            further: the inputs beside the layer below, of the form of the input, each with its own width.

        Returns:
            The output in the form of the input, and the final state in that of the initial one.
        """
        x, form = form_of(input, batch_first=batch_first, lengths=lengths, token_ids=token_ids)
        returns, sequence = self.options.returns, None
        if reset is not None or self.masks or returns == "states":
            mask = form.mask(reset)
            sequence = StateSequence() if returns == "states" else None
            resets = [] if mask is None else [Reset(mask, self.starts)]
            hooks = [*self.masks, *resets, *hooks, *([] if sequence is None else [sequence])]
        laid_out = [form.laid_out(given) for given in further]
        outputs, final = self.run_layers(x, form.states(state), form.layout, hooks, laid_out)
        return form.output(outputs if sequence is None else sequence.sequences, returns), form.final(final)

    def run_layers(
        self,
        x: Tensor,
        states: Sequence[Tensor] | None,
        layout: Layout,
        hooks: Sequence[Hook] = (),
        further: Sequence[Tensor] = (),
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Run layer upon layer.

        Args:
            x: `[T, B, input]`; `[N, input]` if packed; token ids, without `input`, if the first layer's input is
                one-hot.
            states: for each state of the cell its initial value `[layers * directions, B, width]`; the learned values,
                or what the cell declares, if None.
            layout: how x lies.
            hooks: what intercepts each layer's run, in this order.
            further: the inputs beside x of every layer and direction, each `[T, B, width]`, `[N, width]` if packed.

        Returns:
            The last layer's output `[T, B, directions * output]`, `[N, ...]` if packed, of each direction where they
            are not merged, `[B, ...]` of the last steps; and the final states, as `states`.
        """
        if in_autocast(x) and self.layers[0][0][1][0].dtype == torch.float32:
            kind = x.device.type
            # Arithmetic in float32, as errors of a state accumulate; the results have the type that autocast asks for.
            with torch.autocast(kind, enabled=False):
                given = None if states is None else [s.float() for s in states]
                outputs, final = self.run_layers(x.float(), given, layout, hooks, [f.float() for f in further])
            dtype = torch.get_autocast_dtype(kind)
            if self.promotes:
                dtype = torch.promote_types(dtype, (x if states is None else states[0]).dtype)
            return [y.to(dtype) for y in outputs], [s.to(dtype) for s in final]
        for hook in hooks:
            hook.begin(layout)
        layers, options = self.layers, self.options
        ended: list[list[Tensor]] = []  # of each layer and direction
        below = [x]  # a layer's input; of each direction, where they are not merged
        for depth, directions in enumerate(layers):
            taken = below
            if depth > 0 and self.dropout > 0:
                taken = [self._dropped(y, layout) for y in below]
            outputs = []
            for way, (program, parameters) in enumerate(directions):
                if states is not None:
                    initial = [s[len(ended)] for s in states]
                elif self.starts is not None:
                    initial = [start.expand(layout.rows, -1) for start in self.starts[depth][way]]
                else:
                    initial = None
                operands = Operands([taken[way % len(taken)], *further], initial, parameters)
                at = (LayerDirection(depth, way == 1), hooks) if hooks else None
                result = self._run_layer(program, operands, layout, at)
                outputs.append(result.outputs[0])
                ended.append(result.states)
            top = depth == len(layers) - 1
            if top and options.returns == "last":
                below, outputs = [layout.pad(x) for x in below], [layout.pad(y) for y in outputs]
            reverse = [program.reverse for program, _ in directions]
            below = joined(below, outputs, reverse, options, top, layout.batch_sizes)
        if len(ended) == 1:
            return below, [s[None] for s in ended[0]]
        return below, [torch.stack(of_state) for of_state in zip(*ended, strict=True)]

    def _dropped(self, x: Tensor, layout: Layout) -> Tensor:
        """A layer's input after dropout."""
        if not self.options.variational:
            return dropped(x, self.dropout)
        mask = scaled_mask(x, (1, layout.rows, x.shape[-1]), self.dropout)
        return x * (layout.pack(mask.expand(layout.steps, -1, -1)) if layout.packed else mask)

    def _run_layer(
        self, program: Program, operands: Operands, layout: Layout, at: tuple[LayerDirection, Sequence[Hook]] | None
    ) -> Result:
        """Run one direction of one layer; `at` says which one, if hooks intercept it."""
        (x, *_), states, parameters = operands
        # Otherwise the engine makes them, which is quicker: but it does not see sequences without steps.
        if states is None and (at or (layout.packed and layout.rows != next(iter(layout.batch_sizes or ()), 0))):
            operands = operands._replace(states=declared_states(program, operands, layout))
        like = x if x.is_floating_point() else parameters[0]
        every = self.options.checkpoint_every
        if at is not None:
            return self._run_hooked(program, operands, layout, at, like)
        if torch.compiler.is_compiling():
            return self._run_in_graph(program, operands, layout, ())
        return Pass(choose(self.engine, program, like), program, layout, every).run(operands, plain=self.plain)

    def _run_hooked(
        self,
        program: Program,
        operands: Operands,
        layout: Layout,
        at: tuple[LayerDirection, Sequence[Hook]],
        like: Tensor,
    ) -> Result:
        """Run one direction of one layer, intercepted by hooks."""
        direction, hooks = at
        (x, *further), *_ = operands
        every = self.options.checkpoint_every
        padded = x.new_empty(()).expand(layout.steps, layout.rows, x.shape[-1]) if layout.packed else x
        added = [layout.pack(given) for hook in hooks for given in hook.inputs(direction, padded)]
        operands = operands._replace(inputs=[x, *further, *added])
        if torch.compiler.is_compiling():
            result = self._run_in_graph(program, operands, layout, hooks)
            ends = [len(program.outputs)]
            for hook in hooks:
                ends.append(ends[-1] + hook.adds(program))
        else:
            own = len(program.outputs)
            ends = [own]
            for hook in hooks:
                program = hook.rewrite(direction, program)
                ends.append(len(program.outputs))
            tap = merged([t for hook in hooks if (t := hook.tap(direction, program)) is not None])
            seen = program if tap is None else with_outputs(program, tap.values, own)[0]
            chosen = usual = choose(self.engine, seen, like)
            for hook in hooks:
                chosen = hook.engine(direction, program, chosen)
            if chosen is not usual and tap is not None and tap.gradients:
                raise UserError(
                    "gradients cannot be recorded where a Python function replaces a value: write the edit in the cell "
                    "language."
                )
            if tap is not None and layout.packed:
                tap = tap.mapped(layout.pad)
            result = Pass(chosen, program, layout, every, tap).run(operands)
        for hook, start, end in zip(hooks, ends, ends[1:], strict=False):
            hook.receive(direction, [layout.pad(y) for y in result.outputs[start:end]])
        return result

    def _run_in_graph(self, program: Program, operands: Operands, layout: Layout, hooks: Sequence[Hook]) -> Result:
        """Run a program as a part of the graph that is being captured."""
        names = [hook.in_graph() for hook in hooks]
        rewrites = [name for name in names if name is not None]
        inputs, states, parameters = operands
        given = list(inputs), None if states is None else list(states), list(parameters)
        steps, rows, batch_sizes, packed, *_ = layout
        of = self.engine, program.text, rewrites, self.options.checkpoint_every
        outputs, final = _captured(*of, steps, rows, batch_sizes, packed, *given)
        return Result(outputs, final, [])


@torch.compiler.allow_in_graph  # type: ignore[untyped-decorator]
def _captured(
    engine: str | None,
    text: str,
    rewrites: Sequence[str],
    every: int | None,
    steps: int,
    rows: int,
    batch_sizes: Sequence[int] | None,
    packed: bool,
    inputs: list[Tensor],
    states: list[Tensor] | None,
    parameters: list[Tensor],
) -> tuple[list[Tensor], list[Tensor]]:
    """A graph's node for a run: it takes numbers, text and tensors, as a graph holds no programs."""
    program = rewritten(program_of(text), tuple(rewrites))
    layout = Layout(steps, rows, batch_sizes, packed)
    operands = Operands(inputs, states, parameters)
    result = Pass(choose(engine, program, inputs[0]), program, layout, every).run(operands)
    return result.outputs, result.states


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


def in_autocast(like: Tensor) -> bool:
    """Whether autocast is on for the device of a tensor; some, such as `meta`, have none."""
    if not torch._C._is_any_autocast_enabled():
        return False
    kind = like.device.type
    return torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)


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


def _eager(reason: str) -> Callable[..., Any]:
    """What calls a function outside of the graph that torch.compile captures; the reason is shown under fullgraph."""

    def call(function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        return function(*args, **options)

    found: Callable[..., Any] = torch.compiler.disable(call, reason=reason)  # type: ignore[no-untyped-call]
    return found


_OTHERWISE = "compile the model without fullgraph=True"
_with_packed = _eager(f"a PackedSequence cannot be part of a graph: {_OTHERWISE}, or pass a padded input and lengths")
_with_hooks = _eager(f"throughtime.record and throughtime.edit work outside of a graph: {_OTHERWISE}")
_in_transform = _eager(f"a recurrent layer under a transform of torch.func runs outside of a graph: {_OTHERWISE}")


def _as_leaf(module: Any, run: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """A module's call as one node of the graph that torch.fx traces, as torch's own layers are."""
    tracer, options = (
        args[0].tracer,
        dict(zip(("lengths", "reset", "table", "inputs"), args[2:], strict=False)) | options,
    )
    given = {name: value for name, value in options.items() if value is not None and name != "inputs"}
    given |= options.get("inputs", {})
    return tracer.create_proxy("call_module", tracer.path_of_module(module), args[:2], given)


def outside_graph(module: Any, input: Any) -> Callable[..., Any] | None:
    """What calls a module's run outside of the graph that torch.compile captures; None if it can be a part of it."""
    if isinstance(input, Proxy):
        return partial(_as_leaf, module)
    if isinstance(input, PackedSequence):  # Dynamo skips a frame with one in it, and would compile what that calls
        return _with_packed
    if not torch.compiler.is_dynamo_compiling():
        return None
    if any(hook.leaves_graph for hook in module.hooks):
        return _with_hooks
    # As torch's own layers do: an operator has no rule for a transform that is itself a part of the graph.
    return None if torch._C._functorch.maybe_current_level() is None else _in_transform
