"""Run Keras's recurrent layers on throughtime's engines, in place, by replacing their loop over time steps.

A Keras layer calls its `inner_loop` with the input, the initial states and the mask. `accelerate` sets a `Loop` as that
attribute of the layer. The layer's class, weights, dropout masks and states are not changed.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from throughtime.engines.capture import needs_traceable
from throughtime.engines.weight_layouts import Stored
from throughtime.errors import UserError
from throughtime.exchange.keras.layers import FUNCTIONS, KERAS_LAYERS, KerasLayer, program_of
from throughtime.nn.forms import form_of, states_of
from throughtime.nn.stack import Stack
from throughtime.program.core import Program
from throughtime.program.rewrite import input_weights, recurrent_weights, with_gate_dropout

_LOOP = "inner_loop"
_KINDS = ("RNN", "SimpleRNN", "LSTM", "GRU")
_DTYPES = ("float32", "float64")


def keras_layers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield each recurrent layer of the Keras models and layers in a torch module once, with its path."""
    keras = sys.modules.get("keras")
    if keras is None:
        return
    seen = set()  # a Keras model lists its layers twice: its own and the wrapped model's
    for module in model.modules():
        for layer in module._flatten_layers() if isinstance(module, keras.Layer) else ():
            if isinstance(layer, keras.layers.RNN) and id(layer) not in seen:
                seen.add(id(layer))
                yield layer.path or layer.name, layer


def require_torch_backend(model: Any) -> None:
    """Raise UserError for a Keras model on a backend other than torch.

    Raises:
        UserError: if Keras runs on another backend.
    """
    keras = sys.modules.get("keras")
    if keras is not None and isinstance(model, keras.Layer) and keras.config.backend() != "torch":
        raise UserError(
            f"accelerate needs Keras models on the torch backend, but Keras runs on {keras.config.backend()}: set the "
            "environment variable KERAS_BACKEND=torch before importing keras"
        )


def is_accelerated(layer: Any) -> bool:
    """Return whether a Keras layer runs throughtime's loop."""
    return isinstance(vars(layer).get(_LOOP), Loop)


def accelerate_layer(layer: Any) -> str | None:
    """Replace a Keras layer's loop with throughtime's.

    Returns:
        The reason why the layer was not changed; None if it was.
    """
    reason = _refusal(layer)
    if reason is None:
        layer.__dict__[_LOOP] = Loop(layer)
    return reason


def restore_layer(layer: Any) -> None:
    """Restore a Keras layer's own loop."""
    if is_accelerated(layer):
        del layer.__dict__[_LOOP]


class _Cell(NamedTuple):
    """A Keras cell, with its program.

    Attributes:
        cell: the Keras cell.
        layer: the kind of layer.
        functions: the names of the cell's activations by argument.
        programs: the programs by input size, hidden size and whether there is a bias.
    """

    cell: Any
    layer: KerasLayer
    functions: dict[str, str]
    programs: dict[tuple[int, int, bool], Program]

    @property
    def stored(self) -> Stored:
        """The current weights in the order of `Stored`, differentiable."""
        cell = self.cell
        bias = None if cell.bias is None else _tensor(cell.bias)
        second = None
        if bias is not None:
            bias, second = (bias, torch.zeros_like(bias)) if bias.dim() == 1 else bias.unbind()
        return Stored(_tensor(cell.kernel).T, _tensor(cell.recurrent_kernel).T, bias, second)


class Loop:
    """A replacement for the `inner_loop` of a Keras layer.

    Calls that throughtime's engines can't run (on another device, while a graph is captured) go to Keras's own loop.
    """

    def __init__(self, layer: Any) -> None:
        self._layer = layer
        self._cells = [_cell(cell) for cell in _cells(layer)]

    def __call__(self, sequences: Any, initial_state: Any, mask: Any, training: bool = False) -> tuple[Any, Any, Any]:
        """Run the layer over all steps.

        Args:
            sequences: `[B, T, features]`.
            initial_state: the states of each cell, in Keras's nesting.
            mask: `[B, T]`, False where a step is skipped; None if all steps are run.
            training: whether dropout applies.

        Returns:
            The output of the last step, the outputs of all steps (only the last one without `return_sequences`) and the
            final states.
        """
        import keras

        if isinstance(mask, list | tuple):
            mask = mask[0]
        states = keras.tree.flatten(initial_state)
        if not self._runs([sequences, *states], mask):
            return type(self._layer).inner_loop(self._layer, sequences, initial_state, mask, training)  # type: ignore[no-any-return]
        if self._layer.stateful:  # Keras overwrites the initial states with the final ones
            states = [state.clone() for state in states]
        steps = _Steps.of(sequences, mask, self._layer.go_backwards)
        x, lengths = steps.compacted, steps.lengths
        final: list[Tensor] = []
        for cell in self._cells:
            own = [state.unsqueeze(0) for state in states[len(final) :][: len(cell.layer.cell.states)]]
            x, ended = self._run(cell, x, tuple(own), lengths, bool(training))
            final += [state.squeeze(0) for state in ended]
        layer = self._layer
        last, outputs = steps.expanded(x, layer.return_sequences, zero=layer.zero_output_for_mask)
        return last, outputs, keras.tree.pack_sequence_as(initial_state, final)

    def _runs(self, tensors: Sequence[Any], mask: Any) -> bool:
        """Return whether throughtime's engines can run this call."""
        x = tensors[0]
        if any(not isinstance(t, Tensor) or t.device.type != "cpu" for t in tensors) or x.dim() != 3 or 0 in x.shape:
            return False
        if mask is not None and not (isinstance(mask, Tensor) and mask.shape[:2].numel() == mask.numel()):
            return False
        return not (torch.compiler.is_compiling() or needs_traceable(tensors))

    def _run(
        self, of: _Cell, x: Tensor, states: tuple[Tensor, ...], lengths: Tensor | None, training: bool
    ) -> tuple[Tensor, Sequence[Tensor]]:
        """Run one cell over all steps."""
        stored = of.stored
        x = x.to(stored.input.dtype)
        size = (stored.input.shape[1], stored.recurrent.shape[1], stored.input_bias is not None)
        if size not in of.programs:
            of.programs[size] = program_of(of.layer, *size, of.functions)
        program = of.programs[size]
        masks: list[Tensor] = []
        if training:
            dropped = _Masks.of(of, x, states[0][0])
            if isinstance(dropped.input, Tensor):  # one mask for all gates
                x = x * dropped.input[:, None]
            program, masks = dropped.applied(program, of.layer)
        parameters = of.layer.layout.to_program(of.layer.layout.mapping(program), stored)
        over_steps = [mask[:, None].expand(-1, x.shape[1], -1) for mask in masks]
        form = form_of(x, batch_first=True, lengths=lengths)
        outputs, final = Stack([[(program, parameters)]]).run(*form, states, step_inputs=over_steps)
        assert isinstance(outputs, Tensor)  # a single direction
        return outputs, states_of(final)


class _Masks(NamedTuple):
    """The dropout masks of a Keras cell, which Keras draws once for the whole sequence.

    Attributes:
        input: `[B, features]`, or one such mask for each gate; None without dropout.
        recurrent: `[B, hidden]` for each gate; None without recurrent dropout.
    """

    input: Tensor | Sequence[Tensor] | None
    recurrent: Sequence[Tensor] | None

    @classmethod
    def of(cls, of: _Cell, x: Tensor, state: Tensor) -> _Masks:
        cell = of.cell
        # Keras's LSTM and GRU ignore a rate of 1.
        input, recurrent = (
            0 < p < 1 or (p and of.layer.kind == "SimpleRNN") for p in (cell.dropout, cell.recurrent_dropout)
        )
        of_state = cell.get_recurrent_dropout_mask(state) if recurrent else None
        if isinstance(of_state, Tensor):
            of_state = [of_state]  # a SimpleRNN has only one gate
        return cls(cell.get_dropout_mask(x[:, 0, :]) if input else None, of_state)

    def applied(self, program: Program, layer: KerasLayer) -> tuple[Program, list[Tensor]]:
        """Return the program with the masks of single gates as inputs, and these masks in the order of the inputs."""
        by_weight: dict[int, Sequence[Tensor]] = {}
        if self.input is not None and not isinstance(self.input, Tensor):
            by_weight |= dict.fromkeys(input_weights(program), self.input)
        if self.recurrent is not None:
            by_weight |= dict.fromkeys(recurrent_weights(program), self.recurrent)
        weights = tuple(sorted(by_weight))
        masks = [by_weight[k][layer.layout.row(part.gate)] for k in weights for part in program.parameters[k].parts]
        return (with_gate_dropout(program, weights) if weights else program), masks


class _Steps(NamedTuple):
    """A batch without its masked steps.

    Attributes:
        compacted: `[B, T, features]`: for each sequence, the unmasked steps in running order, followed by the masked
            ones.
        lengths: `[B]`, the number of unmasked steps; None if no step is masked.
        kept: `[B, T]`, True where a step is not masked; None if no step is masked.
    """

    compacted: Tensor
    lengths: Tensor | None = None
    kept: Tensor | None = None

    @classmethod
    def of(cls, sequences: Tensor, mask: Tensor | None, backwards: bool) -> _Steps:
        x = sequences.flip(1) if backwards else sequences
        if mask is None:
            return cls(x)
        kept = mask.reshape(mask.shape[:2]).bool()
        if bool(kept.all()):
            return cls(x)
        kept = kept.flip(1) if backwards else kept
        lengths = kept.sum(1)
        if not torch.equal(kept, torch.arange(kept.shape[1]) < lengths[:, None]):
            order = torch.argsort((~kept).to(torch.uint8), dim=1, stable=True)
            x = x.gather(1, order[..., None].expand(-1, -1, x.shape[2]))
        return cls(x, lengths, kept)

    def expanded(self, y: Tensor, every: bool, *, zero: bool) -> tuple[Tensor, Tensor]:
        """Return the last step's output, and the outputs of all steps or of the last step only.

        A masked step repeats the previous step's output, or is 0 if there is none or if `zero` is set.
        """
        if self.kept is None:
            return y[:, -1], y if every else y[:, -1:]
        kept = self.kept if every else self.kept[:, -1:]
        run = self.kept.cumsum(1) if every else self.kept.sum(1, keepdim=True)  # the number of steps run so far
        found = y.gather(1, (run - 1).clamp(min=0)[..., None].expand(-1, -1, y.shape[2]))
        found = torch.where((kept if zero else run > 0)[..., None], found, 0.0)
        return found[:, -1], found


def _tensor(variable: Any) -> Tensor:
    from keras import ops

    found: Tensor = ops.convert_to_tensor(variable)
    return found


def _cells(layer: Any) -> list[Any]:
    import keras

    return list(layer.cell.cells) if type(layer.cell) is keras.layers.StackedRNNCells else [layer.cell]


def _refusal(layer: Any) -> str | None:
    """Return why throughtime's loop can't run a Keras layer; None if it can."""
    import keras

    kind = type(layer)
    if kind not in {getattr(keras.layers, name) for name in _KINDS}:
        return f"{kind.__name__} is a custom class, which may do more than Keras's"
    for cell in _cells(layer):
        name = type(cell).__name__
        if type(cell) not in {getattr(keras.layers, f"{of.kind}Cell") for of in KERAS_LAYERS}:
            return f"its cell {name} is not Keras's SimpleRNNCell, LSTMCell or GRUCell"
        if cell.compute_dtype not in _DTYPES or cell.variable_dtype != cell.compute_dtype:
            return f"it computes in {cell.compute_dtype}; the native engine supports float32 and float64"
        for argument in _cell_row(cell).functions:
            function = getattr(cell, argument)
            if _function_name(function) is None:
                shown = getattr(function, "__name__", repr(function))
                return f"its {argument} {shown} is not one of {', '.join(FUNCTIONS)}"
    return None


def _cell_row(cell: Any) -> KerasLayer:
    after = getattr(cell, "reset_after", None)
    name = type(cell).__name__
    return next(of for of in KERAS_LAYERS if name == f"{of.kind}Cell" and of.reset_after in (None, after))


def _function_name(function: Any) -> str | None:
    """Return the name of a Keras activation; None if it is unsupported."""
    from keras import activations

    return next((name for name in FUNCTIONS if getattr(activations, name) is function), None)


def _cell(cell: Any) -> _Cell:
    row = _cell_row(cell)
    names = {argument: _function_name(getattr(cell, argument)) for argument in row.functions}
    return _Cell(cell, row, {argument: name for argument, name in names.items() if name is not None}, {})
