"""Every snippet of the README and the docs runs."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from throughtime import tasks

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "python")], ids=lambda p: str(p.relative_to(ROOT)))
def test_python_snippets_run_in_order(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page's snippets are one program; a training in it is cut down to a few steps of a short text."""
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text("the quick brown fox jumps over the lazy dog. " * 40, encoding="utf-8")
    namespace: dict[str, object] = {"__name__": "__main__"}
    for number, code in enumerate(blocks(page, "python")):
        # A cell's source is read for its error messages and by `throughtime cells`, so it must be in a file.
        file = tmp_path / f"snippet_{number}.py"
        file.write_text(code, encoding="utf-8")
        exec(compile(code, str(file), "exec"), namespace)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_commands_and_options_exist(page: Path) -> None:
    """Each `throughtime` line in a shell block names a command and options that its help lists."""
    lines = [line for block in blocks(page, "sh") for line in block.replace("\\\n", " ").splitlines()]
    for line in lines:
        found = re.search(r"(?:^|\s)throughtime (.*)", line.split("#")[0])
        if found is None:
            continue
        command, *words = shlex.split(found[1])
        task = []
        if command == "train" and "--task" not in words:  # the help shows the options of one task
            given = {word[2:].replace("-", "_"): True for word in words if word.startswith("--")}
            task = ["--task", tasks.chosen(None, given)[0].name]
        asked = subprocess.run(
            [sys.executable, "-m", "throughtime", command, *task, "--help"],
            capture_output=True, text=True, env=os.environ | {"COLUMNS": "200", "NO_COLOR": "1"},
        )  # fmt: skip
        assert asked.returncode == 0, f"{line}: {asked.stderr}"
        for word in words:
            if word.startswith("--"):
                assert word.split("=")[0] in asked.stdout, f"{line}: {word} is not in the help"


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for page in [*PAGES, ROOT / "CONTRIBUTING.md"]:
        for target in re.findall(r"`make (\w+)`|^make (\w+)", page.read_text(encoding="utf-8"), re.M):
            assert re.search(rf"^{target[0] or target[1]}:", makefile, re.M), f"{page.name}: make {target}"
