"""`throughtime cells`: list the cells, or show one cell's equations and programs."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from throughtime.cli.cell_option import CELL_HELP, named_cell
from throughtime.cli.output import console, show_json, show_python

if TYPE_CHECKING:
    from throughtime.cells.facts import Facts
    from throughtime.program.cell import Cell
    from throughtime.program.core import Program


def cells(
    name: Annotated[str | None, typer.Argument(help=f"The cell to show: {CELL_HELP}.", metavar="NAME")] = None,
    input_size: Annotated[int, typer.Option(metavar="N", help="Input features in the programs shown.")] = 3,
    hidden: Annotated[
        int, typer.Option("--hidden-size", "--hidden", metavar="N", help="Hidden units in the programs shown.")
    ] = 4,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, including the programs.")] = False,
) -> None:
    """With NAME, show its equations, the program they compile to, and the gradient program."""
    from throughtime.cells import names
    from throughtime.cells.facts import Facts

    if name is not None:
        _show_one(named_cell(name), input_size, hidden, as_json)
    elif as_json:
        show_json([asdict(Facts.of(named_cell(each))) for each in names()])
    else:
        _show_all([Facts.of(named_cell(each)) for each in names()])


def _show_all(all_facts: list[Facts]) -> None:
    from rich.markup import escape
    from rich.table import Table

    out = console()
    if out.width < _NARROW:  # the table's last column would be too narrow to read, or left out
        for facts in all_facts:
            out.print(_title(facts))
            out.print(f"  {facts.parameters_per_unit} parameters per unit; states: {', '.join(facts.states)}")
    else:
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", pad_edge=False)
        table.add_column("cell", no_wrap=True, style="cyan")
        table.add_column("parameters per unit", no_wrap=True)
        table.add_column("states", no_wrap=True)
        table.add_column("meaning", overflow="fold")
        for facts in all_facts:
            table.add_row(facts.name, facts.parameters_per_unit, ", ".join(facts.states), escape(facts.meaning))
        out.print(table)
    out.print(
        "\nI is the number of input features, H the number of hidden units. Show one cell with: throughtime cells NAME"
    )


_NARROW = 140  # columns


def _title(facts: Facts) -> str:
    from rich.markup import escape

    meaning = f": {escape(facts.meaning)}" if facts.meaning else ""
    return f"[bold cyan]{facts.name}[/]{meaning}"


def _show_one(cell: Cell, input_size: int, hidden: int, as_json: bool) -> None:
    from throughtime.cells.facts import Facts
    from throughtime.program.gradient import everything_given, everything_wanted, gradient, with_residuals

    program = cell.program(input_size, hidden)
    wanted = everything_wanted(program)
    backward = gradient(with_residuals(program, wanted), everything_given(program), wanted).program
    facts = Facts.of(cell)
    if as_json:
        show_json(asdict(facts) | {"source": cell.source, "program": _data(program), "gradient": _data(backward)})
        return
    out = console()
    out.print(_title(facts))
    out.print(f"Parameters per unit: {facts.parameters_per_unit}, for I input features and H units.")
    out.print(f"FLOPs per unit and forward step: {facts.flops_per_unit}.")
    out.print("\n[bold]Equations[/]\n")
    show_python(cell.source.rstrip())
    if facts.inputs:
        out.print(
            f"\nRecurrent(..., inputs={list(facts.inputs)!r}) passes the extra inputs at each step.", markup=False
        )
    if cell.hyper:
        out.print("\nwith " + ", ".join(f"{key} = {value!r}" for key, value in cell.hyper.items()), markup=False)
    out.print(f"\n[bold]Program[/], for {input_size} input features and {hidden} units\n")
    print(program)
    out.print("\n[bold]Gradient program[/], which reads the residuals of the forward pass\n")
    print(backward)


def _data(program: Program) -> Any:
    import json

    from throughtime.program.saving import to_json

    return json.loads(to_json(program))
