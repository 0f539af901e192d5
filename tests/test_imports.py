"""The layers of the package: modules import only from their own layer and lower ones, without cycles."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import throughtime

ROOT = Path(throughtime.__file__).parent
LAYERS = [
    {"arrays", "errors", "files", "levels", "options", "packages", "paths", "spelling", "tables"},
    {"language", "program"},
    {"cells"},
    {"codecs", "engines", "outputs", "stored", "task_description"},
    {"losses"},
    {"data", "model_file"},
    {"gradient_check", "nn", "streaming"},
    {"tasks"},
    {"acceleration", "exchange", "runs", "sight", "training"},
    {"estimators", "saved_estimator", "forecaster", "studies"},
    {"bench", "cli"},
]
RANKS = {name: rank for rank, names in enumerate(LAYERS) for name in names}


def modules():
    for path in ROOT.rglob("*.py"):
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


NAMES = {name for name, _ in modules()}


def imported(path):
    """Yield the package's modules that a module imports at run time, without imports for types or inside functions."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "throughtime":
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in NAMES else node.module


def part(name):
    return name.split(".")[1] if "." in name else ""


def test_every_part_has_a_layer():
    assert {part(name) for name in NAMES} - {"", "__main__"} <= RANKS.keys()


def test_imports_go_downward_only():
    upward = [
        f"{name} imports {other}"
        for name, path in modules()
        for other in imported(path)
        if part(name) in RANKS and part(other) and RANKS[part(other)] > RANKS[part(name)]
    ]
    assert upward == []


def test_there_are_no_import_cycles():
    graph = {name: {other for other in imported(path) if other != "throughtime"} - {name} for name, path in modules()}
    TopologicalSorter(graph).prepare()
