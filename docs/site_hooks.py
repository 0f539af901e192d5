"""MkDocs hooks: render equations as MathML and notebooks as pages. Pages load no scripts from other servers."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File, Files

_MATH = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.S)


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Let the list of notebooks, whose links are to the Python files, link to their pages."""
    if page.file.src_uri != "notebooks/index.md":
        return markdown
    return re.sub(r"\((\w+)\.py\)", r"(\1.md)", markdown)


def on_page_content(content: str, **_: Any) -> str:
    """Convert the page's LaTeX to MathML, which browsers render natively."""
    return _MATH.sub(_mathml, content)


def _mathml(found: re.Match[str]) -> str:
    latex = html.unescape(found[3]).strip()
    lined_up = "{aligned}" in latex
    text = convert(latex.replace("{aligned}", "{align*}"), display="inline" if found[2] == "(" else "block")
    return text.replace("<mtable", '<mtable class="aligned"', 1) if lined_up else text


def on_files(files: Files, config: Any) -> Files:
    """Add a page for each notebook, a Python file in the percent format."""
    names = []
    for file in list(files):
        if file.src_uri.startswith("notebooks/") and file.src_uri.endswith(".py"):
            files.remove(file)
            source = Path(str(file.abs_src_path)).read_text(encoding="utf-8")
            page = file.src_uri.removesuffix(".py") + ".md"
            files.append(File.generated(config, page, content=notebook_page(source)))
            names.append(page)
    return files


def notebook_page(source: str) -> str:
    """Convert a notebook in the percent format to Markdown."""
    parts = []
    for cell in re.split(r"^# %%", source, flags=re.M)[1:]:
        kind, _, body = cell.partition("\n")
        if "[markdown]" in kind:
            parts.append(re.sub(r"^# ?", "", body.strip(), flags=re.M))
        else:
            parts.append(f"```python\n{body.strip()}\n```")
    return "\n\n".join(parts) + "\n"
