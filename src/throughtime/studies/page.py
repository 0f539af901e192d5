"""Render a study as one self-contained HTML file."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from throughtime import __version__
from throughtime.errors import UserError
from throughtime.packages import installing
from throughtime.sight.figures import plotly
from throughtime.sight.report.packing import as_json
from throughtime.sight.report.render import asset

_STYLE = """
table { border-collapse: collapse; margin: 0.5rem 0 1rem; font-size: 0.95rem; }
th, td { padding: 0.3rem 0.9rem 0.3rem 0; text-align: right; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; }
th { font-weight: 600; }
tr.baseline td { color: var(--quiet); }
.figure { background: #fff; border-radius: 6px; }
.top > * { grid-column: 1 / -1; }
section { margin-top: 2rem; overflow-x: auto; }
"""

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; script-src 'nonce-{{ nonce }}'; style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'; form-action 'none'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="throughtime study">
<title>{{ title }}</title>
<style>{{ css }}</style>
</head>
<body>
<header class="top"><div><p class="brand">throughtime</p><h1>{{ title }}</h1></div>
<ul class="facts">{% for fact in facts %}<li>{{ fact }}</li>{% endfor %}</ul></header>
<main>
{% for section in sections %}
<section>
<h2>{{ section.title }}</h2>
{% for text in section.texts %}<p class="lede">{{ text }}</p>
{% endfor %}
{% if section.head %}<table><thead><tr>{% for cell in section.head %}<th>{{ cell }}</th>{% endfor %}</tr></thead>
<tbody>{% for row in section.rows %}<tr{% if loop.index0 in section.quiet %} class="baseline"{% endif %}>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</tbody></table>{% endif %}
{% for number in section.numbers %}<div class="figure" id="figure-{{ number }}"></div>
{% endfor %}
</section>
{% endfor %}
</main>
<footer>Made by throughtime {{ version }}. This file is self-contained and works offline.</footer>
<script type="application/json" id="figures">{{ json }}</script>
<script nonce="{{ nonce }}">{{ plotly }}</script>
<script nonce="{{ nonce }}">
"use strict";
JSON.parse(document.getElementById("figures").textContent).forEach((figure, k) =>
  Plotly.newPlot("figure-" + k, figure.data, figure.layout, {displayModeBar: false, responsive: true}));
</script>
</body>
</html>
"""  # noqa: E501


@dataclass
class Section:
    """A section of a page: a heading, and optionally sentences, a table and figures.

    Attributes:
        title: the heading.
        texts: the sentences below it.
        head: the table's column names.
        rows: the table's rows.
        quiet: the indices of rows to show in a lighter color.
        figures: plotly figures.
    """

    title: str
    texts: Sequence[str] = ()
    head: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    quiet: Sequence[int] = ()
    figures: Sequence[Any] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)


def study_page(title: str, facts: Sequence[str], sections: Sequence[Section]) -> str:
    """Render the page as HTML.

    Raises:
        UserError: if jinja2 or plotly is missing.
    """
    try:
        import jinja2
        from markupsafe import Markup
    except ModuleNotFoundError:
        raise UserError(f"the page needs jinja2, {installing('report')}") from None
    plotly()
    from plotly.offline import get_plotlyjs

    contents: list[dict[str, Any]] = []
    for section in sections:
        section.numbers = list(range(len(contents), len(contents) + len(section.figures)))
        contents += [_content(figure) for figure in section.figures]
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    return environment.from_string(_PAGE).render(
        title=title,
        facts=facts,
        sections=sections,
        nonce=secrets.token_urlsafe(16),
        css=Markup(asset("page.css") + _STYLE),
        json=Markup(as_json(contents)),
        plotly=Markup(get_plotlyjs()),
        version=__version__,
    )


def _content(figure: Any) -> dict[str, Any]:
    """Convert a figure to plain data, without NumPy arrays or plotly's packed arrays."""
    found: dict[str, Any] = {"data": [_plain(trace.to_plotly_json()) for trace in figure.data]}
    found["layout"] = _plain(figure.layout.to_plotly_json())
    return found


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value
