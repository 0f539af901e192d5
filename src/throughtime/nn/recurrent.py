"""Recurrent layers for any cell."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from throughtime import cells
from throughtime.engines import choose, get
from throughtime.engines.capture import is_captured
from throughtime.errors import UserError
from throughtime.language import activation
from throughtime.nn.forms import Output, State, form_of, states_of
from throughtime.nn.freezing import Freezable
from throughtime.nn.graph_breaks import outside_graph
from throughtime.nn.hooks import Hookable, Starts
from throughtime.nn.initialization import Scheme, initialize
from throughtime.nn.look_up import TokenIds, layers_over_ids
from throughtime.nn.masks import dropped
from throughtime.nn.options import Options, output_width, require_hyper
from throughtime.nn.regularization import Masks, in_training
from throughtime.nn.stack import Layers, Stack, directions_of, in_autocast
from throughtime.nn.step_inputs import in_order
from throughtime.program.cell import Cell
from throughtime.program.core import Input, Program, shared
from throughtime.program.rewrite import recurrent_weights, with_activations, with_clip, with_heads
from throughtime.stored import initial_name, stored_name


class Recurrent(Hookable, Freezable, nn.Module):
    """A stack of recurrent layers of one cell.

    Parameters are the cell's, fused across gates and suffixed with the layer's number: `weight_x_l0`, `weight_h_l0`,
    `bias_l0`, and so on, with a further `_reverse` for the backward direction.

    Args:
        cell: the name of a cell, or a definition decorated with `@throughtime.cell`.
        input_size: the number of features of the input.
        hidden_size: the number of hidden units of each layer.
        num_layers: the number of layers.
        bias: whether gates have a bias.
        inputs: the names of the cell's optional inputs that the layers take, such as `["dt"]`; required inputs are
            always taken.
        heads: the number of diagonal blocks that each recurrent matrix is restricted to; elements outside are 0 and
            not stored (Beck et al. 2024, arXiv:2405.04517).
        clip: the bound to which gates' pre-activations are clamped; no clamping by default.
        activations: replacement activations, as a mapping from gates to names in `throughtime.language.ACTIVATIONS`.
        batch_first, bidirectional, merge, reverse, skip, dropout, variational, recurrent_dropout, zoneout,
            weight_drop, learn_initial, returns, checkpoint_every: see `throughtime.nn.options.Options`.
        engine: the engine's name; chosen by device by default.
        device, dtype: the parameters' device and dtype.
        **hyper: the cell's hyper-parameters.

    Attributes:
        programs: each layer's program, forward in time.
        options: the options for joining and regularizing the layers.

    Raises:
        UserError: if a size, a name, an option or the cell is invalid.
    """

    def __init__(
        self,
        cell: str | Cell,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        bias: bool = True,
        inputs: Sequence[str] = (),
        heads: int = 1,
        clip: float | None = None,
        activations: Mapping[str, str] | None = None,
        batch_first: bool = Options.batch_first,
        bidirectional: bool = Options.bidirectional,
        merge: str = Options.merge,
        reverse: bool = Options.reverse,
        skip: str | None = Options.skip,
        dropout: float = Options.dropout,
        variational: bool = Options.variational,
        recurrent_dropout: float = Options.recurrent_dropout,
        zoneout: float | Mapping[str, float] = Options.zoneout,
        weight_drop: float = Options.weight_drop,
        learn_initial: bool = Options.learn_initial,
        returns: str = Options.returns,
        checkpoint_every: int | None = Options.checkpoint_every,
        engine: str | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **hyper: Any,
    ) -> None:
        if not isinstance(num_layers, int) or num_layers < 1:
            raise UserError(f"num_layers must be a positive integer, got {num_layers!r}")
        if not isinstance(heads, int) or heads < 1:
            raise UserError(f"heads must be a positive integer, got {heads!r}")
        if clip is not None and not (isinstance(clip, int | float) and clip > 0):
            raise UserError(f"clip must be a number greater than 0, got {clip!r}")
        options = Options(
            batch_first=batch_first,
            bidirectional=bidirectional,
            merge=merge,
            reverse=reverse,
            skip=skip,
            dropout=dropout,
            variational=variational,
            recurrent_dropout=recurrent_dropout,
            zoneout=zoneout,
            weight_drop=weight_drop,
            learn_initial=learn_initial,
            returns=returns,
            checkpoint_every=checkpoint_every,
        )
        definition = cells.get(cell)
        require_hyper(hyper, definition, inspect.signature(Recurrent).parameters.keys() - {"hyper"})
        if activations is not None and not isinstance(activations, Mapping):
            raise UserError(f"activations must be a mapping from gates to function names, got {activations!r}")
        functions = tuple((gate, activation(name)) for gate, name in (activations or {}).items())
        programs, width = [], input_size
        for _ in range(num_layers):
            program = definition.program(width, hidden_size, bias=bias, inputs=inputs, **hyper)
            program = with_activations(program, functions) if functions else program
            program = with_clip(program, float(clip)) if clip is not None else program
            programs.append(with_heads(program, heads) if heads > 1 else program)
            width = options.next_width(width, output_width(program))
        self._build(programs, hidden_size, options, engine, device, dtype)

    @classmethod
    def from_programs(
        cls,
        programs: Sequence[Program],
        hidden_size: int,
        *,
        engine: str | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **options: Any,
    ) -> Recurrent:
        """Create a stack from its layers' programs (loaded from a file, for example), without the cell's equations.

        Args:
            programs: each layer's program, forward in time.
            hidden_size: the number of hidden units, used to initialize parameters.
            engine, device, dtype: see the class.
            **options: see `throughtime.nn.options.Options`; another module's are `module.options.data`.

        Raises:
            UserError: if a layer's input width doesn't match the layer below, or an option is invalid.
        """
        module = cls.__new__(cls)
        module._build(programs, hidden_size, Options.of(options), engine, device, dtype)
        return module

    def _build(
        self,
        programs: Sequence[Program],
        hidden_size: int,
        options: Options,
        engine: str | None,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> None:
        super().__init__()
        if engine is not None:
            get(engine)
        options.require_fit(programs)
        programs = [shared(program) for program in programs]
        self.programs, self.options, self.engine = tuple(programs), options, engine
        self.hidden_size, self.num_layers = hidden_size, len(programs)
        masks = Masks(options, programs)
        self._masks = (masks,) if masks else ()
        self._directions = [_directions(depth, program, options) for depth, program in enumerate(programs)]
        for program, directions in zip(programs, self._directions, strict=True):
            shapes = [p.shape for p in program.parameters] + [(s.width,) for s in program.states]
            for direction in directions:
                for name, shape in zip((*direction.parameters, *direction.starts), shapes, strict=False):
                    if name in self._parameters:  # a dot and an underscore become the same stored name
                        raise UserError(
                            f"two parameters of cell {program.name!r} are both stored as {name!r}: rename one"
                        )
                    self.register_parameter(name, nn.Parameter(torch.empty(shape, device=device, dtype=dtype)))
        self.reset_parameters()

    @property
    def batch_first(self) -> bool:
        """Whether input and output are `[B, T, features]`."""
        return self.options.batch_first

    @property
    def dropout(self) -> float:
        """The probability of dropping an element between two layers in training."""
        return self.options.dropout

    @property
    def bidirectional(self) -> bool:
        """Whether each layer runs in both directions of time."""
        return self.options.bidirectional

    @property
    def input_size(self) -> int:
        """The number of features of the input."""
        return self.programs[0].inputs[0].width

    @property
    def step_inputs(self) -> tuple[Input, ...]:
        """The cell's inputs other than x, which every layer takes."""
        return self.programs[0].inputs[1:]

    @property
    def step_size(self) -> int:
        """The number of features of x and of the other inputs together."""
        return sum(given.width for given in self.programs[0].inputs)

    @property
    def output_size(self) -> int:
        """The number of features of the output; of each direction's output if they stay separate."""
        return self.options.merged_width(output_width(self.programs[-1]))

    def reset_parameters(
        self, scheme: Scheme = "uniform", forget_bias: float | None = None, *, chrono: float | None = None
    ) -> None:
        """Initialize all parameters; see `throughtime.nn.initialization.initialize`."""
        for program, directions in zip(self.programs, self._directions, strict=True):
            for direction in directions:
                tensors = [self.get_parameter(name) for name in direction.parameters]
                initialize(program, tensors, self.hidden_size, scheme, forget_bias, chrono=chrono)
                for name, state in zip(direction.starts, program.states, strict=False):
                    nn.init.constant_(self.get_parameter(name), state.initial)

    def forward(
        self,
        input: Tensor | PackedSequence,
        state: State | None = None,
        *,
        lengths: Tensor | Sequence[int] | None = None,
        reset: Tensor | None = None,
        table: Tensor | None = None,
        **inputs: Tensor | PackedSequence,
    ) -> tuple[Output, State]:
        """Run the layers over all steps.

        Args:
            input: `[T, B, input_size]` (`[B, T, input_size]` if `batch_first`), `[T, input_size]`, or a packed
                sequence.
            state: the initial state `[layers * directions, B, width]`, or a tuple for a cell with several states; the
                cell's declared initial values by default.
            lengths: the number of steps of each sequence, 0 to T; outputs after a sequence's end are 0, and its final
                state is the state at its end.
            reset: `[T, B]` (`[B, T]` or `[T]`, matching the input), nonzero where a sequence's states are reset before
                the step, as at the start of an episode.
            table: `[n, input_size]`, the vectors of n tokens; the input is then integer token ids without the feature
                axis. The result equals that for `table[input]`, up to rounding. If n is small compared with the number
                of ids, a CPU multiplies each vector by the first layer's matrices once instead of at every step.
            **inputs: the cell's inputs other than x, by name, in the input's form with their own widths; the feature
                axis may be omitted if the width is 1.

        Returns:
            The output, in the input's form with `output_size` features, and the final state, in the form of `state`. If
            the directions stay separate, the output is a pair. With `returns="last"` it has no step axis; with
            `returns="states"` it is the state after each step, `[T, layers * directions, B, width]`, or a tuple for a
            cell with several states.

        Raises:
            UserError: if a shape or a dtype is invalid.
        """
        x = input if table is None else TokenIds(input, table)
        outside = outside_graph(self, input)
        if outside is None:
            return self._run(x, state, lengths, reset, inputs)
        result: tuple[Output, State] = outside(self._run, x, state, lengths, reset, inputs)
        return result

    def _run(
        self,
        input: Tensor | PackedSequence | TokenIds,
        state: State | None,
        lengths: Tensor | Sequence[int] | None,
        reset: Tensor | None,
        inputs: Mapping[str, Tensor | PackedSequence],
    ) -> tuple[Output, State]:
        over: Layers | None = None  # layers that take token ids directly
        if isinstance(input, TokenIds):
            tokens = input.checked()
            self._check(tokens.placeholder, state)
            over = self._layers_over(tokens) if lengths is None and reset is None else None
            input = tokens.vectors() if over is None else tokens.ids
        else:
            self._check(input, state)
        by_id, options = over is not None, self.options
        step_inputs = self._in_order(input, inputs, token_ids=by_id) if inputs or self.step_inputs else ()
        starts = self.starts() if options.learn_initial else None
        dropout, masks = (options.dropout, self._masks) if self.training else (0.0, ())
        stack = Stack(over or self._own_layers(), options, dropout, self.engine, starts, masks, self.hooks)
        x, form = form_of(input, batch_first=options.batch_first, lengths=lengths, reset=reset, token_ids=by_id)
        return stack.run(x, form, state, step_inputs)

    def _in_order(
        self, input: Tensor | PackedSequence, inputs: Mapping[str, Tensor | PackedSequence], *, token_ids: bool
    ) -> Sequence[Tensor | PackedSequence]:
        data = input.data if isinstance(input, PackedSequence) else input
        weight = self.get_parameter(self._directions[0][0].parameters[0])
        dtype = None if in_autocast(data) else weight.dtype
        return in_order(self.step_inputs, inputs, input, data.shape if token_ids else data.shape[:-1], dtype)

    def _layers_over(self, tokens: TokenIds) -> Layers | None:
        """Return layers that take token ids, or None if that is impossible or not faster."""
        (ids, table), options = tokens, self.options
        if isinstance(ids, PackedSequence):
            return None
        plain = options.returns == "steps" and options.skip is None and not options.batch_first and ids.dim() == 2
        active_hooks = (*self.hooks, *(self._masks if self.training else ()))
        opaque = not (torch.compiler.is_compiling() or is_captured((ids, table)))
        alone = all(hook.takes_token_ids for hook in active_hooks) and opaque
        if not (plain and alone) or 2 * len(table) > ids.numel() or in_autocast(table):
            return None
        layers = self._own_layers()
        return layers_over_ids(layers, table) if choose(self.engine, layers[0][0][0], table).supports_one_hot else None

    def _check(self, input: Tensor | PackedSequence, state: State | None) -> None:
        packed, states = isinstance(input, PackedSequence), states_of(state)
        data = input.data if isinstance(input, PackedSequence) else input
        for name, tensor in (("input", data), *(("state", s) for s in states)):
            if not isinstance(tensor, Tensor):
                raise UserError(f"the {name} must be a tensor, got {type(tensor).__name__}")
            dtype = getattr(self, self._directions[0][0].parameters[0]).dtype
            if tensor.dtype != dtype and not in_autocast(tensor):
                if name == "input" and not (tensor.is_floating_point() or tensor.is_complex()):
                    raise UserError(
                        f"the input must be {dtype}, got {tensor.dtype}. For token ids, pass their vectors as `table`: "
                        "layer(ids, table=embedding.weight); for numbers, convert them with input.to(dtype)"
                    )
                raise UserError(
                    f"the {name} must have the layers' dtype, {dtype}, got {tensor.dtype}: convert it, or the layers, "
                    "with .to(dtype)"
                )
        if data.dim() not in ((2,) if packed else (2, 3)) or data.shape[-1] != self.input_size:
            axes = "B, T" if self.batch_first else "T, B"
            raise UserError(
                f"the input must be [{axes}, {self.input_size}] or [T, {self.input_size}], got {list(data.shape)}"
            )
        if state is None:
            return
        rows = []
        if isinstance(input, PackedSequence):
            rows = [int(input.batch_sizes[0])]
        elif input.dim() == 3:
            rows = [input.shape[0 if self.batch_first else 1]]
        layers = self.num_layers * (2 if self.bidirectional else 1)
        wanted = [[layers, *rows, s.width] for s in self.programs[0].states]
        given = [list(s.shape) for s in states]
        if given != wanted:
            names = ", ".join(s.name for s in self.programs[0].states)
            raise UserError(f"the state ({names}) must have shape {wanted}, got {given}")

    def layers(self) -> Layers:
        """Return each layer's directions, as pairs of a program and its current parameters, for evaluation."""
        return [[(d.program, [getattr(self, n) for n in d.parameters]) for d in layer] for layer in self._directions]

    @property
    def parameter_names(self) -> list[str]:
        """The names of the parameters of all layers and directions."""
        return [name for layer in self._directions for direction in layer for name in direction.parameters]

    def starts(self) -> Starts:
        """Return the learned initial states of each layer's directions."""
        return [[[getattr(self, name) for name in d.starts] for d in layer] for layer in self._directions]

    def _own_layers(self) -> Layers:
        """Return the layers for the current mode."""
        return self._layers_in_training() if self.training else self.lasting_layers()

    def _layers_in_training(self) -> Layers:
        return [
            [(d.training, [self._trained(n, d) for n in d.parameters]) for d in layer] for layer in self._directions
        ]

    def _trained(self, name: str, direction: _Direction) -> Tensor:
        """Return a parameter after weight drop."""
        tensor: Tensor = getattr(self, name)
        return dropped(tensor, self.options.weight_drop) if name in direction.weight_dropped else tensor

    def __prepare_scriptable__(self) -> NoReturn:
        """Raise UserError: torch.jit.script compiles the source of every module, which fails here."""
        raise UserError(
            "torch.jit.script can't compile a Recurrent: use torch.jit.trace or torch.export, or export the model with "
            "throughtime.to_onnx, which keeps the loop over any number of steps"
        )

    def extra_repr(self) -> str:
        """Return the part of the module's repr inside the parentheses."""
        shown = f"{self.programs[0].name}, {self.input_size}, {self.hidden_size}, num_layers={self.num_layers}"
        shown_options = self.options.data | ({"engine": self.engine} if self.engine else {})
        return shown + "".join(f", {name}={value!r}" for name, value in shown_options.items())


class _Direction(NamedTuple):
    """One direction of a layer.

    Attributes:
        program: the program for evaluation.
        training: the program for training.
        parameters: the stored names of its parameters.
        starts: the stored names of its learned initial states.
        weight_dropped: the names of the parameters that weight drop applies to.
    """

    program: Program
    training: Program
    parameters: list[str]
    starts: list[str]
    weight_dropped: list[str]


def _directions(depth: int, program: Program, options: Options) -> list[_Direction]:
    evaluated = directions_of(options.evaluated(program), options.directions, options.reverse)
    training = directions_of(in_training(options, program), options.directions, options.reverse)
    weight_dropped = recurrent_weights(program) if options.weight_drop else ()
    found = []
    for direction, end in enumerate(("", "_reverse")[: options.directions]):
        suffix = f"_l{depth}{end}"
        names = [stored_name(p.name, suffix) for p in program.parameters]
        starts = [initial_name(s.name, suffix) for s in program.states] if options.learn_initial else []
        found.append(
            _Direction(evaluated[direction], training[direction], names, starts, [names[k] for k in weight_dropped])
        )
    return found
