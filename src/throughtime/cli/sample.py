"""`throughtime sample`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from throughtime.cli.arguments import EngineOption, OverwriteOption, RunArgument
from throughtime.cli.output import announce, starting
from throughtime.errors import UserError
from throughtime.files import require_directory_of, require_new_file
from throughtime.paths import display_path


def sample(
    run: RunArgument,
    text: Annotated[list[str] | None, typer.Argument(hidden=True)] = None,
    *,
    prompt: Annotated[
        str,
        typer.Option(
            metavar="TEXT|FILE", help="The text to continue, or a file of notes or sound.", show_default=False
        ),
    ] = "",
    length: Annotated[
        int | None,
        typer.Option(metavar="N", help="Tokens, steps or samples to generate. Default: 500, or 3 s of sound."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="File to write. Default: print text, or write RUN/sample.mid or RUN/sample.wav."
        ),
    ] = None,
    temperature: Annotated[
        float,
        typer.Option(metavar="T", help="Sampling temperature; 0 always takes the most likely token."),
    ] = 1.0,
    top_k: Annotated[int | None, typer.Option(metavar="K", help="Sample from the K most likely tokens only.")] = None,
    top_p: Annotated[
        float | None,
        typer.Option(metavar="P", help="Sample from the smallest set of tokens with total probability P."),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="S", help="Random seed; the same seed generates the same text.")] = 0,
    overwrite: OverwriteOption = False,
    engine: EngineOption = None,
) -> None:
    """Text is printed after the prompt as it is generated; notes and sound are written to a file."""
    from throughtime.runs import Run
    from throughtime.tasks.generative import Generative

    if text:
        raise UserError(f"the text to continue is an option: use --prompt {shlex.quote(' '.join(text))}")
    opened = Run.open(run)  # before torch is loaded, so that mistakes are reported at once
    if out is not None:
        require_directory_of(out)
        require_new_file(out, overwrite)
    announce(opened)
    with starting():
        from throughtime.training.inference import sample as pieces_of

        pieces = pieces_of(
            opened, prompt, length=length, seed=seed, engine=engine, temperature=temperature, top_k=top_k, top_p=top_p
        )
    task = opened.task
    assert isinstance(task, Generative)
    if task.extension is None and out is None:
        print(prompt, end="", flush=True)
        for piece in pieces:
            print(piece, end="", flush=True)
        print()
        return
    path = out if out is not None else opened.path / f"sample{task.extension}"
    task.write_sample(pieces, path, prompt, opened.description.codecs)
    print(f"Saved to {display_path(path)}")
