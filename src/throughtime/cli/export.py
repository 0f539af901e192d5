"""`throughtime export`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from throughtime.cli.arguments import OverwriteOption, RunArgument
from throughtime.cli.output import console, show_rows, starting
from throughtime.errors import UserError

if TYPE_CHECKING:
    from throughtime.exchange.c.writing import CFile

# File name endings and the function of `throughtime` that writes each.
_PLUGINS = {".guitarml.json": "to_guitarml", ".json": "to_rtneural", ".nam": "to_nam"}
_KINDS = (".onnx", ".c", *_PLUGINS)


def export(
    run: RunArgument,
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="The file to write. The extension selects the format: .onnx, .c, or for audio plugins .json "
            "(RTNeural, AIDA-X), .nam (Neural Amp Modeler) or .guitarml.json.",
        ),
    ],
    *,
    overwrite: OverwriteOption = False,
    quantize: Annotated[
        str | None, typer.Option("--quantize", metavar="int8", help="Quantize the matrices of a .c file to int8.")
    ] = None,
) -> None:
    """The extension of FILE selects ONNX, C99 or an audio plugin's format.

    An ONNX file takes token ids or numbers and the state, and returns the head's output (for text, the logits) and the
    state after the last step.

    The file's metadata contain the task and its codecs, such as the vocabulary.

    A C source file comes with a header, computes one step per call, and needs only math.h.

    A plugin file takes and returns one sample per step.
    """
    from throughtime.files import require_directory_of, require_new_file
    from throughtime.packages import require
    from throughtime.runs import Run

    if not file.name.endswith(_KINDS):
        raise UserError(f"{file}: unsupported extension; use {', '.join(_KINDS)}")
    if quantize is not None and file.suffix != ".c":
        raise UserError(f"--quantize applies only to .c files, got {file}")
    for written in (file, file.with_suffix(".h")) if file.suffix == ".c" else (file,):
        require_new_file(written, overwrite)
    require_directory_of(file)
    opened = Run.open(run)  # before torch is loaded, so that mistakes are reported at once
    if file.suffix == ".c":
        from throughtime.exchange.c.writing import to_c

        wrote = to_c(opened, file, quantize=quantize)
        console().print(f"[bold]{file}[/]", markup=True)
        show_rows(_rows_of_c(wrote), "  ")
        return
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
        ("inputs", ", ".join(map(_declared, model.graph.input))),
        ("outputs", ", ".join(map(_declared, model.graph.output))),
    ]


def _rows_of_c(file: CFile) -> list[tuple[str, str]]:
    compiled = file.code_size()
    rows = [
        ("header", str(file.header)),
        *((name, text) for name, text in (("inputs", file.inputs), ("outputs", file.outputs)) if text),
        ("weights", f"{file.weights:,} bytes of constants"),
        ("RAM", f"{file.state:,} bytes of state per stream, {file.scratch:,} bytes of buffers on the stack"),
        ("code", f"{compiled[0]:,} bytes ({compiled[1]})" if compiled else "not measured: no C compiler (cc) found"),
    ]
    if file.error is not None:
        difference, largest = file.error
        rows.append(("int8 error", f"up to {difference:.2g} on outputs up to {largest:.3g} (200 random steps)"))
    return rows


def _declared(value: Any) -> str:
    sizes = [size.dim_param or str(size.dim_value) for size in value.type.tensor_type.shape.dim]
    return f"{value.name} [{', '.join(sizes)}]"
