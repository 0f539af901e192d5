"""Capture the residuals of a run: everything that the layers' gradient programs read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from throughtime.engines import choose
from throughtime.engines.base import Engine, Layout
from throughtime.nn.hooks import Hook, LayerDirection
from throughtime.nn.options import Options, output_width
from throughtime.program.core import INPUT, Output, Program
from throughtime.program.gradient import Gradient, Slots, gradient, with_residuals
from throughtime.program.legality import require_legal
from throughtime.sight.models import RecurrentLayers

Requests = Callable[[Program], tuple[Slots, Slots]]  # maps a program to its given and its requested gradients


@dataclass(frozen=True)
class LayerResiduals:
    """The residuals of one direction of a layer.

    Attributes:
        direction: the layer and its direction.
        forward: the program that ran.
        plan: its gradient.
        x: the layer's input, `[T, B, width]`.
        y: the layer's output if directions are merged by multiplication; otherwise zeros of the same shape that occupy
            no memory.
        read: the values of the run that the gradient program reads, each `[T, B, width]`.
        parameters: the parameters that the gradient program reads.
        engine: the engine that runs the program.
        device: the tensors' device.
    """

    direction: LayerDirection
    forward: Program
    plan: Gradient
    x: Tensor
    y: Tensor
    read: list[Tensor]
    parameters: list[Tensor]
    engine: Engine
    device: torch.device

    @property
    def width(self) -> int:
        """The approximate number of values that the gradient program reads or writes per step and sequence."""
        program = self.plan.program
        return sum(i.width for i in program.inputs) + sum(s.width for s in program.states)

    def double(self) -> LayerResiduals:
        """Convert to float64, in which products of many Jacobians keep their small directions."""
        read = [tensor.double() for tensor in self.read]
        like = torch.empty(0, dtype=torch.float64, device=self.device)
        engine = choose("reference" if self.engine.name == "reference" else None, self.plan.program, like)
        x, y = self.x.double(), self.y.double()
        return replace(self, x=x, y=y, read=read, parameters=[p.double() for p in self.parameters], engine=engine)

    def first_rows(self, rows: int) -> LayerResiduals:
        """Keep only the first sequences of the batch."""
        return replace(self, x=self.x[:, :rows], y=self.y[:, :rows], read=[v[:, :rows] for v in self.read])


class Residuals(Hook):
    """Capture the values that the gradients of a recurrent module's layers read.

    The hook sees each program as it runs, so resets, masks and edits are included.

    Args:
        module: the recurrent module.
        requests: maps a program to its given and its requested gradients.

    Attributes:
        options: how the module's layers are connected.
        layers: the directions of each layer in the last run.
        lengths: the number of steps of each sequence in the last run.
        steps: the number of steps of the last run.
        sizes: the number of active sequences at each step; None if all are active.
        back: the internal position of each of the caller's sequences; None if the order is unchanged.
    """

    def __init__(self, module: RecurrentLayers, requests: Requests) -> None:
        self._module, self._requests = module, requests
        self.options: Options = getattr(module, "options", Options())
        self.layers: list[list[LayerResiduals]] = []
        self.lengths = torch.zeros(0)
        self.steps = 0
        self.sizes: Sequence[int] | None = None
        self.restore: Tensor | None = None

    @property
    def separate_inputs(self) -> bool:
        """Whether each direction above the lowest layer has an input of its own, because directions are not merged."""
        return self.options.merge == "none" and len(self.layers) > 1

    def begin(self, layout: Layout) -> None:
        """Discard the previous run."""
        self.layers, self.steps, self.restore = [], layout.steps, layout.restore
        sizes = [layout.rows] * layout.steps if layout.batch_sizes is None else list(layout.batch_sizes)
        self.sizes = layout.batch_sizes
        self.lengths = (torch.tensor(sizes)[:, None] > torch.arange(layout.rows)).sum(0)
        self._parameters = self._module.layers()

    def rewrite(self, direction: LayerDirection, program: Program) -> Program:
        """Add the values that the gradient reads to the program's outputs."""
        given, wanted = self._requests(program)
        augmented = with_residuals(program, wanted)
        self._plan = gradient(augmented, given, wanted)
        self._forward = augmented
        values = [augmented.outputs[k].value for k in self._plan.residuals]
        inputs = {i["index"]: id for id, i in enumerate(augmented.body) if i.op == INPUT}
        self._more = [k for k in self._plan.inputs if k > 0]  # x is captured separately
        values += [inputs[k] for k in self._more]
        if self.options.merge == "product":
            values.append(program.outputs[0].value)
        added = tuple(Output(f"sight.{n}", value) for n, value in enumerate(values))
        return require_legal(replace(program, outputs=program.outputs + added))

    def inputs(self, direction: LayerDirection, x: Tensor) -> list[Tensor]:
        """Keep x, and add no inputs."""
        self._x = x.detach()
        return []

    def receive(self, direction: LayerDirection, outputs: list[Tensor]) -> None:
        """Keep the values that the gradient reads."""
        plan = self._plan
        residuals = [output.detach() for output in outputs]
        given = {0: self._x} | dict(zip(self._more, residuals[len(plan.residuals) :], strict=False))
        y = self._x.new_zeros(()).expand(*self._x.shape[:2], output_width(self._forward))
        read = [given[k] for k in plan.inputs] + residuals[: len(plan.residuals)]
        parameters = self._parameters[direction.layer][1 if direction.reverse else 0][1]
        kept = [parameters[k].detach().to(self._x.dtype) for k in plan.parameters]
        named = "reference" if self._module.engine == "reference" else None
        layer = LayerResiduals(
            direction,
            self._forward,
            plan,
            self._x,
            residuals[-1] if self.options.merge == "product" else y,
            [self._without_gaps(tensor) for tensor in read],
            kept,
            choose(named, plan.program, self._x),
            self._x.device,
        )
        if len(self.layers) == direction.layer:
            self.layers.append([])
        self.layers[direction.layer].append(layer)

    def _without_gaps(self, tensor: Tensor) -> Tensor:
        """Repeat a sequence's last step after its end, since a gradient program may divide by these values."""
        if bool((self.lengths == self.steps).all()):
            return tensor
        last = (self.lengths - 1).clamp(min=0).to(tensor.device)
        steps = torch.arange(self.steps, device=tensor.device)[:, None].minimum(last)
        return tensor[steps, torch.arange(len(last), device=tensor.device)]


def gradient_outputs(layer: LayerResiduals) -> tuple[Program, list[str]]:
    """Extend the gradient program to output the gradients of the layer's input and of each state at each step.

    Returns:
        The program, whose first output is the gradient of the input, and the names of the states for the others.
    """
    program, forward = layer.plan.program, layer.forward
    outputs, names = [Output("x", program.outputs[0].value)], []
    for state in forward.states:
        labels = [name for name, id in forward.names if id == state.next and f"{name}.gradient" in program.values]
        if labels:
            outputs.append(Output(state.name, program.values[f"{labels[0]}.gradient"]))
            names.append(state.name)
    # "x" could also be the name of a state
    renamed = tuple(replace(o, name=f"gradient.{k}.{o.name}") for k, o in enumerate(outputs))
    return require_legal(replace(program, outputs=renamed, reductions=())), names


def to_states(program: Program) -> tuple[Slots, Slots]:
    """Request the gradients of the input and the states, given that of the output."""
    return Slots((0,), (), ()), Slots((0,), tuple(range(len(program.states))), ())


def step_jacobian(program: Program) -> tuple[Slots, Slots]:
    """Request the gradients of the previous states, given those of the new states."""
    states = tuple(range(len(program.states)))
    return Slots((), states, ()), Slots((), states, ())
