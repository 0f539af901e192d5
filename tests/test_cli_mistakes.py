"""Mistakes on the command line: each is reported in a sentence that says what to do, without a traceback."""

import ast
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import pytest

import throughtime
from throughtime.cli.main import main
from throughtime.spelling import command_line
from throughtime.training import train

TINY = {"hidden_size": 4, "batch": 4, "steps": 1, "threads": 1, "progress": False}

# The arguments, and part of the message: what was wrong, or what to do.
MISTAKES = {
    "train table.csv": "table.csv is a table, and no option says what to learn from it: use --target and --horizon",
    "train mixture": "--task text to learn its characters",
    "train rows.json": "rows.json is JSON, which no task reads as a table: convert it to CSV or Parquet, or use --task",
    "train song.mp3": "song.mp3 is a binary file (a NUL at byte 3); convert sound files to WAV or FLAC",
    "train songs": "songs is a directory without *.txt files (it has .mp3 files); convert sound files to WAV or FLAC",
    "train sales.xlsx": "sales.xlsx is a binary file (a NUL at byte 4); save spreadsheets as CSV",
    "train tables --target value --horizon 4": "tables is not a table; expected a .csv, .tsv or .parquet file. Task: "
    "forecast (a horizon is set)",
    "train tables --season 4": "Task: forecast (--season is set)",
    "train tables --vocab-size 4": "--vocab-size is an option of text; this task is classify (a folder with one folder "
    "per label); --task chooses another",
    "train table.csv --horizon 4": "--target must name the column to forecast. Its columns are 'date', 'value'",
    "train semicolons.csv --target value --horizon 4": "the cells seem to be separated by semicolons; expected commas",
    "train table.csv --target value": "--horizon",
    "train table.csv --target nothing --horizon 4": "Its columns are 'date', 'value', 'label'",
    "train table.csv --target label --horizon 4": "must contain numbers, got 'a' in row 1",
    "train table.csv --target value --horizon 1000": "the largest possible horizon is 99",
    "train text.txt --target value": "text.txt is not a table; expected a .csv, .tsv or .parquet file",
    "train text.txt --mintues 3": "did you mean --minutes?",
    "train text.txt --minutes 0": "--minutes must be greater than 0, got 0",
    "train text.txt --minutes 3m": "--minutes must be a number, got '3m'",
    "train text.txt --hidden 1.5": "--hidden must be an integer, got '1.5'",
    "train text.txt --cell lsmt": "did you mean lstm",
    "train text.txt --cell rnn_leaky --set leak=abc": "'leak' of rnn_leaky must be a number, such as 0.5, got 'abc'",
    "train text.txt --set leak=0.3": "cell lstm has no hyper-parameter 'leak' (rnn_leaky has it); it has projection",
    "train text.txt --set depth=0.3 --cell gru": "(rhn has it)",
    "train text.txt --set activation=relu": "(rnn, rnn_relu, rnn_leaky and 9 more have it)",
    "train text.txt --decay 0.5": "--decay is for the schedules step and plateau; the schedule is cosine",
    "train names --task classify --test-share 0.9 --valid-share 0.2": "must sum to less than 1, got 0.2 and 0.9",
    "train - --task classify": "standard input is only for task text, but the task is classify",
    "predict labels -": "standard input is only for task text, but the task is classify",
    "train --task clasify --help": "did you mean classify?",
    "train text.txt --task clasify": "did you mean classify?",
    "train text.txt --level chars": "--level must be one of char, word, bpe",
    "train text.txt --lr -1": "--lr must be greater than 0, got -1",
    "train text.txt --task effect --knob gain": "--knob 'gain': expected NAME=VALUE",
    "train text.txt --set leak": "--set 'leak': expected NAME=VALUE",
    "train text.txt --devices many": "expected a number of devices",
    "train text.txt --steps 2 --out file": "file already exists; choose another directory",
    "train text.txt --steps 2 --out file/run": "choose another --out",
    "train missing.txt": "no such file",
    "train https://example.com/text.txt": "https://example.com/text.txt is a URL; download the file",
    "sample latst": "did you mean latest?",
    "sample run to be": "the text to continue is an option: use --prompt 'to be'",
    "sample run --temp 1": "did you mean --temperature?",
    "evaluate text.txt": "expected the directory of a run, or latest",
    "train tiny.txt": "use a longer text",
    "train --paired text.txt": "pairs need two files",
    "train --config missing.json": "can't read the configuration",
    "train --resume nothing": "throughtime runs lists the runs under runs/",
    "train --resume labels --lr 1": "remove --lr",
    "train --resume labels --replay labels": "remove --replay",
    "sample labels": "which can't generate samples; use predict on data instead",
    "sample": "missing argument 'RUN'",
    "sample run --temperature -1": "temperature must be",
    "evaluate labels text.txt": "unknown label 'text' (the file's name); the known labels are 'A', 'B'",
    "evaluate latest text.txt": "no run found under runs/",
    "predict run text.txt --out labels.xlsx": ".csv, .tsv, .jsonl",
    "inspect run text.txt --text x": "not both",
    "export run net.pt": ".onnx",
    "export run nowhere/net.c": "nowhere: no such file or directory; create the directory, or choose another",
    "predict labels text.txt --out nowhere/labels.csv": "nowhere: no such file or directory; create the directory",
    "sample run --out nowhere/sample.txt": "nowhere: no such file or directory; create the directory",
    "inspect run --text time --out nowhere/page.html": "nowhere: no such file or directory; create the directory",
    "info nowhere": "no such file or directory",
    "trian text.txt": "Did you mean 'train'?",
    "compare text.txt --cells lstm,foo,bar": "bar",
    "compare text.txt --seeds 0": "seeds must be",
    "compare text.txt --cell lstm": "use --cells",
    "memory --tasks addin": "error: unknown task 'addin' (did you mean adding?); expected one of adding, copy, ",
    "memory --init normal": "--init must be orthogonal, got 'normal'",
    "tune text.txt --trials 0": "trials must be",
    "bench --seconds 0": "--seconds must be",
    "horizon": "--cell NAME",
}


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """Make a directory with data of several kinds and two runs."""
    path = tmp_path_factory.mktemp("mistakes")
    rows = [f"{k},{2 * k},{'ab'[k % 2]}" for k in range(300)]
    text = "to be or not to be that is the question\n" * 60
    for name in ("mixture", "names", "songs", "tables/daily"):
        (path / name).mkdir(parents=True)
    for name, content in {
        "table.csv": "\n".join(["date,value,label", *rows]),
        "semicolons.csv": "date;value\n1;2\n",
        "mixture/table.csv": "a,b\n1,2\n",
        "mixture/text.txt": text,
        "text.txt": text,
        "tiny.txt": "x",
        "file": "x",
        "tables/daily/table.csv": "date,value\n1,2\n",
        "rows.json": '[{"value": 1}]',
        "song.mp3": "ID3\0",
        "songs/song.mp3": "ID3\0",
        "sales.xlsx": "PK\3\4\0",
        "names/A.txt": "abc\n" * 30,
        "names/B.txt": "xyz\n" * 30,
    }.items():
        (path / name).write_text(content)
    with patch("throughtime.training.loop.write_report"):
        train(data=path / "text.txt", window=10, out=path / "run", **TINY)
        train(data=path / "names", task="classify", out=path / "labels", **TINY)
    return path


@pytest.mark.parametrize("arguments", MISTAKES)
def test_mistake_is_reported_with_what_to_do(arguments, directory, monkeypatch, capsys):
    monkeypatch.chdir(directory)
    before = sorted(path.name for path in directory.iterdir())
    assert main(arguments.split()) in (1, 2)
    told = capsys.readouterr().err
    assert MISTAKES[arguments] in told
    assert "Traceback" not in told
    assert sorted(path.name for path in directory.iterdir()) == before  # no files are left behind


IN_PATHS_AND_DATA = {
    "train missing.txt": "missing.txt: no such file or directory",
    "train empty.txt": "empty.txt is empty",
    "train empty": "empty is empty; expected a directory with data",
    "train midi text.txt": "midi is a directory without *.txt files (it has .mid files)",
    "train table.csv --label label --init-from run": "error: the task classify (--label is set) doesn't match ",
    "tune text.txt --storage nonsense": "--storage nonsense: expected postgresql://HOST/NAME, sqlite:///FILE or "
    "journal:FILE",
    "train text.txt --valid missing.txt": "missing.txt: no such file or directory",
    "train text.txt --init-from missing": "missing: no such file or directory",
    "train text.txt --out labels": "labels already exists; choose another directory",
    "train text.txt --horizon 4": "expected a .csv, .tsv or .parquet file. Task: forecast (a horizon is set)",
    "train table.csv --target nothing --horizon 4": "table.csv has no column 'nothing' for --target",
    "train tiny.txt": "use a longer text",
    "train text.txt --task audio": "text.txt can't be read as sound",
    "evaluate run missing.txt": "missing.txt: no such file or directory",
    "evaluate run table.parquet": "table.parquet is not UTF-8",
    "evaluate run text.txt --windows 0": "--windows must be at least 1, got 0",
    "evaluate run text.txt --windows 3": "--windows and --step are for forecasts",
    "evaluate labels text.txt": "the known labels are 'A', 'B'",
    "predict labels missing.txt": "missing.txt: no such file or directory",
    "predict labels table.csv": "labels",
    "inspect run missing.txt": "missing.txt: no such file or directory",
    "horizon run --data missing.txt": "missing.txt: no such file or directory",
    "horizon run --data table.parquet": "table.parquet is not UTF-8",
    "compare missing.txt": "missing.txt: no such file or directory",
    "tune missing.txt": "missing.txt: no such file or directory",
}


def test_mistakes_in_paths_and_data_are_reported_before_torch_is_loaded(directory):
    (directory / "empty.txt").touch()
    for folder in ("empty", "midi"):
        (directory / folder).mkdir()
    (directory / "midi" / "a.mid").touch()
    (directory / "table.parquet").write_bytes(b"PAR1\xff\xfe" * 100)
    code = (
        "import sys\n"
        "sys.modules['torch'] = None  # an import of torch fails\n"
        "from throughtime.cli.main import main\n"
        "for arguments in sys.argv[1:]:\n"
        "    print(f'\\n{arguments} ->', main(arguments.split()), file=sys.stderr, flush=True)\n"
    )
    command = [sys.executable, "-c", code, *IN_PATHS_AND_DATA]
    printed = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=True).stderr
    for arguments, message in IN_PATHS_AND_DATA.items():
        before, _, printed = printed.partition(f"{arguments} -> 2\n")
        assert message in before, (arguments, before)


def test_folder_of_texts_reports_the_inferred_task_and_why(directory, monkeypatch, capsys):
    from throughtime import tasks

    monkeypatch.chdir(directory)
    with command_line():
        kind, why = tasks.chosen(None, {"data": ["names"]})
    assert (kind.name, why) == ("text", "a folder of text files; with --task classify each file is a label")


@pytest.mark.parametrize(("command", "usage"), [("evaluate", "RUN [DATA]..."), ("runs", "[DIR]"), ("sample", "RUN")])
def test_the_usage_marks_only_optional_arguments(command, usage, capsys):
    assert main([command, "--help"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == f"Usage: throughtime {command} [OPTIONS] {usage}"


def test_error_messages_end_without_a_period():
    def ends_with_a_period(message):
        parts = message.values if isinstance(message, ast.JoinedStr) else [message]
        text = str(parts[-1].value) if isinstance(parts[-1], ast.Constant) else ""
        return text.endswith(".") and not text.endswith("...")

    root = Path(throughtime.__file__).parent
    found, wrong = 0, []
    for path in root.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args:
                found += 1
                if ends_with_a_period(node.exc.args[0]):
                    wrong.append(f"{path.relative_to(root)}:{node.lineno}")
    assert found > 800
    assert not wrong
