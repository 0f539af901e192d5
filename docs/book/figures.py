"""Draw the figures of the book: `python docs/book/figures.py [CHAPTER ...]`.

A chapter's snippets are run in order. An image that follows a snippet is the `figure` that the snippet made, and is
written where the chapter's link points. Chromium draws it (`make browser` installs it).
"""

from __future__ import annotations

import json
import re
import shutil
import sys
import urllib.parse
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

BOOK = Path(__file__).resolve().parent
WIDTH, HEIGHT = 720, 360
_PIECES = re.compile(r"^```python\n(?P<code>.*?)^```|^!\[[^\]]*\]\((?P<image>[^)]+\.svg)\)", re.M | re.S)


def figures(chapter: Path) -> Iterator[tuple[Path, Any]]:
    """Run a chapter; yield the file of each image and the figure that belongs there."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    with TemporaryDirectory() as folder, chdir(folder):
        for number, piece in enumerate(_PIECES.finditer(chapter.read_text(encoding="utf-8"))):
            if piece["image"]:
                yield chapter.parent / piece["image"], namespace.pop("figure")
                continue
            source = Path(folder, f"snippet_{number}.py")  # a cell's source is read from its file
            source.write_text(piece["code"], encoding="utf-8")
            exec(compile(piece["code"], str(source), "exec"), namespace)


def browser() -> Any:
    """Chromium without a window, with plotly loaded."""
    from plotly.offline import get_plotlyjs
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    driver.get("data:text/html,<html><body></body></html>")
    driver.execute_script(get_plotlyjs() + "; window.Plotly = Plotly;")
    return driver


def svg(driver: Any, figure: Any) -> str:
    """A plotly figure as SVG on white."""
    figure.update_layout(paper_bgcolor="white", plot_bgcolor="white")
    height = figure.layout.height or HEIGHT
    script = """
        const done = arguments[arguments.length - 1], figure = JSON.parse(arguments[0]);
        Plotly.toImage(figure, {format: 'svg', width: arguments[1], height: arguments[2]}).then(done);
    """
    found = driver.execute_async_script(script, json.dumps(json.loads(figure.to_json())), WIDTH, height)
    return urllib.parse.unquote(found.partition(",")[2])


def main() -> None:
    """Draw the figures of the chapters whose names begin as the arguments do; of all if there are none."""
    wanted = tuple(sys.argv[1:]) or ("",)
    driver = browser()
    try:
        for chapter in sorted(BOOK.glob("[0-9]*.md")):
            if not chapter.name.startswith(wanted):
                continue
            for file, figure in figures(chapter):
                text = svg(driver, figure)
                file.resolve().write_text(text, encoding="utf-8")
                print(f"{file.name}  {len(text) / 1000:.0f} kB", flush=True)
    finally:
        driver.quit()


if __name__ == "__main__":
    main()
