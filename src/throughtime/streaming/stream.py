"""A trained network one step at a time, its state inside: a microsecond or two a step, and no torch."""

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
    """Streams that run side by side through one network, each step of all of them in one call.

    The weights are copied and made ready when the stream is made: what is done to the model afterwards does not reach
    it. There is no dropout. Each result has the same bits as the module's, run over the whole sequence by the native
    engine with the same instruction set; but for a language model's scores, which torch's own product rounds otherwise.

    A stream is for one thread at a time; different streams run at the same time.

    Args:
        model: the directory of a run (or the `Run`; "latest" is the newest one under `runs`) or a file that
            `throughtime.save` wrote, for which no torch is needed; or a `SequenceModel`, a `Recurrent`, a drop-in
            `RNN`, `LSTM` or `GRU`, or one of torch's own. Of one direction of time, in float32 or float64.
        rows: how many independent streams there are.
        knobs: for the network of an effect that was trained with knobs, their settings from 0 to 1, such as
            `{"gain": 0.7}`. The stream then takes samples of sound alone.
        instruction_set: what the processor is to use; the best that it has if not given (see
            `throughtime.engines.native.NativeEngine`).

        learn: whether `learn` may change the weights as data arrive. "rtrl" computes exact gradients within each layer
            (real-time recurrent learning), "snap1" an approximation (Menick et al. 2021, arXiv:2006.07232); True
            chooses by the size of each layer, and `methods` and the log say what it chose.
        optimizer: "adam", "sgd", or an `Optimizer` of your own.
        lr: the optimizer's learning rate; by default 0.001 for Adam and 0.01 for SGD.
        clip: the largest norm of the gradient, of all weights together; 0 leaves it as it is.

    Attributes:
        rows: how many independent streams there are.
        dtype: the type of inputs, outputs and states.

    Raises:
        UserError: if the model can't be run a step at a time, or an option is invalid.
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
            raise UserError(f"rows must be a whole number of 1 or more; given {rows!r}.")
        if learn not in (False, True, *METHODS):
            raise UserError(f"learn must be True, False, {' or '.join(map(repr, METHODS))}, got {learn!r}.")
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

    def __getstate__(self) -> dict[str, Any]:
        """What is copied and pickled: the network and the streams' states, and what they have learned."""
        return {
            "network": self._network,
            "rows": self.rows,
            "instruction_set": self._instruction_set,
            "knobs": self.knobs,
            "state": self.state,
            "learner": self._learner,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Make a stream of its own from what was copied."""
        learner = copy.deepcopy(state["learner"])  # a copy learns by itself
        network = state["network"] if learner is None else learner.network
        self._make(network, state["rows"], state["instruction_set"], learner)
        self.knobs = state["knobs"]
        if learner is None:
            self._set(state["state"])

    def step(self, x: Any, out: Array | None = None, **inputs: Any) -> Array:
        """Takes one step.

        Args:
            x: for recurrent layers an array `[rows, input_size]`, or `[input_size]` where there is one row; for a
                language model the symbols' numbers, an array of whole numbers `[rows]`, or one number where there is
                one row.
            out: where to write the result; a new array if not given. Nothing is allocated if it is.
            **inputs: the cell's inputs beside x, by name: arrays as x, with their own widths; a number where there is
                one row and one element.

        Returns:
            The output `[rows, output_size]`; for a language model the scores of the next symbol (logits)
            `[rows, symbols]`. Without the axis of rows where `x` has none.

        Raises:
            UserError: if the shape or the type does not fit, or another thread is in the middle of a step.
        """
        if inputs or len(self._inputs) > 1:
            x = joined(self._inputs, x, inputs, np.ndim(x) - 1, self.dtype)
        try:
            return self._step(x, out)
        except (ValueError, RuntimeError, OverflowError) as error:
            raise UserError(f"{error}.") from None

    def process(self, x: Any, **inputs: Any) -> Array:
        """Take the steps of a block, with the state carried from block to block.

        The results have the same bits as those of `step`, however a sequence is cut into blocks.

        Args:
            x: for one stream an array `[steps, input_size]`, or `[steps]` where a step has one number; for networks
                that read symbols the ids, an array of integers `[steps]`.
            **inputs: the cell's inputs beside x, by name: arrays `[steps, width]`, or `[steps]` where the width is 1.

        Returns:
            The outputs `[steps, output_size]`; `[steps]` where a step has one number in `x` and in the output, and `x`
            has one axis.

        Raises:
            UserError: the shape or the type does not fit, the stream has several rows, or another thread is in the
                middle of a step.
        """
        if inputs or len(self._inputs) > 1:
            x = joined(self._inputs, x, inputs, 1, self.dtype)
        try:
            return self._process(x)
        except (ValueError, RuntimeError, OverflowError) as error:
            raise UserError(f"{error}.") from None

    @property
    def knobs(self) -> dict[str, float]:
        """The settings of an effect's knobs from 0 to 1, which can be changed between blocks; empty if it has none."""
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
        """Samples `[..., 1]` with the settings of the knobs beside each."""
        samples = np.asarray(x)
        if samples.dtype != self.dtype or samples.ndim not in (1, 2) or samples.shape[-1] != 1:
            raise UserError(f"{what} is a {self.dtype} array {shapes}, got {samples.dtype} {list(samples.shape)}.")
        return np.concatenate(
            [samples, np.broadcast_to(self._settings, (*samples.shape[:-1], *self._settings.shape))], -1
        )

    def reset(self, rows: int | Sequence[int] | Array | None = None) -> None:
        """Lets streams begin afresh, with the states that the cell declares.

        Args:
            rows: which ones: a number, several, or a mask of truth values `[rows]`; all if not given.

        Raises:
            UserError: if there is no such row.
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
                f"rows are numbered from 0 to {self.rows - 1}, or told by a mask of {self.rows}; given {rows!r}."
            ) from None
        self._set(state)
        self._forget(rows)

    def _forget(self, rows: Any = slice(None)) -> None:
        if self._learner is not None:
            self._learner.forget(rows)

    def learn(self, target: Any = None, *, gradient: Any = None) -> float:
        """Change the weights by the gradient of the last step's loss.

        Args:
            target: what the output of the last step should have been: ids `[rows]`, or numbers `[rows, targets]`, as
                the network was trained with. Without the axis of rows where there is one row.
            gradient: instead of a target, the gradient of a loss of your own by the output of the last step, in its
                shape.

        Returns:
            The loss of the last step, before the weights changed, the mean over the rows: in nats, or a squared,
            absolute or pinball error. NaN for a loss of your own.

        Raises:
            UserError: the stream doesn't learn, no step was taken since the last call, the target doesn't fit, the
                output's loss is not one of single steps, or the gradient is not finite. The weights are then unchanged.
        """
        if self._learner is None:
            raise UserError("this stream's weights don't change; make it with Stream(model, learn=True) to learn.")
        return self._learner.learn(target, gradient)

    @property
    def methods(self) -> tuple[Method, ...]:
        """How each layer learns, and the memory that it takes; empty for a stream that doesn't learn."""
        return () if self._learner is None else self._learner.methods

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the network with its weights of this moment into a file that `throughtime.load` and `Stream` read.

        The streams' states and the optimizer are not in it; to keep those, pickle the stream.

        Args:
            path: the file, which is replaced if it exists.

        Raises:
            UserError: the network isn't one that `throughtime.save` can write, or the file can't be written.
        """
        save_network(self._network, path)

    @property
    def state(self) -> dict[str, Array]:
        """What the network carries to its next step: `layer0.hidden`, say, to an array `[rows, width]`, a copy.

        It can be set to such a dictionary, of this stream or of another of the same network.
        """
        try:
            return {name: self._machine.state(k) for k, name in enumerate(self._initial)}
        except RuntimeError as error:
            raise UserError(f"{error}.") from None

    @state.setter
    def state(self, state: Mapping[str, Array]) -> None:
        unknown = next((name for name in state if name not in self._initial), None)
        if unknown is not None or len(state) != len(self._initial):
            given = f"no state is called {unknown!r}{nearest(str(unknown), self._initial)}" if unknown else "some lack"
            raise UserError(f"{given}: a state is given by {', '.join(self._initial)}.")
        values = {name: np.asarray(value) for name, value in state.items()}
        for name, value in values.items():
            wanted = self._initial[name]
            if value.shape != wanted.shape or value.dtype != wanted.dtype:
                raise UserError(
                    f"the state {name} is {wanted.dtype} {list(wanted.shape)}; given {value.dtype} {list(value.shape)}."
                )
        self._set(values)
        self._forget()

    def _set(self, state: Mapping[str, Array]) -> None:
        try:
            for k, name in enumerate(self._initial):
                self._machine.set_state(k, state[name])
        except RuntimeError as error:
            raise UserError(f"{error}.") from None

    @property
    def output(self) -> Output | None:
        """What a sequence model's results mean: `stream.output.predict(result)`; None for recurrent layers alone."""
        return self._network.output

    @cached_property
    def task(self) -> TaskDescription | None:
        """What the network of a run or a file was made for, with its codecs; None if that isn't known.

        Raises:
            ModelError: its description is damaged.
        """
        return None if self._source is None else self._source.task
