"""`throughtime cells`: what cells there are, and what one is made of."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Annotated, Any

import typer

from throughtime.cli.cell_option import CELL_HELP, named_cell
from throughtime.cli.output import console, show_json, show_python

if TYPE_CHECKING:
    from throughtime.program.cell import Cell
    from throughtime.program.core import Program


def cells(
    name: Annotated[str | None, typer.Argument(help=f"The cell to show: {CELL_HELP}.", metavar="NAME")] = None,
    input_size: Annotated[int, typer.Option(help="The width of x in the programs shown.")] = 3,
    hidden: Annotated[int, typer.Option(help="The number of hidden units in the programs shown.")] = 4,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, programs included.")] = False,
) -> None:
    """With a NAME: its equations, the program that they become, and the gradient's program."""
    from throughtime.cells import names

    if name is not None:
        _show_one(named_cell(name), input_size, hidden, as_json)
    elif as_json:
        show_json([_summary(named_cell(each)) for each in names()])
    else:
        _show_all([_summary(named_cell(each)) for each in names()])


def _summary(cell: Cell) -> dict[str, Any]:
    return {
        "name": cell.name,
        "meaning": cell.meaning,
        "parameters_per_unit": parameters_per_unit(cell),
        "states": [declaration.name for _, declaration in cell.states],
        "hyper": cell.hyper,
    }


def _show_all(summaries: list[dict[str, Any]]) -> None:
    from rich.markup import escape
    from rich.table import Table

    out = console()
    if out.width < _NARROW:
        for summary in summaries:
            out.print(_title(summary))
            out.print(f"  {summary['parameters_per_unit']} parameters per unit; states: {', '.join(summary['states'])}")
    else:
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", pad_edge=False)
        table.add_column("cell", no_wrap=True, style="cyan")
        table.add_column("parameters per unit", no_wrap=True)
        table.add_column("states", no_wrap=True)
        table.add_column("meaning", overflow="fold")
        for summary in summaries:
            states, meaning = ", ".join(summary["states"]), escape(summary["meaning"])
            table.add_row(summary["name"], summary["parameters_per_unit"], states, meaning)
        out.print(table)
    out.print("\nI is the width of the input, H the number of hidden units. `throughtime cells NAME` shows one.")


_NARROW = 80  # columns, below which a table's last column would be a ribbon


def _title(summary: dict[str, Any]) -> str:
    from rich.markup import escape

    meaning = f": {escape(summary['meaning'])}" if summary["meaning"] else ""
    return f"[bold cyan]{summary['name']}[/]{meaning}"


def _show_one(cell: Cell, input_size: int, hidden: int, as_json: bool) -> None:
    from throughtime.program.gradient import everything_given, everything_wanted, gradient, with_tape

    program = cell.program(input_size, hidden)
    wanted = everything_wanted(program)
    backward = gradient(with_tape(program, wanted), everything_given(program), wanted).program
    summary = _summary(cell)
    if as_json:
        show_json(summary | {"source": cell.source, "program": _data(program), "gradient": _data(backward)})
        return
    out = console()
    out.print(_title(summary))
    out.print(f"Parameters per unit: {summary['parameters_per_unit']}, for an input I wide and H units.")
    out.print("\n[bold]Equations[/]\n")
    show_python(cell.source.rstrip())
    if cell.hyper:
        out.print("\nwith " + ", ".join(f"{key} = {value!r}" for key, value in cell.hyper.items()), markup=False)
    out.print(f"\n[bold]Program[/], for an input {input_size} wide and {hidden} units\n")
    print(program)
    out.print("\n[bold]Gradient program[/], which reads what the forward run left on its tape\n")
    print(backward)


def _data(program: Program) -> Any:
    import json

    from throughtime.program.saving import to_json

    return json.loads(to_json(program))


def parameters_per_unit(cell: Cell) -> str:
    """The number of a cell's parameters divided by its hidden units, as a formula in I and H.

    The number is a polynomial, a I H + b H^2 + c H + d I + e, found from the programs of a few sizes.
    """
    step = 8  # so that a cell with heads or groups can be cut at every size

    def count(inputs: int, units: int) -> int:
        parameters = cell.program(inputs * step, units * step).parameters
        return sum(prod(p.shape) for p in parameters)

    f11, f21, f12, f22, f13 = count(1, 1), count(2, 1), count(1, 2), count(2, 2), count(1, 3)
    square = (f13 - 2 * f12 + f11) / 2
    both = f22 - f21 - f12 + f11
    inputs, units = f21 - f11 - both, f12 - f11 - both - 3 * square
    rest = f11 - both - square - inputs - units
    if both * 6 + square * 9 + units * 3 + inputs * 2 + rest != count(2, 3):
        return f"{f11 / step:g} at I = H = {step}"
    terms = [
        (both / step**2, " I"), (square / step**2, " H"), (units / step, ""), (inputs / step, " I/H"), (rest, "/H")
    ]  # fmt: skip
    return " + ".join(_term(factor, unit) for factor, unit in terms if factor) or "0"


def _term(factor: float, unit: str) -> str:
    return unit.strip() if factor == 1 and unit.startswith(" ") else f"{factor:g}{unit}"
