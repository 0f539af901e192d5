"""Present a search as table rows and as a page with optuna's plots."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from throughtime.studies.page import Section, study_page
from throughtime.studies.search import PRUNINGS

if TYPE_CHECKING:
    from optuna import Study

_MIN_TRIALS = 4  # to estimate which options matter


def head(result: Mapping[str, Any]) -> list[str]:
    """Return the table's column names."""
    return ["trial", result["figure"].replace("_", " "), *result["space"], "seconds"]


def rows(result: Mapping[str, Any]) -> list[list[str]]:
    """Return the table's rows: the trials, best first, pruned ones last."""
    trials = sorted(
        result["trials"],
        key=lambda each: (each["value"] is None, (each["value"] or 0) * (-1 if result["maximize"] else 1)),
    )
    return [
        [
            str(each["number"]),
            each["state"] if each["value"] is None else f"{each['value']:.4f}",
            *(_shown(each["options"].get(name, "")) for name in result["space"]),
            f"{each['seconds']:.1f}",
        ]
        for each in trials
    ]


def sentences(result: Mapping[str, Any]) -> list[str]:
    """Summarize the search in sentences."""
    figure = result["figure"].replace("_", " ")
    found = [f"Best on validation: {figure} {result['value']:.4f}."]
    if result["defaults"] is not None:
        found.append(f"With the default options: {figure} {result['defaults']:.4f}.")
    if result["test"] is not None:
        found.append(
            f"Best on test data, which the search did not see: {figure} {result['test'][result['figure']]:.4f}."
        )
    return found


def search_page(result: Mapping[str, Any], study: Study) -> str:
    """Render the page as HTML."""
    pruned = sum(each["value"] is None for each in result["trials"])
    figure = result["figure"].replace("_", " ")
    best = ", ".join(f"{name} {_shown(value)}" for name, value in result["best"].items())
    sections = [
        Section("Result", [*sentences(result), f"The best options: {best}."]),
        Section("History", figures=_history(study, figure)),
        Section("What matters", figures=_importances(study, result, figure)),
        Section("All trials", head=head(result), rows=rows(result)),
        Section("The search space", head=["option", "values"], rows=[list(each) for each in result["space"].items()]),
    ]
    sections = [section for section in sections if section.texts or section.figures or section.rows]
    facts = [f"task {result['task']}", result["data"], f"{len(result['trials'])} trials, {pruned} of them pruned"]
    return study_page(f"Options tuned on {Path(result['data']).name}", facts, sections)


def _history(study: Study, figure: str) -> list[Any]:
    from optuna.visualization import plot_intermediate_values, plot_optimization_history

    by_trial = plot_optimization_history(study, target_name=figure)
    by_trial.update_layout(title=f"{figure} of each trial", xaxis_title="trial", xaxis_tickformat="d")
    by_trial.update_traces(name="best so far", selector={"name": "Best Value"})
    during = plot_intermediate_values(study)
    for trace in during.data:
        trace.x = [100 * point // PRUNINGS for point in trace.x]
    during.update_layout(
        title=f"best {figure} so far, during each trial", xaxis_title="percentage of the trial's steps",
        yaxis_title=figure,
    )  # fmt: skip
    return [_plain(by_trial), _plain(during)]


def _importances(study: Study, result: Mapping[str, Any], figure: str) -> list[Any]:
    from optuna.visualization import plot_parallel_coordinate, plot_param_importances, plot_slice

    values = {each["value"] for each in result["trials"] if each["value"] is not None}
    if len(values) < _MIN_TRIALS:  # too few to fit
        return []
    shares = plot_param_importances(study, target_name=figure)
    shares.update_layout(title=f"importance of each option for the {figure}", xaxis_title="share", yaxis_title="option")
    by_value = plot_slice(study, target_name=figure)
    by_value.update_layout(title=f"{figure} by the value of each option")
    combined = plot_parallel_coordinate(study, target_name=figure)
    combined.update_layout(title=f"{figure} of each combination of options")
    return [_plain(shares), _plain(by_value), _plain(combined)]


def _plain(figure: Any) -> Any:
    """Return a figure without optuna's background."""
    return figure.update_layout(template="none")


def _shown(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
