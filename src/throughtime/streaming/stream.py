"""Run a trained network one step at a time, without torch, in microseconds per step."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from throughtime.data.knobs import DeviceInput
from throughtime.errors import UserError, nearest
from throughtime.outputs import Output
from throughtime.streaming.inputs import joined
from throughtime.streaming.learner import Learner, Learning
from throughtime.streaming.machine import machine
from throughtime.streaming.network import Array, Network, network_of, save_network
from throughtime.streaming.optimizers import Optimizer, optimizer_for
from throughtime.streaming.sensitivity import METHODS, Method

if TYPE_CHECKING:
    from throughtime.task_description import TaskDescription


class Stream:
    """A network that runs one step per call, for one or more independent streams.

    The weights are copied and packed when the stream is created, so later changes to the model have no effect. Dropout
    is off. Results are bit-identical to those of the module run over the whole sequence by the native engine with the
    same instruction set, except for a language model's scores, which torch's matrix product rounds differently.

    Use a stream from one thread at a time; different streams can run in parallel.

    Args:
        model: the directory of a run (or a `Run`; "latest" is the newest run under `runs`) or a file written by
            `throughtime.save`, neither of which needs torch; or a `SequenceModel`, a `Recurrent`, a drop-in `RNN`,
            `LSTM` or `GRU`, or one of torch's own. It must be unidirectional and use float32 or float64.
        rows: the number of independent streams.
        knobs: for an audio effect trained with knobs, their settings from 0 to 1, such as `{"gain": 0.7}`. The stream
            then takes audio samples alone.
        instruction_set: the CPU instruction set to use; by default the best one available (see
            `throughtime.engines.native.NativeEngine`).

        learn: whether the stream can learn online. "rtrl" computes exact gradients within each layer (real-time
            recurrent learning), "snap1" approximate ones (Menick et al. 2021, arXiv:2006.07232); True chooses by the
            size of each layer, and reports the choice in `methods` and the log.
        optimizer: "adam", "sgd", or an `Optimizer` of your own.
        lr: the optimizer's learning rate; by default 0.001 for Adam and 0.01 for SGD.
        clip: the maximum norm of the gradient of all weights together; 0 disables clipping.

    Attributes:
        rows: the number of independent streams.
        dtype: the dtype of inputs, outputs and states.

    Raises:
        UserError: if the model can't run one step at a time, or an option is invalid.
        RunError, ModelError: if the run or the file can't be read.
    """

    def __init__(
        self,
        model: Any,
        rows: int = 1,
        *,
        knobs: Mapping[str, float] | None = None,
        instruction_set: str = "",
        learn: bool | str = False,
        optimizer: str | Optimizer = "adam",
        lr: float | None = None,
        clip: float = 1.0,
    ) -> None:
        if type(rows) is not int or rows < 1:
            raise UserError(f"rows must be a positive integer, got {rows!r}")
        if learn not in (False, True, *METHODS):
            raise UserError(f"learn must be True, False, {' or '.join(map(repr, METHODS))}, got {learn!r}")
        network = network_of(model, described=learn is not False)
        learner = None
        if learn is not False:
            learning = Learning(None if learn is True else str(learn), optimizer_for(optimizer, lr), clip)
            learner = Learner(network, rows, learning, instruction_set)
        self._make(network, rows, instruction_set, learner)
        self.knobs = knobs or {}
        self.reset()

    def _make(self, network: Network, rows: int, instruction_set: str, learner: Learner | None = None) -> None:
        self._network, self._instruction_set, self._learner = network, instruction_set, learner
        self.rows = rows
        self.dtype = network.dtype
        self._source = network.source
        self._initial = {
            f"layer{depth}.{state.name}": np.repeat(start[None], rows, 0)
            for depth, ((program, _), starts) in enumerate(zip(network.layers, network.starts, strict=True))
            for state, start in zip(program.states, starts, strict=True)
        }
        self._machine: Any = machine(network, rows, instruction_set) if learner is None else learner
        self._step, self._process = self._machine.step, self._machine.process
        if network.device is not None:
            self._step, self._process = self._step_with_knobs, self._process_with_knobs
        self._inputs = network.layers[0][0].inputs

    def __repr__(self) -> str:
        layers = ", ".join(f"{program.name} {program.states[0].width}" for program, _ in self._network.layers)
        return f"<stream: {layers}>"

    def __getstate__(self) -> dict[str, Any]:
        """Return the state to copy or pickle: the network, the streams' states and the learner."""
        return {
            "network": self._network,
            "rows": self.rows,
            "instruction_set": self._instruction_set,
            "knobs": self.knobs,
            "state": self.state,
            "learner": self._learner,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a stream from a copied or pickled state."""
        learner = copy.deepcopy(state["learner"])  # copies learn independently
        network = state["network"] if learner is None else learner.network
        self._make(network, state["rows"], state["instruction_set"], learner)
        self.knobs = state["knobs"]
        if learner is None:
            self._set(state["state"])

    def step(self, x: Any, out: Array | None = None, **inputs: Any) -> Array:
        """Run one step.

        Args:
            x: for recurrent layers, an array `[rows, input_size]`, or `[input_size]` for a single row; for a language
                model, an integer array of token ids `[rows]`, or one id for a single row.
            out: the array to write the result to; if given, nothing is allocated. A new array by default.
            **inputs: the cell's inputs other than x, by name: arrays like x, with their own widths, or a number for a
                single row and element. Without them, x contains them after its own features, as in a batch of a
                sequence model.

        Returns:
            The output `[rows, output_size]`; for a language model, the logits of the next token `[rows, vocabulary]`.
            Without the row axis if `x` has none.

        Raises:
            UserError: if a shape or dtype is wrong, or another thread is running a step.
        """
        if inputs or len(self._inputs) > 1:
            x = joined(self._inputs, x, inputs, np.ndim(x) - 1, self.dtype)
        try:
            return self._step(x, out)
        except (ValueError, RuntimeError, OverflowError) as error:
            raise UserError(f"{error}") from None

    def process(self, x: Any, **inputs: Any) -> Array:
        """Run a block of steps, carrying the state from block to block.

        Results are bit-identical to those of `step`, no matter how a sequence is split into blocks.

        Args:
            x: an array `[steps, input_size]`, or `[steps]` if a step has one number; for networks that read tokens, an
                integer array of ids `[steps]`.
            **inputs: the cell's inputs other than x, by name: arrays `[steps, width]`, or `[steps]` if the width is 1.

        Returns:
            The outputs `[steps, output_size]`, or `[steps]` if `x` is `[steps]` and input and output have one number
            per step.

        Raises:
            UserError: if a shape or dtype is wrong, the stream has several rows, or another thread is running a step.
        """
        if inputs or len(self._inputs) > 1:
            x = joined(self._inputs, x, inputs, 1, self.dtype)
        try:
            return self._process(x)
        except (ValueError, RuntimeError, OverflowError) as error:
            raise UserError(f"{error}") from None

    @property
    def knobs(self) -> dict[str, float]:
        """The settings of an audio effect's knobs, from 0 to 1; can be set between blocks. Empty if there are none."""
        return dict(self._knobs)

    @knobs.setter
    def knobs(self, knobs: Mapping[str, float]) -> None:
        device = self._network.device or DeviceInput(1)
        self._settings = device.settings(knobs).astype(self.dtype)
        self._knobs = dict(knobs)

    def _step_with_knobs(self, x: Any, out: Array | None) -> Any:
        return self._machine.step(self._with_knobs(x, "a step", "[1] or [rows, 1]"), out)

    def _process_with_knobs(self, x: Any) -> Any:
        flat = np.ndim(x) == 1
        samples = np.asarray(x)[:, None] if flat else x
        found = self._machine.process(self._with_knobs(samples, "a block", "[steps, 1] or [steps]"))
        return found[:, 0] if flat else found

    def _with_knobs(self, x: Any, what: str, shapes: str) -> Array:
        """Append the knobs' settings to samples `[..., 1]`."""
        samples = np.asarray(x)
        if samples.dtype != self.dtype or samples.ndim not in (1, 2) or samples.shape[-1] != 1:
            raise UserError(f"{what} must be a {self.dtype} array {shapes}, got {samples.dtype} {list(samples.shape)}")
        return np.concatenate(
            [samples, np.broadcast_to(self._settings, (*samples.shape[:-1], *self._settings.shape))], -1
        )

    def reset(self, rows: int | Sequence[int] | Array | None = None) -> None:
        """Reset streams to the cell's initial states.

        Args:
            rows: the streams to reset: an index, several, or a boolean mask `[rows]`; all by default.

        Raises:
            UserError: if an index is out of range.
        """
        if rows is None:
            self._set(self._initial)
            self._forget()
            return
        state = self.state
        try:
            for name, value in state.items():
                value[rows] = self._initial[name][rows]
        except (IndexError, TypeError, ValueError):
            raise UserError(
                f"rows must be indices from 0 to {self.rows - 1} or a boolean mask of length {self.rows}, got {rows!r}"
            ) from None
        self._set(state)
        self._forget(rows)

    def _forget(self, rows: Any = slice(None)) -> None:
        if self._learner is not None:
            self._learner.forget(rows)

    def learn(self, target: Any = None, *, gradient: Any = None) -> float:
        """Update the weights with the gradient of the last step's loss.

        Args:
            target: the expected output of the last step, in the form that the network was trained with: ids `[rows]` or
                numbers `[rows, targets]`. The row axis can be omitted for a single row.
            gradient: instead of a target, the gradient of your own loss with respect to the output of the last step, in
                the output's shape.

        Returns:
            The loss of the last step before the update, averaged over rows: in nats, or a squared, absolute or pinball
            error. NaN with `gradient`.

        Raises:
            UserError: if the stream doesn't learn, no step was run since the last call, the target doesn't fit, the
                loss isn't defined for single steps, or the gradient is not finite. The weights are then unchanged.
        """
        if self._learner is None:
            raise UserError("this stream doesn't learn: create it with Stream(model, learn=True)")
        return self._learner.learn(target, gradient)

    @property
    def methods(self) -> tuple[Method, ...]:
        """The learning method and memory of each layer; empty for a stream that doesn't learn."""
        return () if self._learner is None else self._learner.methods

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the network with its current weights to a file that `throughtime.load` and `Stream` can read.

        The streams' states and the optimizer are not saved; to keep them, pickle the stream.

        Args:
            path: the file to write; replaced if it exists.

        Raises:
            UserError: if `throughtime.save` doesn't support the network, or the file can't be written.
        """
        save_network(self._network, path)

    @property
    def state(self) -> dict[str, Array]:
        """The current states, copied: a mapping from names such as `layer0.hidden` to arrays `[rows, width]`.

        Can be set to such a mapping, from this stream or another stream of the same network.
        """
        try:
            return {name: self._machine.state(k) for k, name in enumerate(self._initial)}
        except RuntimeError as error:
            raise UserError(f"{error}") from None

    @state.setter
    def state(self, state: Mapping[str, Array]) -> None:
        unknown = next((name for name in state if name not in self._initial), None)
        if unknown is not None or len(state) != len(self._initial):
            problem = (
                f"no state named {unknown!r}{nearest(str(unknown), self._initial)}" if unknown else "missing states"
            )
            raise UserError(f"{problem}: expected {', '.join(self._initial)}")
        values = {name: np.asarray(value) for name, value in state.items()}
        for name, value in values.items():
            wanted = self._initial[name]
            if value.shape != wanted.shape or value.dtype != wanted.dtype:
                raise UserError(
                    f"state {name} must be {wanted.dtype} {list(wanted.shape)}, got {value.dtype} {list(value.shape)}"
                )
        self._set(values)
        self._forget()

    def _set(self, state: Mapping[str, Array]) -> None:
        try:
            for k, name in enumerate(self._initial):
                self._machine.set_state(k, state[name])
        except RuntimeError as error:
            raise UserError(f"{error}") from None

    @property
    def output(self) -> Output | None:
        """The output of a sequence model, as in `stream.output.predict(result)`; None for recurrent layers alone."""
        return self._network.output

    @cached_property
    def task(self) -> TaskDescription | None:
        """The task and codecs of a run's or file's network; None if unknown.

        Raises:
            ModelError: if the description is damaged.
        """
        return None if self._source is None else self._source.task
