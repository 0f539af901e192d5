"""Online learning: update a network's weights at each step with constant memory."""

from __future__ import annotations

import copy
import logging
import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from throughtime.engines.base import Layout, Operands, Result
from throughtime.engines.native import NativeEngine
from throughtime.errors import UserError
from throughtime.losses import loss_and_gradient, targets_for
from throughtime.program.core import Output, Program
from throughtime.program.derivation import Slots
from throughtime.program.gradient import everything_wanted, gradient, with_residuals
from throughtime.program.tangent import tangent
from throughtime.streaming.network import Network
from throughtime.streaming.optimizers import Optimizer, clip_norm
from throughtime.streaming.sensitivity import Method, Sensitivities, choose

Array = NDArray[Any]

_log = logging.getLogger("throughtime")


@dataclass(frozen=True)
class Learning:
    """Settings of online learning.

    Attributes:
        method: "rtrl", "snap1", or None to choose by the size of each layer.
        optimizer: the optimizer that updates the weights.
        clip: the maximum gradient norm; 0 disables clipping.

    Raises:
        UserError: if clip is negative or not finite.
    """

    method: str | None
    optimizer: Optimizer
    clip: float

    def __post_init__(self) -> None:
        if isinstance(self.clip, bool) or not isinstance(self.clip, int | float) or not 0 <= self.clip < math.inf:
            raise UserError(f"clip must be 0 or a positive number, got {self.clip!r}")


class Learner:
    """A stream that updates its weights as it runs; it has the interface of the native engine's stream.

    Args:
        network: the network; its arrays are modified in place.
        rows: the number of independent streams.
        learning: the learning settings; the optimizer is copied.
        instruction_set: the CPU instruction set to use.

    Attributes:
        methods: the learning method of each layer.
        weights: the trainable arrays by name; an array with several names is listed under the first.
    """

    def __init__(self, network: Network, rows: int, learning: Learning, instruction_set: str) -> None:
        self.network, self.rows, self.clip, self.dtype = network, rows, learning.clip, network.dtype
        self.optimizer = copy.deepcopy(learning.optimizer)
        engine = NativeEngine(1, instruction_set)
        self.layers = [
            _Layer(depth, program, parameters, rows, engine, learning.method)
            for depth, (program, parameters) in enumerate(network.layers)
        ]
        self.methods = tuple(layer.method for layer in self.layers)
        for one in self.methods:
            _log.info("%s", one)
        self.names: dict[int, str] = {}
        self.weights: dict[str, Array] = {}
        named = {f"layer{layer.depth}.{p.name}": w for layer in self.layers for p, w in layer.parameters}
        named |= {} if network.embedding is None else {"embedding": network.embedding}
        named |= {} if network.head is None else {"head.weight": network.head[0], "head.bias": network.head[1]}
        for name, array in named.items():
            if self.names.setdefault(id(array), name) == name:
                self.weights[name] = array
        self._x: Array | None = None  # the last step's input, until it is learned from
        self._y: Array | None = None  # the head's input at that step
        self._raw: Array | None = None
        self._advanced = True
        self._busy = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("_busy", "names")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _busy=threading.Lock())
        self.names = {id(array): name for name, array in self.weights.items()}

    @contextmanager
    def _alone(self) -> Iterator[None]:
        if not self._busy.acquire(blocking=False):
            raise UserError("another thread is running a step of this stream; use one stream per thread")
        try:
            yield
        finally:
            self._busy.release()

    # The methods of the native engine's stream.

    def step(self, x: Any, out: Array | None = None) -> Array:
        """See `throughtime.Stream.step`."""
        with self._alone():
            given, single = self._given(x)
            self._advance()
            widths = [i.width for i in self.network.layers[0][0].inputs]
            if self.network.embedding is None:
                y, *others = np.split(given, np.cumsum(widths)[:-1], 1)
            else:
                y, others = self.network.embedding[given], []
            for layer in self.layers:
                y = layer.forward(y, others)
            raw = y
            if self.network.head is not None:
                weight, bias = self.network.head
                raw = y @ weight.T + bias
                if self.network.skip:
                    raw = raw + given[:, : raw.shape[1]]
            self._x, self._y, self._raw, self._advanced = given, y, raw, False
            result = np.array(raw[0] if single else raw)
            if out is None:
                return result
            if out.size != result.size or out.dtype != result.dtype:
                raise UserError(f"out must be {result.dtype} {list(result.shape)}, got {out.dtype} {list(out.shape)}")
            out[...] = result.reshape(out.shape)
            return out

    def process(self, x: Any) -> Array:
        """See `throughtime.Stream.process`."""
        if self.rows != 1:
            raise UserError(f"process needs a single stream; this one has {self.rows} rows")
        block = np.asarray(x)
        numbers = self.network.embedding is None and block.ndim == 1
        if block.ndim != (1 if self.network.embedding is not None or numbers else 2) or not len(block):
            raise UserError(f"a block must have a step axis, got shape {list(block.shape)}")
        results = np.stack([self.step(now[None] if numbers else now) for now in block])
        return results[:, 0] if numbers and results.shape[1] == 1 else results

    def state(self, k: int) -> Array:
        """Return a copy of state `k`, numbered across all layers."""
        return np.array([state for layer in self.layers for state in layer.states][k])

    def set_state(self, k: int, value: Array) -> None:
        """Set state `k`, numbered across all layers."""
        for layer in self.layers:
            if k < len(layer.states):
                layer.states[k] = np.array(value, order="C")
                return
            k -= len(layer.states)

    def forget(self, rows: Any = slice(None)) -> None:
        """Clear the sensitivities of streams whose states were just set: new states don't depend on the weights."""
        self._advance()
        self._raw = None
        for layer in self.layers:
            layer.sensitivities.forget(rows)

    # Learning.

    def learn(self, target: Any, own: Any) -> float:
        """See `throughtime.Stream.learn`."""
        with self._alone():
            if self._raw is None:
                raise UserError("learn must follow a step, and can be called only once per step: call step first")
            loss, g = self._loss(target, own)
            gradients = self._backward(g)
            self._advance()
            self._raw = None
            if not math.isfinite(clip_norm(gradients, self.clip)):
                raise UserError(
                    "the gradient is not finite, so the weights were not changed; use a smaller lr, or reset the "
                    "stream if its state has overflowed"
                )
            self.optimizer.update(self.weights, gradients)
            return loss

    def _loss(self, target: Any, own: Any) -> tuple[float, Array]:
        """Compute the mean loss over rows and its gradient with respect to the head's raw values."""
        raw = self._raw
        assert raw is not None
        if (target is None) == (own is None):
            raise UserError("pass exactly one of target and gradient to learn")
        if own is not None:
            try:
                g = np.array(own, raw.dtype).reshape(raw.shape)
            except (TypeError, ValueError):
                raise UserError(f"gradient must be an array of shape {list(raw.shape)}, like a step's output") from None
            return math.nan, g
        if self.network.output is None:
            raise UserError(
                "recurrent layers alone have no loss: pass the gradient of your own loss, as in "
                "stream.learn(gradient=...), or create the stream from a SequenceModel or a run"
            )
        losses, g = loss_and_gradient(self.network.output, raw, targets_for(self.network.output, self.rows, target))
        return float(losses.mean()), (g / self.rows).astype(raw.dtype)

    def _backward(self, g: Array) -> dict[str, Array]:
        gradients = {name: np.zeros_like(weight) for name, weight in self.weights.items()}
        if self.network.head is not None:
            weight, bias = self.network.head
            gradients[self.names[id(weight)]] += g.T @ self._y
            gradients[self.names[id(bias)]] += g.sum(0)
            g = g @ weight
        for layer in reversed(self.layers):
            found, g = layer.backward(g)
            for (_, weight), of_layer in zip(layer.parameters, found, strict=True):
                gradients[self.names[id(weight)]] += of_layer
        if self.network.embedding is not None and self._x is not None:
            np.add.at(gradients[self.names[id(self.network.embedding)]], self._x, g)
        return gradients

    def _advance(self) -> None:
        if not self._advanced:
            for layer in self.layers:
                layer.advance()
            self._advanced = True

    def _given(self, x: Any) -> tuple[Array, bool]:
        """Return the input as `[rows, features]` or `[rows]`, and whether the row axis was omitted."""
        array = np.asarray(x)
        reads_tokens = self.network.embedding is not None
        features = () if reads_tokens else (sum(i.width for i in self.network.layers[0][0].inputs),)  # concatenated
        single = self.rows == 1 and array.shape == features
        if (array.shape != (self.rows, *features) and not single) or array.dtype.kind not in (
            "iu" if reads_tokens else "fiu"
        ):
            kind = "ids" if reads_tokens else "numbers"
            raise UserError(f"x must be {kind} {[self.rows, *features]}, got {array.dtype} {list(array.shape)}")
        array = array.reshape(self.rows, *features)
        if self.network.embedding is None:
            return np.array(array, self.dtype), single
        if array.min() < 0 or array.max() >= len(self.network.embedding):
            raise UserError(f"ids must be from 0 to {len(self.network.embedding) - 1}, got {array.tolist()}")
        return np.array(array, np.int64), single


class _Layer:
    """A layer of a learning stream: its state, its sensitivities and the programs derived from its own."""

    def __init__(
        self,
        depth: int,
        program: Program,
        arrays: Sequence[Array],
        rows: int,
        engine: NativeEngine,
        method: str | None,
    ) -> None:
        self.depth, self.arrays, self.rows, self.engine = depth, arrays, rows, engine
        states = tuple(range(len(program.states)))
        wanted = everything_wanted(program)
        dtype = np.dtype(arrays[0].dtype) if arrays else np.dtype(np.float32)
        structure, name, groups = choose(program, method, rows, dtype.itemsize)
        self.sensitivities = Sensitivities(structure, groups, rows, dtype)
        self.method = Method(depth, program.name, name, self.sensitivities.bytes)
        multiplied = tuple(Output(f"multiplied.{id}", id) for id in structure.args)
        self.augmented = with_residuals(replace(program, outputs=program.outputs + multiplied), wanted)
        self.args = {id: len(program.outputs) + n for n, id in enumerate(structure.args)}
        self.gradient = gradient(self.augmented, Slots((0,), (), ()), wanted)
        self.tangent = tangent(self.augmented, Slots((), states, ()), structure.places)
        self.states = [np.zeros((rows, state.width), dtype) for state in program.states]
        self._inputs: list[Array] = []
        self._outputs: list[Array] = []

    @property
    def parameters(self) -> list[tuple[Any, Array]]:
        """The parameters, paired with their arrays."""
        return list(zip(self.augmented.parameters, self.arrays, strict=True))

    def forward(self, x: Array, others: Sequence[Array]) -> Array:
        """Run a step on the output of the layer below and the inputs shared by all layers."""
        self._inputs = [np.ascontiguousarray(a) for a in (x, *others[: len(self.augmented.inputs) - 1])]
        result = self._run(self.augmented, self._inputs, self.states, self.arrays)
        self.states = list(result.states)
        self._outputs = [output[0] for output in result.outputs]
        return self._outputs[0]

    def backward(self, g: Array) -> tuple[list[Array], Array]:
        """Return the gradients of parameters and input, given the last step's output gradient `[rows, width]`."""
        plan = self.gradient
        zeros = [np.zeros_like(state) for state in self.states]
        result = self._run(plan.program, [*self._read(plan), g], zeros, [self.arrays[k] for k in plan.parameters])
        gradients = list(result.reductions)
        self.sensitivities.add_gradients(gradients, np.concatenate(result.states, 1))
        return gradients, result.outputs[0][0]

    def advance(self) -> None:
        """Advance the sensitivities over the last step, with the weights that it used."""
        carried, plan = self.sensitivities, self.tangent
        if not carried.blocks:
            return
        read = [np.repeat(value, carried.directions, 0) for value in self._read(plan)]
        weights = [carried.masked(k, self.arrays[k]) for k in plan.parameters]
        found = self._run(plan.program, [*read, *carried.seeds_of_places], carried.seeds_of_states, weights)
        tangents = np.concatenate(found.states, 1).reshape(self.rows, carried.directions, -1)
        carried.advance(tangents, {id: self._outputs[k] for id, k in self.args.items()})

    def _read(self, plan: Any) -> list[Array]:
        """Return the values of the last step that a derived program reads."""
        return [self._inputs[k] for k in plan.inputs] + [self._outputs[k] for k in plan.residuals]

    def _run(
        self, program: Program, inputs: Sequence[Array], states: Sequence[Array], parameters: Sequence[Array]
    ) -> Result:
        steps = [value if value.ndim == 3 else value[None] for value in inputs]
        return self.engine.run(program, Operands(steps, states, parameters), Layout(1, len(states[0])))
