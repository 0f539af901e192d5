"""Present the lags that cells learned as table rows and as a page."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from throughtime.sight.figures import line_style, new_figure, plotly
from throughtime.studies.page import Section, study_page
from throughtime.tasks.long_lags import LAG_TASKS

_FIGURE = (
    "The metric is the best on held-out sequences: the error for adding, for other tasks the accuracy at the steps "
    "that require memory."
)


def head(result: Mapping[str, Any]) -> list[str]:
    """Return the table's column names."""
    return ["longest lag learned", *result["settings"]["cells"]]


def rows(result: Mapping[str, Any]) -> list[list[str]]:
    """Return one row per task; "-" if no lag was learned, ">=" if the longest one was."""
    last = result["settings"]["lags"][-1]

    def shown(lag: int | None) -> str:
        return "-" if lag is None else f">= {lag}" if lag == last else str(lag)

    return [[task, *map(shown, by_cell.values())] for task, by_cell in result["longest"].items()]


def sentences(result: Mapping[str, Any]) -> list[str]:
    """State for each textbook claim whether it was reproduced."""
    words = {True: "reproduced", False: "NOT reproduced", None: "undecided"}
    return [
        f"{each['task']}: {words[each['reproduced']]}: {each['claim']} ({each['found']})." for each in result["claims"]
    ]


def memory_page(result: Mapping[str, Any]) -> str:
    """Render the page as HTML."""
    settings = result["settings"]
    remedies = [
        "forget bias " + ("1" if settings["forget_bias"] is None else f"{settings['forget_bias']:g}"),
        "orthogonal initialization" if settings["orthogonal"] else "uniform initialization",
        f"gradients clipped at {settings['clip']:g}" if settings["clip"] else "gradients not clipped",
        "chrono initialization" if settings["chrono"] else "no chrono initialization",
    ]
    facts = [
        f"{settings['minutes']:g} minutes in total, {result['seconds'] / 60:.1f} used",
        f"{settings['hidden_size']} hidden units", *remedies,
    ]  # fmt: skip
    explained = (
        "Each pair of task and cell has an equal share of the time, in which new networks learn one lag after another "
        "in increasing order, until one isn't learned. A faster machine or more minutes may reach longer lags."
    )
    attempts = [
        [each["task"], each["cell"], str(each["lag"]), "yes" if each["learned"] else "no",
         "" if each["value"] is None else f"{each['value']:.4f}", f"{each['steps']:,}", f"{each['seconds']:.1f}"]
        for each in result["attempts"]
    ]  # fmt: skip
    sections = [
        Section("The longest lag that each cell learned", [explained], head(result), rows(result),
                figures=[picture(result)]),
        Section("Textbook claims", sentences(result) or ["The claims concern the plain RNN, which was not run."]),
        Section("The tasks", [_describe(name) for name in result["longest"]]),
        Section("All attempts", [_FIGURE], ["task", "cell", "lag", "learned", "figure", "steps", "seconds"], attempts),
    ]  # fmt: skip
    return study_page("The longest lags that cells learn", facts, sections)


def picture(result: Mapping[str, Any]) -> Any:
    """Plot the longest lags as bars."""
    settings = result["settings"]
    made = new_figure("", "", "longest lag learned, in steps", barmode="group", showlegend=True)
    longest = result["longest"]
    for k, cell in enumerate(settings["cells"]):
        lags = [longest[task][cell] for task in longest]
        made.add_trace(
            plotly().Bar(
                x=list(longest), y=[lag or 1 for lag in lags], name=cell, marker={"color": line_style(k)["color"]},
                text=["none" if lag is None else str(lag) for lag in lags], textposition="outside",
            )
        )  # fmt: skip
    made.update_yaxes(type="log", tickvals=[1, *settings["lags"]], ticktext=["none", *map(str, settings["lags"])])
    return made


def _describe(name: str) -> str:
    kind = LAG_TASKS[name]
    limit = f"{'at most' if kind.figure == 'loss' else 'at least'} {kind.threshold:g}"
    what = "error" if kind.figure == "loss" else "accuracy"
    text = " ".join((inspect.getdoc(kind) or "").split())
    return f"{name}: {text} It counts as learned at an {what} of {limit}."
