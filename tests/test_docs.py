"""Every notebook and every snippet of the README, the docs and the book runs."""

from __future__ import annotations

import re
import runpy
import shlex
import tomllib
from pathlib import Path

import pytest

from throughtime import language
from throughtime.cli.commands import COMMANDS
from throughtime.cli.main import _loaded

ROOT = Path(__file__).parent.parent
CHAPTERS = sorted((ROOT / "docs" / "book").glob("*.md"))
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *CHAPTERS])
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.py"))


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)


def title(page: Path) -> str:
    return str(page.relative_to(ROOT))


RUNNABLE = [
    pytest.param(
        page,
        id=title(page),
        marks=[pytest.mark.book] if page in CHAPTERS else [pytest.mark.slow] if page.stem == "studies" else [],
    )
    for page in PAGES
    if blocks(page, "python")
]


@pytest.mark.parametrize("page", RUNNABLE)
def test_python_snippets_run_in_order(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The snippets of a page form one program. Training runs for a few steps on a short text."""
    monkeypatch.chdir(tmp_path)
    for name in ("text.txt", "shakespeare.txt"):
        Path(name).write_text("the quick brown fox jumps over the lazy dog. " * 40, encoding="utf-8")
    Path("names").mkdir()
    for label, letters in (("Vowels", "aeiou"), ("Consonants", "bcdfg")):
        words = [letters[k % 5] * (k % 4 + 1) for k in range(40)]
        Path("names", f"{label}.txt").write_text("\n".join(words), encoding="utf-8")
    namespace: dict[str, object] = {"__name__": "__main__"}
    for number, code in enumerate(blocks(page, "python")):
        # Error messages and `throughtime cells` read the source of a cell, so it must be in a file.
        file = tmp_path / f"snippet_{number}.py"
        file.write_text(code, encoding="utf-8")
        exec(compile(code, str(file), "exec"), namespace)


@pytest.mark.book
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=title)
def test_notebooks_run(notebook: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(notebook), run_name="__main__")


@pytest.mark.parametrize("chapter", [c for c in CHAPTERS if c.stem[0].isdigit()], ids=title)
def test_every_chapter_has_figures_and_ends_with_three_experiments(chapter: Path) -> None:
    text = chapter.read_text(encoding="utf-8")
    images = re.findall(r"^!\[[^\]]+\]\((\S+\.svg)\)", text, re.M)
    assert 2 <= len(images) <= 4
    for image in images:
        assert (chapter.parent / image).exists(), "not found; draw it with: python docs/book/figures.py"
    _, _, experiments = text.rpartition("\n## ")
    assert experiments.startswith("Three experiments\n")
    assert re.findall(r"^(\d)\. ", experiments, re.M) == ["1", "2", "3"]


@pytest.mark.parametrize("page", PAGES, ids=title)
def test_commands_and_options_exist(page: Path) -> None:
    """Every `throughtime` line in a shell block uses an existing command and existing options."""
    lines = [line for block in blocks(page, "sh") for line in block.replace("\\\n", " ").splitlines()]
    for line in lines:
        found = re.search(r"(?:^|\s)throughtime (.*)", line.split("#")[0])
        if found is None:
            continue
        command, *words = shlex.split(found[1])
        assert command in COMMANDS, line
        known = {name for option in _loaded(command).params for name in (*option.opts, *option.secondary_opts)}
        for word in words:
            if word.startswith("--"):
                assert word.split("=")[0] in known, f"{line}: unknown option {word}"


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for page in [*PAGES, ROOT / "CONTRIBUTING.md"]:
        for target in re.findall(r"`make (\w+)`|^make (\w+)", page.read_text(encoding="utf-8"), re.M):
            assert re.search(rf"^{target[0] or target[1]}:", makefile, re.M), f"{page.name}: no target {target}"


def test_the_guide_to_cells_explains_every_function_of_the_language() -> None:
    text = (ROOT / "docs" / "own-cell.md").read_text(encoding="utf-8")
    rows = "\n".join(line for line in text.splitlines() if line.startswith("|"))
    for word in set(language.__all__) - {"ACTIVATIONS"}:
        assert re.search(rf"`{word}[`(]", rows), f"docs/own-cell.md does not explain {word}"


def test_the_list_of_notebooks_links_to_existing_files() -> None:
    folder = ROOT / "docs" / "notebooks"
    links = re.findall(r"\]\((\S+)\)", (folder / "index.md").read_text(encoding="utf-8"))
    assert sorted(links) == [notebook.name for notebook in NOTEBOOKS]


def test_every_extra_for_users_is_in_the_readme() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = " ".join(re.findall(r"^\| (`\[[^|]*) \|", text, re.M))
    assert set(re.findall(r"`\[(\w+)\]`", rows)) == extras.keys() - {"docs", "dev"}


@pytest.mark.parametrize("page", PAGES, ids=title)
def test_extras_are_installed_from_a_checkout(page: Path) -> None:
    """The package is not on PyPI."""
    assert not re.search(r"pip\s+install\s+'?throughtime", page.read_text(encoding="utf-8"))
