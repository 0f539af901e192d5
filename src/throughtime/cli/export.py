"""`throughtime export`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from throughtime.cli.output import console, show_rows, starting
from throughtime.errors import UserError

# By the end of a file's name, the function of `throughtime` that writes it.
_PLUGINS = {".guitarml.json": "to_guitarml", ".json": "to_rtneural", ".nam": "to_nam"}
_KINDS = (".onnx", *_PLUGINS)


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The run's directory.")],
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="The file to write; its name ends in .onnx, or for audio plugins in .json (RTNeural, AIDA-X), .nam "
            "(Neural Amp Modeler) or .guitarml.json.",
        ),
    ],
    *,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Write over a file that is there already.")] = False,
) -> None:
    """An ONNX file takes ids of symbols, or numbers, and the state, and gives the head's numbers (for text a score of
    each symbol) and the state after the last step.

    Its metadata hold the task with its codecs, such as the vocabulary. A file for plugins takes and gives one sample.
    """
    from throughtime.packages import require
    from throughtime.runs import Run

    if not file.name.endswith(_KINDS):
        raise UserError(f"{file}: what is written is told by the end of the name, which can be {', '.join(_KINDS)}.")
    if file.exists() and not overwrite:
        raise UserError(f"{file} is there already: give another name, or --overwrite.")
    opened = Run.open(run)  # before torch is loaded, so that a mistake is told at once
    for end, writer in _PLUGINS.items():
        if file.name.endswith(end):
            with starting():
                import throughtime

                getattr(throughtime, writer)(opened.model(), file)
            console().print(f"[bold]{file}[/]", markup=True)
            show_rows([("size", f"{file.stat().st_size:,} bytes")], "  ")
            return
    require("onnx")
    with starting():
        from throughtime.exchange.onnx.writing import to_onnx

        task = {"throughtime.task": json.dumps(opened.description.to_data(), ensure_ascii=False)}
        model = to_onnx(opened.model(), file, metadata=task)
    console().print(f"[bold]{file}[/]", markup=True)
    show_rows(_rows(model, file), "  ")


def _rows(model: Any, file: Path) -> list[tuple[str, str]]:
    layers = [node.op_type for node in model.graph.node if node.op_type in ("RNN", "GRU", "LSTM", "Scan")]
    return [
        ("size", f"{file.stat().st_size:,} bytes"),
        ("layers", ", ".join(layers)),
        ("takes", ", ".join(map(_declared, model.graph.input))),
        ("gives", ", ".join(map(_declared, model.graph.output))),
    ]


def _declared(value: Any) -> str:
    sizes = [size.dim_param or str(size.dim_value) for size in value.type.tensor_type.shape.dim]
    return f"{value.name} [{', '.join(sizes)}]"
