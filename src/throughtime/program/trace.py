"""Trace a cell's equations on symbols, stack the matrices of gates that share a source, and name gates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from throughtime.errors import CellError
from throughtime.program.builder import Builder, is_name
from throughtime.program.cell_errors import cell_error
from throughtime.program.core import INPUT, PREVIOUS, GateRows, Parameter
from throughtime.program.declarations import Sizes
from throughtime.program.symbols import Number, Symbol

_BIAS = -1  # a placeholder source: the constant 1 that a bias multiplies


@dataclass(frozen=True)
class _Gate:
    """An affine map. Its sources are values of the body, with `_BIAS` last if it has a bias."""

    name: str
    sources: tuple[int, ...]
    width: int
    initial: float | None


@dataclass(frozen=True)
class _GatePosition:
    """The position of a gate's rows in a sum of `width` rows. The sum starts at row `starts[k]` of its k-th matrix."""

    starts: tuple[int, ...]
    width: int
    offset: int  # the gate's first row in the sum


class Matrix:
    """A matrix parameter for any number of products `w @ v` and `w.T @ v`."""

    __slots__ = ("_parameter", "_trace", "_transposed")

    def __init__(self, trace: Trace, parameter: int, transposed: bool = False) -> None:
        self._trace, self._parameter, self._transposed = trace, parameter, transposed

    @property
    def T(self) -> Matrix:
        """The transposed matrix."""
        return Matrix(self._trace, self._parameter, not self._transposed)

    @property
    def shape(self) -> tuple[int, int]:
        """The numbers of rows and columns."""
        rows, columns = self._trace.parameters[self._parameter].shape
        return (columns, rows) if self._transposed else (rows, columns)

    def __matmul__(self, value: Symbol) -> Symbol:
        name, (_, columns) = self._trace.parameters[self._parameter].name, self.shape
        if not isinstance(value, Symbol):
            raise cell_error(f"the matrix {name!r} multiplies vectors, got {type(value).__name__} {value!r}")
        if value.width != columns:
            raise cell_error(f"the matrix {name!r} has {columns} columns, but the vector has {value.width} elements")
        multiply = self._trace.linear_transposed if self._transposed else self._trace.linear
        return multiply(value, self._parameter)


class Trace(Builder):
    """A builder that keeps track of gates.

    The equations are traced twice. The first trace (without `seen`) only finds the affine maps. In the second, each
    product is a slice of one product with all matrices of that source, stacked in the order in which the equations name
    the gates, and neighboring maps of the same sources are slices of one sum.

    Args:
        name: the cell's name.
        sizes: the sizes of the layer.
        inputs, states: the names of the function's arguments that are inputs (x first) and states.
        seen: the first trace; None during the first trace.
    """

    def __init__(
        self, name: str, sizes: Sizes, inputs: Sequence[str], states: Sequence[str], seen: Trace | None = None
    ) -> None:
        super().__init__(name)
        self.sizes = sizes
        self.letters = {INPUT: inputs, PREVIOUS: states}
        self.gates: list[_Gate] = []
        self._own_names: set[str] = set()
        self._pending: dict[int, str] = {}  # pre-activations to which no function has been applied yet
        self._linear: set[str] = set()  # gates named as linear, unless the cell assigns that name to another value
        self._positions: list[_GatePosition] = []
        self._fused: dict[int, int] = {}  # source of the first trace -> its parameter
        self._seen = seen.gates if seen else None
        if seen:
            self._plan(seen)

    @contextmanager
    def active(self) -> Iterator[None]:
        """Make this the trace that `affine`, `parameter` and similar functions write to."""
        token = _active.set(self)
        try:
            yield
        finally:
            _active.reset(token)

    # Parameters.

    def affine(self, name: str, sources: Sequence[Symbol], width: int | None, bias: bool | float) -> Symbol:
        """Add an affine map: the sum over sources of a new matrix times the source, plus a bias."""
        width = self._new_name(name, width)
        if not sources:
            raise cell_error(f"the affine map {name!r} needs at least one vector to multiply")
        for source in sources:
            if not isinstance(source, Symbol):
                raise cell_error(f"the affine map {name!r} takes vectors, got {type(source).__name__} {source!r}")
            self._own(source)
        ids = tuple(source.id for source in sources)
        if len(set(ids)) < len(ids):
            raise cell_error(f"the affine map {name!r} has the same vector twice")
        if self.sizes.bias and bias is not False:
            ids = (*ids, _BIAS)
        return self._gate(_Gate(name, ids, width, None if isinstance(bias, bool) else float(bias)), sources)

    def bias(self, name: str, width: int | None, initial: float | None) -> Symbol:
        """Add the bias of a gate whose pre-activation isn't a single affine map; it is 0 in a layer without biases."""
        width = self._new_name(name, width)
        if not self.sizes.bias:
            zero = self.constant(0.0, width)
            self._pending[zero.id] = name
            return zero
        return self._gate(_Gate(name, (_BIAS,), width, initial), ())

    def _gate(self, gate: _Gate, sources: Sequence[Symbol]) -> Symbol:
        self.gates.append(gate)
        result = self._first_run(gate, sources) if self._seen is None else self._fused_sum(sources, gate.width)
        self._pending[result.id] = gate.name
        return result

    def own_vector(self, name: str, width: int | None, initial: float | None) -> Symbol:
        """Add a vector parameter."""
        width = self._new_name(name, width)
        self._require_free(name)
        return self.vector(self.parameter(Parameter(name, (width,), (GateRows(name, 0, width, initial),))))

    def own_matrix(self, name: str, rows: int | None, columns: int | None) -> Matrix:
        """Add a matrix parameter that isn't part of an affine map."""
        rows = self._new_name(name, rows)
        columns = self.sizes.hidden if columns is None else columns
        if not isinstance(columns, int) or columns < 1:
            raise cell_error(
                f"the number of columns of the matrix {name!r} must be a positive integer, got {columns!r}"
            )
        self._require_free(name)
        return Matrix(self, self.parameter(Parameter(name, (rows, columns), (GateRows(name, 0, rows),))))

    def _require_free(self, name: str) -> None:
        if any(name == parameter.name for parameter in self.parameters):
            raise cell_error(f"{name!r} is the name of a parameter of the gates; choose another name")

    def _new_name(self, name: str, width: int | None) -> int:
        width = self.sizes.hidden if width is None else width
        if not is_name(name):
            raise cell_error(f"a name must consist of letters, digits and _, with dots between words; got {name!r}")
        if not isinstance(width, int) or width < 1:
            raise cell_error(f"the width of {name!r} must be a positive integer, got {width!r}")
        if name in self._own_names:
            raise cell_error(
                f"two sets of parameters are named {name!r}; names within a cell must differ. To multiply several "
                f"vectors by one matrix, create it once, `w = matrix({name!r})`, and write `w @ v`"
            )
        self._own_names.add(name)
        return width

    def _plan(self, seen: Trace) -> None:
        rows: dict[int, list[GateRows]] = {}
        for gate in seen.gates:
            for source in gate.sources:
                parts = rows.setdefault(source, [])
                start = parts[-1].stop if parts else 0
                initial = gate.initial if source == _BIAS else None
                parts.append(GateRows(gate.name, start, start + gate.width, initial))
        rows = {s: p for s, p in rows.items() if s != _BIAS} | {s: p for s, p in rows.items() if s == _BIAS}
        names: set[str] = set()
        for source, parts in rows.items():
            name = self._weight_name(seen, source, parts[0].gate)
            while name in names:
                name += "_"
            names.add(name)
            columns = () if source == _BIAS else (seen.body[source].width,)
            self._fused[source] = self.parameter(Parameter(name, (parts[-1].stop, *columns), tuple(parts)))
        start_of = {(p.gate, source): p.start for source, parts in rows.items() for p in parts}
        for gate in seen.gates:
            starts = tuple(start_of[gate.name, source] for source in gate.sources)
            self._positions.append(_GatePosition(starts, gate.width, 0))
        self._widen(seen.gates)

    def _widen(self, gates: list[_Gate]) -> None:
        # Maps of the same sources whose rows are adjacent in every matrix become one sum.
        open_runs: dict[tuple[int, ...], list[int]] = {}
        runs: list[list[int]] = []
        for k, gate in enumerate(gates):
            run = open_runs.get(gate.sources)
            if run is not None:
                last = self._positions[run[-1]]
                if all(s == t + last.width for s, t in zip(self._positions[k].starts, last.starts, strict=True)):
                    run.append(k)
                    continue
            open_runs[gate.sources] = run = [k]
            runs.append(run)
        for run in runs:
            first, width = self._positions[run[0]], sum(gates[k].width for k in run)
            for k in run:
                offset = self._positions[k].starts[0] - first.starts[0]
                self._positions[k] = _GatePosition(first.starts, width, offset)

    @staticmethod
    def _weight_name(seen: Trace, source: int, gate: str) -> str:
        if source == _BIAS:
            return "bias"
        leaf = seen.body[source]
        if leaf.op in seen.letters:
            return f"weight_{seen.letters[leaf.op][leaf['index']]}"
        return f"weight_{gate.replace('.', '_')}"

    def _first_run(self, gate: _Gate, sources: Sequence[Symbol]) -> Symbol:
        # The first trace only needs the gates, not the parameters.
        shapes: list[tuple[int, ...]] = [(gate.width, source.width) for source in sources] or [(gate.width,)]
        placeholders = [self.parameter(Parameter(str(len(self.parameters)), shape)) for shape in shapes]
        if not sources:
            return self.vector(placeholders[0])
        return self._sum([self.linear(s, w) for s, w in zip(sources, placeholders, strict=True)])

    def _fused_sum(self, sources: Sequence[Symbol], width: int) -> Symbol:
        assert self._seen is not None
        k = len(self.gates) - 1
        position, seen = self._positions[k], self._seen[k]
        terms = [
            self.slice(self.linear(symbol, self._fused[source]), start, position.width)
            for symbol, source, start in zip(sources, seen.sources, position.starts, strict=False)
        ]
        if seen.sources[-1] == _BIAS:
            bias = self.slice(self.vector(self._fused[_BIAS]), position.starts[-1], position.width)
            terms.insert(1, bias)  # next to the first product, usually that of x, which is computed before the loop
        return self.slice(self._sum(terms), position.offset, width)

    def _sum(self, terms: list[Symbol]) -> Symbol:
        total = terms[0]
        for term in terms[1:]:
            total = super().pointwise("add", total, term)
        return total

    # Names.

    def name_value(self, name: str, value: Symbol) -> None:
        """Name a value; a name that the cell chooses takes precedence over a linear gate's."""
        if name in self._linear:
            self._linear.remove(name)
            del self.names[name]
        super().name_value(name, value)

    def pointwise(self, op: str, *values: Symbol | Number) -> Symbol:
        """Apply a pointwise operation, which may turn a gate's pre-activation into its value."""
        result = super().pointwise(op, *values)
        gates = [v for v in values if isinstance(v, Symbol) and v.id in self._pending]
        if op in ("add", "sub") and gates:
            self.mark_gate(result, self.unmark_gate(gates[0]))
            gates = gates[1:]
        elif len(values) == 1 and gates and op != "neg":
            gate = self._pending.pop(gates[0].id)
            self.name_value(f"{gate}.pre", gates[0])
            self.name_value(gate, result)
            return result
        for value in gates:
            self._name_linear_gate(value.id)
        return result

    def unmark_gate(self, value: Symbol) -> str | None:
        """Unmark a value as a gate's pre-activation and return the gate's name."""
        return self._pending.pop(value.id, None)

    def mark_gate(self, value: Symbol, gate: str | None) -> None:
        """Mark a value as the pre-activation of a gate."""
        if gate is not None:
            self._pending[value.id] = gate

    def linear_gates(self) -> dict[str, int]:
        """Map the names of linear gates to their values, which are the pre-activations themselves."""
        return {name: id for id, gate in self._pending.items() for name in (gate, f"{gate}.pre")}

    def _name_linear_gate(self, id: int) -> None:
        gate = self._pending.pop(id)
        self.name_value(gate, Symbol(self, id))
        self.name_value(f"{gate}.pre", Symbol(self, id))
        self._linear.add(gate)


_active: ContextVar[Trace | None] = ContextVar("active trace", default=None)


def active_trace() -> Trace:
    """Return the trace in progress."""
    trace = _active.get()
    if trace is None:
        raise CellError(
            "affine, linear, parameter and layer_norm can be called only in a cell's equations: "
            "move them into a function decorated with @throughtime.cell"
        )
    return trace
