"""The command as a whole: its help, its start-up time, and its error messages."""

import subprocess
import sys

import pytest

from throughtime.cli.commands import COMMANDS
from throughtime.cli.main import main
from throughtime.errors import DataError, Interrupted
from throughtime.packages import installing


def run(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "throughtime", *arguments], capture_output=True, text=True, check=False, **options
    )  # type: ignore[call-overload,no-any-return]


@pytest.fixture
def failing(monkeypatch):
    """Make the command `info` raise an error."""

    def fail_with(error):
        def info():
            raise error

        monkeypatch.setattr("throughtime.cli.info.info", info)

    return fail_with


def test_help_lists_every_command(capsys):
    assert main(["--help"]) == 0
    help_ = capsys.readouterr().out
    assert all(f"  {name} " in help_ for name in ("train", "evaluate", "sample", "cells", "info"))


def test_no_command_shows_help(capsys):
    assert main([]) == 0
    assert "Commands:" in capsys.readouterr().out


HEAVY = {"torch", "lightning", "torchmetrics", "numpy", "polars", "sklearn", "scipy", "tokenizers", "rich", "plotly"}


@pytest.mark.parametrize(("command", "heavy"), [([], HEAVY | {"pydantic"}), *(([name], HEAVY) for name in COMMANDS)])
def test_help_imports_nothing_heavy(command, heavy):
    code = f"from throughtime.cli.main import main; main({[*command, '--help']})"
    assert imported_by(code) & heavy == set()


@pytest.mark.parametrize("task", ["notes", "forecast"])
def test_help_of_a_task_imports_nothing_heavy(task):
    assert imported_by(
        f"from throughtime.cli.main import main; main(['train', '--task', {task!r}, '--help'])"
    ).isdisjoint(HEAVY)


@pytest.mark.parametrize(("command", "expected"), [("cells", "1000"), ("bench", "None")])
def test_idle_threads_of_torch_sleep_except_in_benchmarks(command, expected):
    code = (
        f"import os; os.environ.pop('GOMP_SPINCOUNT', None)\n"
        f"from throughtime.cli.main import main; main([{command!r}, '--help'])\n"
        f"import sys; print(os.environ.get('GOMP_SPINCOUNT'), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == expected


def imported_by(code: str) -> set[str]:
    """Return the modules and packages that a program in a new process imports."""
    code += "\nimport sys; print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stderr.split())


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["trian"], "'train'"),
        (["cells", "--hiden", "3"], "did you mean --hidden?"),
        (["cells", "--hidden", "many"], "'--hidden'"),
        (["cells", "lstm", "gru"], "extra argument"),
        (["cells", "lsmt"], "did you mean lstm"),
    ],
)
def test_mistakes_are_reported_in_one_message(arguments, told, capsys):
    assert main(arguments) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert error.startswith("error: ")
    assert told in error


def test_user_errors_are_reported_without_a_traceback(failing, capsys):
    failing(DataError("the file x is empty; expected a text file"))
    assert main(["info"]) == 2
    assert capsys.readouterr().err == "error: the file x is empty; expected a text file\n"


def test_missing_package_error_names_the_extra(failing, capsys):
    failing(ModuleNotFoundError("No module named 'torch'", name="torch"))
    assert main(["info"]) == 2
    assert capsys.readouterr().err == f"error: this command needs torch, {installing('train')}\n"


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(28, "No space left on device", "run/model.safetensors"), "disk full: run/model.safetensors"),
        (PermissionError(13, "Permission denied", "run"), "permission denied: run"),
    ],
)
def test_system_errors_are_reported(error, told, failing, capsys):
    failing(error)
    assert main(["info"]) == 1
    assert capsys.readouterr().err.startswith(f"error: {told}")


def test_interruption_is_reported(failing, capsys):
    failing(KeyboardInterrupt())
    assert main(["info"]) == 130
    assert capsys.readouterr().err == "Interrupted.\n"


def test_a_stopped_training_is_not_called_an_error(failing, capsys):
    failing(Interrupted("training was stopped at step 3. Resume with: throughtime train --resume runs/x"))
    assert main(["info"]) == 130
    assert capsys.readouterr().err.startswith("Training was stopped at step 3. ")


def test_bugs_keep_their_traceback(failing):
    failing(ZeroDivisionError("a bug"))
    with pytest.raises(ZeroDivisionError):
        main(["info"])


def test_broken_pipe_is_not_an_error():
    code = "import sys; from throughtime.cli.main import main; sys.exit(main(['cells', '--json']))"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""


def test_the_module_is_the_command():
    done = run("--version")
    assert done.returncode == 0
    assert done.stdout.strip()


def test_a_pipe_receives_no_color():
    assert "\x1b" not in run("cells", "lstm").stdout
    assert "\x1b" not in run("cells", "lsmt").stderr


def test_unknown_cell_suggests_the_three_nearest(capsys):
    assert main(["cells", "lstm_np_"]) == 2
    names = capsys.readouterr().err.partition("did you mean ")[2].partition("?")[0]
    assert len(names.replace(" or ", ", ").split(", ")) == 3
    assert names.startswith("lstm_np, ")
