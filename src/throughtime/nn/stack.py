"""Run a stack of recurrent layers: the common implementation of all recurrent modules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from throughtime.engines import choose
from throughtime.engines.autograd import Pass
from throughtime.engines.base import Layout, Operands, Result, declared_states
from throughtime.engines.operator import program_of
from throughtime.engines.taps import merged
from throughtime.errors import UserError
from throughtime.nn.dynamo import constant_result
from throughtime.nn.forms import Form, Output, State
from throughtime.nn.hooks import Hook, LayerDirection, Reset, Starts, StateSequence
from throughtime.nn.masks import dropped, scaled_mask
from throughtime.nn.options import Options
from throughtime.program.core import Program
from throughtime.program.recording import with_outputs
from throughtime.program.rewrite import rewritten

Layers = Sequence[Sequence[tuple[Program, Sequence[Tensor]]]]  # program and parameters, indexed by layer and direction


class Stack(NamedTuple):
    """A stack of recurrent layers and its options.

    Attributes:
        layers: each layer's directions, as pairs of a program and its parameters.
        options: the options for joining layers and directions, and the steps to return.
        dropout: the current probability of dropping an element between two layers.
        engine: the engine's name; chosen by device if None.
        starts: learned initial states.
        masks: the hooks that draw the masks of training; they come before all other hooks.
        hooks: the hooks that intercept each layer's run, in order.
        plain: whether input and initial states are known to be plain tensors, so that no layer has to check again.
        promotes: a function of the layers' input and layout that returns, for the output and then for each final state,
            whether it keeps the precision of the last initial state (of the input if there is none) under autocast, as
            some of torch's results do. Otherwise, and by default, results have autocast's dtype.
    """

    layers: Layers
    options: Options = Options()
    dropout: float = 0.0
    engine: str | None = None
    starts: Starts | None = None
    masks: Sequence[Hook] = ()
    hooks: Sequence[Hook] = ()
    plain: bool = False
    promotes: Callable[[Tensor, Layout], Sequence[bool]] | None = None

    def run(
        self,
        x: Tensor,
        form: Form,
        state: State | None,
        step_inputs: Sequence[Tensor | PackedSequence] = (),
    ) -> tuple[Output, State]:
        """Run on an input of any form that recurrent layers accept.

        Args:
            x, form: the input and its form; see `throughtime.nn.forms.form_of`.
            state: the initial state `[layers * directions, B, width]`, without B if the input has no batch axis, or a
                tuple for a cell with several states; by default the learned values or those that the cell declares.
            step_inputs: inputs other than the layer below's output, in the input's form with their own widths.

        Returns:
            The output, in the input's form, and the final state, in the initial state's form.
        """
        returns, sequence, hooks = self.options.returns, None, self.hooks
        if form.reset is not None or self.masks or returns == "states":
            sequence = StateSequence() if returns == "states" else None
            resets = [] if form.reset is None else [Reset(form.reset, self.starts)]
            hooks = [*self.masks, *resets, *hooks, *([] if sequence is None else [sequence])]
        laid_out = [form.laid_out(given) for given in step_inputs]
        outputs, final = self.run_layers(x, form.states(state), form.layout, hooks, laid_out)
        return form.output(outputs if sequence is None else sequence.sequences, returns), form.final(final)

    def run_layers(
        self,
        x: Tensor,
        states: Sequence[Tensor] | None,
        layout: Layout,
        hooks: Sequence[Hook] = (),
        step_inputs: Sequence[Tensor] = (),
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Run the layers one after another.

        Args:
            x: `[T, B, input]`, or `[N, input]` if packed; token ids, without the `input` axis, if the first layer's
                input is one-hot.
            states: the initial value of each state of the cell, `[layers * directions, B, width]`; by default the
                learned values or those that the cell declares.
            layout: the layout of x.
            hooks: the hooks that intercept each layer's run, in order.
            step_inputs: inputs other than x for every layer and direction, each `[T, B, width]`, or `[N, width]` if
                packed.

        Returns:
            The last layer's output `[T, B, directions * output]`, or `[N, ...]` if packed, or `[B, ...]` for the last
            steps; a list with one tensor per direction if they are not merged. Also the final states, in the
            form of `states`.
        """
        if in_autocast(x) and self.layers[0][0][1][0].dtype == torch.float32:
            kind = x.device.type
            # Compute in float32, because rounding errors accumulate in states, and return autocast's dtype.
            with torch.autocast(kind, enabled=False):
                given = None if states is None else [s.float() for s in states]
                outputs, final = self.run_layers(x.float(), given, layout, hooks, [f.float() for f in step_inputs])
            dtype = torch.get_autocast_dtype(kind)
            if self.promotes is None:
                return [y.to(dtype) for y in outputs], [s.to(dtype) for s in final]
            wide = torch.promote_types(dtype, (x if states is None else states[-1]).dtype)
            of_output, *of_states = [wide if keeps else dtype for keeps in self.promotes(x, layout)]
            return [y.to(of_output) for y in outputs], [s.to(d) for s, d in zip(final, of_states, strict=True)]
        for hook in hooks:
            hook.begin(layout)
        layers, options = self.layers, self.options
        ended: list[list[Tensor]] = []  # indexed by layer and direction
        below = [x]  # a layer's input; one per direction if not merged
        for depth, directions in enumerate(layers):
            taken = below
            if depth > 0 and self.dropout > 0:
                taken = [self._dropped(y, layout) for y in below]
            outputs = []
            for direction, (program, parameters) in enumerate(directions):
                if states is not None:
                    initial = [s[len(ended)] for s in states]
                elif self.starts is not None:
                    initial = [start.expand(layout.rows, -1) for start in self.starts[depth][direction]]
                else:
                    initial = None
                operands = Operands([taken[direction % len(taken)], *step_inputs], initial, parameters)
                at = (LayerDirection(depth, direction == 1), hooks) if hooks else None
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
        """Apply dropout to a layer's input."""
        if not self.options.variational:
            return dropped(x, self.dropout)
        mask = scaled_mask(x, (1, layout.rows, x.shape[-1]), self.dropout)
        return x * (layout.pack(mask.expand(layout.steps, -1, -1)) if layout.packed else mask)

    def _run_layer(
        self, program: Program, operands: Operands, layout: Layout, at: tuple[LayerDirection, Sequence[Hook]] | None
    ) -> Result:
        """Run one direction of one layer; `at` identifies it and contains the hooks, if any."""
        (x, *_), states, parameters = operands
        # Engines create default states faster themselves, but they don't see sequences without steps.
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
        """Run one direction of one layer with hooks."""
        direction, hooks = at
        (x, *step_inputs), *_ = operands
        every = self.options.checkpoint_every
        padded = x.new_empty(()).expand(layout.steps, layout.rows, x.shape[-1]) if layout.packed else x
        added = [layout.pack(given) for hook in hooks for given in hook.inputs(direction, padded)]
        operands = operands._replace(inputs=[x, *step_inputs, *added])
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
                    "can't record gradients where a Python function replaces a value: write the edit in the cell "
                    "language"
                )
            if tap is not None and layout.packed:
                tap = tap.mapped(layout.pad)
            result = Pass(chosen, program, layout, every, tap).run(operands)
        for hook, start, end in zip(hooks, ends, ends[1:], strict=False):
            hook.receive(direction, [layout.pad(y) for y in result.outputs[start:end]])
        return result

    def _run_in_graph(self, program: Program, operands: Operands, layout: Layout, hooks: Sequence[Hook]) -> Result:
        """Run a program as part of the graph that is being captured."""
        names = [hook.in_graph() for hook in hooks]
        rewrites = [name for name in names if name is not None]
        node = _Node(self.engine, program.text, rewrites, self.options.checkpoint_every)
        inputs, states, parameters = operands
        taken = Operands(list(inputs), None if states is None else list(states), list(parameters))
        _allow_in_graph()
        outputs, final = _captured(node, taken, layout._replace(positions=None, restore=None))
        return Result(outputs, final, [])


class _Node(NamedTuple):
    """The arguments of a run that a captured graph stores: numbers and text.

    Attributes:
        engine: the engine's name; chosen by device if None.
        text: the program before its rewrites, as text.
        rewrites: the names of the rewrites; see `throughtime.program.rewrite.REWRITES`.
        checkpoint_every: see `throughtime.nn.options.Options`.
    """

    engine: str | None
    text: str
    rewrites: Sequence[str]
    checkpoint_every: int | None


def _captured(node: _Node, operands: Operands, layout: Layout) -> tuple[list[Tensor], list[Tensor]]:
    """Run a program as a node of a graph."""
    program = rewritten(program_of(node.text), tuple(node.rewrites))
    engine = choose(node.engine, program, operands.inputs[0])
    result = Pass(engine, program, layout, node.checkpoint_every).run(operands)
    return result.outputs, result.states


@constant_result
def _allow_in_graph() -> bool:
    """Have Dynamo write calls of `_captured` to the graph, starting with the next call."""
    torch.compiler.allow_in_graph(_captured)  # type: ignore[no-untyped-call]
    return True


def in_autocast(like: Tensor) -> bool:
    """Return whether autocast is on for a tensor's device; some devices, such as `meta`, don't support it."""
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
    """Join the outputs of a layer's directions, with its skip connections, into the next layer's input.

    Args:
        below: the layer's inputs, `[T, B, width]`; one per direction if they stay separate.
        outputs: the directions' outputs, `[T, B, width]`.
        reverse: for each direction, whether it runs from the last step to the first.
        options: how directions and layers are joined, and which steps are returned.
        top: whether this is the last layer.
        batch_sizes: the number of active sequences at each step; all by default.
    """
    if top and options.returns == "last":
        outputs = [_last_step(y, back, batch_sizes) for y, back in zip(outputs, reverse, strict=True)]
        below = [_last_step(y, back, batch_sizes) for y, back in zip(below, reverse, strict=False)]
    outputs = _merged(outputs, options.merge)
    return outputs if options.skip is None else _passed_by(below, outputs, options.skip, top)


def _merged(outputs: list[Tensor], merge: str) -> list[Tensor]:
    """Merge the outputs of a layer's directions."""
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
    """Apply a skip connection to a layer's outputs."""
    past = [below[direction % len(below)] for direction in range(len(outputs))]
    pairs = list(zip(past, outputs, strict=True))
    if skip == "residual":
        return [x + y if x.shape == y.shape else y for x, y in pairs]
    return outputs if top else [torch.cat(pair, -1) for pair in pairs]


def _last_step(y: Tensor, reverse: bool, batch_sizes: Sequence[int] | None) -> Tensor:
    """Select each sequence's last processed step, `[B, width]`; 0 for an empty sequence."""
    if not len(y):
        return y.new_zeros(y.shape[1:])
    if reverse:
        return y[0]
    if batch_sizes is None:
        return y[-1]
    last = torch.as_tensor(batch_sizes, device=y.device)[:, None] > torch.arange(y.shape[1], device=y.device)
    found: Tensor = y[(last.sum(0) - 1).clamp(min=0), torch.arange(y.shape[1], device=y.device)]
    return found


def directions_of(program: Program, directions: int, reverse: bool = False) -> list[Program]:
    """Return the program of each direction of a layer, ready for a compiled graph."""
    programs = [program.flipped] if reverse else [program, program.flipped][:directions]
    for each in programs:
        _ = each.text  # caches the text, which can't be written during graph capture
    return programs
