"""Present a comparison as table rows and as a page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from throughtime.runs import Run
from throughtime.sight.figures import line_style, new_figure, plotly
from throughtime.sight.gradients.sampling import WINDOW
from throughtime.spelling import counted
from throughtime.studies.page import Section, study_page

PARTS = {"valid": "validation", "test": "test"}


def figure_name(result: Mapping[str, Any]) -> str:
    """Return the display name of the metric by which cells are compared."""
    label, unit = result["label"], result["unit"]
    return str(label) if unit in ("", label) else f"{label} ({unit})"


def head(result: Mapping[str, Any]) -> list[str]:
    """Return the table's column names."""
    return [
        "cell", f"{PARTS[result['part']]} {figure_name(result)}", "sd", "min", "max", "units", "parameters",
        "steps", "steps/s", "seconds", "gradient horizon before", "gradient horizon after",
    ]  # fmt: skip


def rows(result: Mapping[str, Any]) -> list[list[str]]:
    """Return the table's rows: the cells, best first, then the baselines."""
    found = [
        [
            each["cell"], *(f"{each['value'][key]:.4f}" for key in ("mean", "sd", "min", "max")),
            f"{each['hidden_size']:,}", f"{each['parameters']:,}", f"{each['steps']:,}",
            f"{each['steps_per_second']:,.1f}", f"{each['seconds']:,.1f}",
            _horizon(each["horizon_before"]), _horizon(each["horizon"]),
        ]
        for each in result["cells"]
    ]  # fmt: skip
    return found + [
        [name, f"{value:.4f}", *[""] * (len(head(result)) - 2)] for name, value in result["baselines"].items()
    ]


def claims(result: Mapping[str, Any]) -> list[str]:
    """Describe each pair's difference in one sentence; empty below 5 seeds."""
    better = "higher" if result["maximize"] else "lower"
    found = []
    for each in result["differences"]:
        one, other = each["a"], each["b"]
        if (each["mean"] > 0) != result["maximize"]:
            one, other = other, one
        size = f"{abs(each['mean']):.4f}"
        interval = f"95% interval of {each['a']} - {each['b']}: {each['low']:.4f} to {each['high']:.4f}"
        p = f"p = {each['p']:.3f}" if each["p"] >= _MIN_P else f"p < {_MIN_P}"
        found.append(
            f"{one} is better than {other}: {result['label']} {better} by {size} ({p}; {interval})."
            if each["real"]
            else f"{each['a']} and {each['b']}: no significant difference ({p}; {interval})."
        )
    return found


_MIN_P = 0.001
_BASELINE_MARGIN = 2  # a baseline is drawn if it is no farther from the cells than this multiple of their range


def comparison_page(result: Mapping[str, Any]) -> str:
    """Render the page as HTML."""
    curves = {each["cell"]: [_curve(path, result) for path in each["runs"]] for each in result["cells"]}
    budget = [f"{value:g} {name}" for name, value in result["budget"].items() if value is not None]
    seeds = counted(result["seeds"], "seed")
    quiet = range(len(result["cells"]), len(result["cells"]) + len(result["baselines"]))
    explained = (
        f"The mean {figure_name(result)} over {seeds} on the {PARTS[result['part']]} data, with the standard deviation "
        "over seeds. The gradient horizon before and after training is the number of steps after which 1% of the "
        f"gradient is left, or {WINDOW} if more is left there."
    )
    sections = [
        Section(
            "Result",
            [
                explained,
                *result["notes"],
            ],
            head(result),
            rows(result),
            list(quiet),
            [_points(result)],
        ),
        Section("Differences", claims(result) or ["Differences were not tested."]),
        Section(
            "Learning curves",
            [f"The validation {result['label']} of each run, over steps and over seconds."],
            figures=[_curves(curves, result, 0, "step"), _curves(curves, result, 1, "seconds of training")],
        ),
        Section("Size and speed", figures=[
            _bars(result, "parameters", "parameters"),
            _bars(result, "steps_per_second", "steps per second"),
            _horizons(result),
        ]),
    ]  # fmt: skip
    facts = [f"task {result['task']}", result["data"], *budget, f"about {result['parameters']:,} parameters", seeds]
    return study_page(f"Cells compared on {Path(result['data']).name}", facts, list(_nonempty(sections)))


def _nonempty(sections: Sequence[Section]) -> Iterator[Section]:
    return (section for section in sections if section.texts or section.figures)


def _horizon(value: float | None) -> str:
    return "" if value is None else f"{value:g}"


def _curve(path: str, result: Mapping[str, Any]) -> tuple[list[Any], list[Any], list[Any]]:
    """Return the steps, seconds and validation metrics of a run."""
    name = f"valid_{result['figure']}"
    found = [row for row in Run.open(path).metrics() if row.get(name) is not None]
    return [row["step"] for row in found], [row["time"] for row in found], [row[name] for row in found]


def _curves(curves: Mapping[str, Sequence[Any]], result: Mapping[str, Any], axis: int, label: str) -> Any:
    made = new_figure("", label, figure_name(result), showlegend=True)
    for k, (name, runs) in enumerate(curves.items()):
        for number, run in enumerate(runs):
            made.add_trace(
                plotly().Scatter(
                    x=run[axis], y=run[2], mode="lines", name=name, legendgroup=name, showlegend=number == 0,
                    line=line_style(k) | {"width": 1.3}, opacity=0.8,
                )
            )  # fmt: skip
    return made


def _points(result: Mapping[str, Any]) -> Any:
    made = new_figure("", "", figure_name(result))
    for k, each in enumerate(result["cells"]):
        values = each["values"]
        marker = {"color": line_style(k)["color"], "size": 9}
        made.add_trace(
            plotly().Scatter(x=[each["cell"]] * len(values), y=values, mode="markers", marker=marker, showlegend=False)
        )
    values = [value for each in result["cells"] for value in each["values"]]
    margin = _BASELINE_MARGIN * (max(values) - min(values))
    for name, value in result["baselines"].items():
        if not min(values) - margin <= value <= max(values) + margin:
            continue  # the cells would shrink to one line; the table has the value
        made.add_hline(y=value, line={"color": "#888", "dash": "dot"}, annotation_text=name)
    return made


def _bars(result: Mapping[str, Any], key: str, label: str) -> Any:
    made = new_figure("", "", label)
    names, values = [each["cell"] for each in result["cells"]], [each[key] for each in result["cells"]]
    made.add_trace(plotly().Bar(x=names, y=values, marker={"color": line_style(0)["color"]}))
    return made


def _horizons(result: Mapping[str, Any]) -> Any:
    made = new_figure("", "", "gradient horizon in steps", showlegend=True, barmode="group")
    names = [each["cell"] for each in result["cells"]]
    for k, (key, label) in enumerate((("horizon_before", "before training"), ("horizon", "after training"))):
        values = [each[key] for each in result["cells"]]
        made.add_trace(plotly().Bar(x=names, y=values, name=label, marker={"color": line_style(k)["color"]}))
    return made
