"""Format results for display."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from throughtime.tasks.base import Task


def results(task: Task[Any], result: Mapping[str, Any]) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Yield the title and the rows (see `evaluation_rows`) of each part that a finished run was evaluated on.

    Args:
        task: the task.
        result: the run's results.
    """
    for part, title in (("valid", "Validation"), ("test", "Test")):
        if result[part]:
            share = result["measured"][part]
            caveat = f", measured on {share:.0%} of the data" if share < 1 else ""
            yield f"[bold]{title}[/]{caveat}", evaluation_rows(task, result[part])


def evaluation_rows(task: Task[Any], figures: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Format an evaluation's results as label and text pairs: the network's metrics, then one line per baseline.

    Args:
        task: the task.
        figures: the metrics, with those of the baselines under "baselines".
    """
    own = {name: value for name, value in figures.items() if name != "baselines"}
    rows = task.figure_rows(own)
    for name, baseline in figures.get("baselines", {}).items():
        metrics = ", ".join(f"{label} {value}" for label, value in task.figure_rows(baseline)[: task.baseline_rows])
        rows.append(("baseline", f"{name}: {metrics}"))
    return rows
