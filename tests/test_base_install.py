"""An installation with only NumPy and safetensors: errors name the extra that installs a missing package."""

import subprocess
import sys
from importlib.resources import files

import pytest

from throughtime.cli.commands import COMMANDS
from throughtime.packages import installing

EXTRAS = ("torch", "lightning", "typer", "rich", "pydantic", "tokenizers", "jinja2", "plotly", "onnx", "click")

BLOCK = f"""
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {EXTRAS}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Block())
"""


def python(code, *arguments):
    return subprocess.run([sys.executable, "-c", BLOCK + code, *arguments], capture_output=True, text=True, check=False)


def command(*arguments):
    return python("from throughtime.cli import main; sys.exit(main())", *arguments)


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"], ["train", "--help"], ["cells", "-h"]])
def test_help_lists_the_commands_and_names_the_extra_they_need(arguments):
    done = command(*arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert all(f"  {name} " in done.stdout for name in COMMANDS)
    assert "pip install '.[train]'" in done.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_fails_with_one_line_that_names_the_extra(name):
    done = command(name)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: the command needs typer, {installing('train')}\n"


def test_the_version_needs_no_extra():
    done = command("--version")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Recurrent", "throughtime.Recurrent needs torch, from the extra `torch`"),
        ("LSTM", "throughtime.LSTM needs torch, from the extra `torch`"),
        ("accelerate", "throughtime.accelerate needs torch, from the extra `torch`"),
        ("train", "pip install '.[train]'"),
        ("evaluate", "pip install '.[train]'"),
        ("sample", "pip install '.[train]'"),
    ],
)
@pytest.mark.parametrize("form", ["import throughtime; throughtime.{}", "from throughtime import {}"])
def test_importing_a_name_reports_the_extra_it_needs(name, message, form):
    done = python(
        f"try:\n    exec({form.format(name)!r})\nexcept ImportError as error:\n    print(type(error).__name__, error)"
    )
    assert done.stderr == ""
    assert done.stdout.startswith("ImportError ")
    assert message in done.stdout


def test_cells_and_streams_need_no_extra():
    done = python(
        "import throughtime; throughtime.cells.get('lstm').program(3, 4); throughtime.Stream; throughtime.cell"
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_package_contains_a_py_typed_marker():
    assert files("throughtime").joinpath("py.typed").is_file()
