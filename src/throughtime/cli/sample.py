"""`throughtime sample`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from throughtime.cli.output import announce, starting
from throughtime.paths import display_path
from throughtime.tasks.base import Generative


def sample(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The run's directory, or latest.")],
    *,
    prompt: Annotated[
        str,
        typer.Option(
            metavar="TEXT|FILE", help="The text, or the file of notes or sound, to continue.", show_default=False
        ),
    ] = "",
    length: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="How many symbols, steps or samples to write; 500, or 3 s of sound, if not given."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where to write; text is printed if not given.")
    ] = None,
    temperature: Annotated[
        float,
        typer.Option(metavar="T", help="Below 1 is more cautious; 0 takes the likeliest symbol each time."),
    ] = 1.0,
    top_k: Annotated[int | None, typer.Option(metavar="K", help="Choose among the K likeliest symbols only.")] = None,
    top_p: Annotated[
        float | None,
        typer.Option(metavar="P", help="Choose among the likeliest symbols only that share the probability P."),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="S", help="The same seed gives the same text.")] = 0,
    engine: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="What runs the recurrent layers; as in training if not given."),
    ] = None,
) -> None:
    """Text is printed as it is made, after the prompt; notes and sound are written to a file."""
    from throughtime.runs import Run

    opened = Run.open(run)  # before torch is loaded, so that a mistake is told at once
    announce(opened)
    draw = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
    usual = {"temperature": 1.0, "top_k": None, "top_p": None}
    draw = {name: value for name, value in draw.items() if value != usual[name]}
    with starting():
        from throughtime.training.inference import sample as pieces_of

        pieces = pieces_of(opened, prompt, length=length, seed=seed, engine=engine, **draw)
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
    print(display_path(path))
