"""`throughtime sample`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from throughtime.cli.output import starting


def sample(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The run's directory.")],
    *,
    prompt: Annotated[str, typer.Option(metavar="TEXT", help="The text to continue.", show_default=False)] = "",
    length: Annotated[int, typer.Option(metavar="N", help="How many symbols to write.")] = 500,
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
    """The text is printed as it is made, after the prompt."""
    from throughtime.runs import Run

    opened = Run.open(run)  # before torch is loaded, so that a mistake is told at once
    with starting():
        from throughtime.training.sampling import sample as pieces_of

        pieces = pieces_of(
            opened, prompt, length=length, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed, engine=engine
        )
    print(prompt, end="", flush=True)
    for piece in pieces:
        print(piece, end="", flush=True)
    print()
