"""Present a search as table rows and as a page with optuna's plots."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from throughtime.studies.page import Section, study_page

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
    best = ", ".join(f"{name} {_shown(value)}" for name, value in result["best"].items())
    sections = [
        Section("Result", [*sentences(result), f"The best options: {best}."]),
        Section("History", figures=_figures(study, "plot_optimization_history", "plot_intermediate_values")),
        Section("What matters", figures=_importances(study, result)),
        Section("All trials", head=head(result), rows=rows(result)),
        Section("The search space", head=["option", "values"], rows=[list(each) for each in result["space"].items()]),
    ]
    sections = [section for section in sections if section.texts or section.figures or section.rows]
    facts = [f"task {result['task']}", result["data"], f"{len(result['trials'])} trials, {pruned} of them pruned"]
    return study_page(f"Options tuned on {result['data']}", facts, sections)


def _importances(study: Study, result: Mapping[str, Any]) -> list[Any]:
    values = {each["value"] for each in result["trials"] if each["value"] is not None}
    if len(values) < _MIN_TRIALS:  # too few to fit
        return []
    return _figures(study, "plot_param_importances", "plot_slice", "plot_parallel_coordinate")


def _figures(study: Study, *names: str) -> list[Any]:
    import optuna.visualization

    found = []
    for name in names:
        figure = getattr(optuna.visualization, name)(study)
        figure.update_layout(template="none")
        found.append(figure)
    return found


def _shown(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
