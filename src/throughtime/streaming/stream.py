"""A trained network one step at a time, its state inside: a microsecond or two a step, and no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from throughtime.errors import UserError, nearest
from throughtime.outputs import Output
from throughtime.streaming.machine import machine
from throughtime.streaming.network import Array, Network, network_of

if TYPE_CHECKING:
    from throughtime.task_description import TaskDescription


class Stream:
    """Streams that run side by side through one network, each step of all of them in one call.

    The weights are copied and made ready when the stream is made: what is done to the model afterwards does not reach
    it. There is no dropout. Each result has the same bits as the module's, run over the whole sequence by the native
    engine with the same instruction set; but for a language model's scores, which torch's own product rounds otherwise.

    A stream is for one thread at a time; different streams run at the same time.

    Args:
        model: the directory of a run (or the `Run`) or a file that `throughtime.save` wrote, for which no torch is
            needed; or a `SequenceModel`, a `Recurrent`, a drop-in `RNN`, `LSTM` or `GRU`, or one of torch's own. Of one
            direction of time, in float32 or float64.
        rows: how many independent streams there are.
        instruction_set: what the processor is to use; the best that it has if not given (see
            `throughtime.engines.native.NativeEngine`).

    Attributes:
        rows: how many independent streams there are.
        dtype: the type of inputs, outputs and states.

    Raises:
        UserError: if the model can't be run a step at a time.
        RunError, ModelError: if the run or the file can't be read.
    """

    def __init__(self, model: Any, rows: int = 1, *, instruction_set: str = "") -> None:
        if type(rows) is not int or rows < 1:
            raise UserError(f"rows must be a whole number of 1 or more; given {rows!r}.")
        self._make(network_of(model), rows, instruction_set)
        self.reset()

    def _make(self, network: Network, rows: int, instruction_set: str) -> None:
        self._network, self._instruction_set = network, instruction_set
        self.rows = rows
        self.dtype = network.dtype
        self._source = network.source
        self._initial = {
            f"layer{depth}.{state.name}": np.repeat(start[None], rows, 0)
            for depth, ((program, _), starts) in enumerate(zip(network.layers, network.starts, strict=True))
            for state, start in zip(program.states, starts, strict=True)
        }
        self._machine = machine(network, rows, instruction_set)
        self._step = self._machine.step

    def __getstate__(self) -> dict[str, Any]:
        """What is copied and pickled: the network and the streams' states."""
        return {
            "network": self._network,
            "rows": self.rows,
            "instruction_set": self._instruction_set,
            "state": self.state,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Make a stream of its own from what was copied."""
        self._make(state["network"], state["rows"], state["instruction_set"])
        self._set(state["state"])

    def step(self, x: Any, out: Array | None = None) -> Array:
        """Takes one step.

        Args:
            x: for recurrent layers an array `[rows, input_size]`, or `[input_size]` where there is one row; for a
                language model the symbols' numbers, an array of whole numbers `[rows]`, or one number where there is
                one row.
            out: where to write the result; a new array if not given. Nothing is allocated if it is.

        Returns:
            The output `[rows, output_size]`; for a language model the scores of the next symbol (logits)
            `[rows, symbols]`. Without the axis of rows where `x` has none.

        Raises:
            UserError: if the shape or the type does not fit, or another thread is in the middle of a step.
        """
        try:
            return self._step(x, out)  # type: ignore[no-any-return]
        except (ValueError, RuntimeError, OverflowError) as error:
            raise UserError(f"{error}.") from None

    def process(self, x: Any) -> Array:
        """Take the steps of a block, with the state carried from block to block.

        The results have the same bits as those of `step`, however a sequence is cut into blocks.

        Args:
            x: for one stream an array `[steps, input_size]`, or `[steps]` where a step has one number; for networks
                that read symbols the ids, an array of integers `[steps]`.

        Returns:
            The outputs `[steps, output_size]`; `[steps]` where a step has one number in `x` and in the output, and `x`
            has one axis.

        Raises:
            UserError: the shape or the type does not fit, the stream has several rows, or another thread is in the
                middle of a step.
        """
        try:
            return self._machine.process(x)  # type: ignore[no-any-return]
        except (ValueError, RuntimeError, OverflowError) as error:
            raise UserError(f"{error}.") from None

    def reset(self, rows: int | Sequence[int] | Array | None = None) -> None:
        """Lets streams begin afresh, with the states that the cell declares.

        Args:
            rows: which ones: a number, several, or a mask of truth values `[rows]`; all if not given.

        Raises:
            UserError: if there is no such row.
        """
        if rows is None:
            self._set(self._initial)
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
