"""The commands for runs (train, evaluate, sample, info) with a small, briefly trained network."""

import errno
import inspect
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from contextlib import redirect_stdout
from datetime import datetime, timedelta
from io import StringIO
from pathlib import Path
from unittest.mock import patch

import pytest

import throughtime
from throughtime import tasks
from throughtime.cli import train as train_command
from throughtime.cli.config_options import from_file
from throughtime.cli.main import main
from throughtime.cli.sample import sample as sample_command
from throughtime.errors import RunError
from throughtime.runs import Run
from throughtime.spelling import command, command_line, flag
from throughtime.tasks.generative import Sampling
from throughtime.training import sample
from throughtime.training.config import TrainConfig, TrainingOptions

TEXT = "the quick brown fox jumps over the lazy dog\n" * 60
SMALL = ["--hidden", "8", "--layers", "1", "--window", "10", "--batch", "4", "--threads", "1"]


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "text.txt"
    path.write_text(TEXT)
    return path


@pytest.fixture(scope="module")
def trained(text):
    """Train a run; return its directory and the command's output."""
    path, printed = text.parent / "a run", StringIO()
    with redirect_stdout(printed):
        assert main(["train", str(text), *SMALL, "--steps", "4", "--tie", "--out", str(path)]) == 0
    return path, printed.getvalue()


def test_training_prints_metrics_samples_and_next_commands(trained):
    path, printed = trained
    assert "nats per character" in printed
    assert "Sample 1" in printed
    assert f"throughtime sample '{path}'" in printed


def test_printed_next_commands_run_unchanged(trained, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    lines = [line for line in trained[1].splitlines() if line.startswith("  throughtime ")]
    assert [line.split()[1] for line in lines] == ["sample", "inspect", "info"]
    for line in lines:
        assert main(shlex.split(line)[1:]) == 0


def test_printed_commands_match_how_the_program_was_started(tmp_path, monkeypatch):
    program = tmp_path / "bin" / "throughtime"
    program.parent.mkdir()
    program.write_text("#!/bin/sh")
    program.chmod(0o755)
    assert command("info") == "throughtime info"
    with command_line():
        monkeypatch.setattr(sys, "argv", [str(program)])
        monkeypatch.setenv("PATH", "/nowhere")
        assert command("info") == f"{program} info"
        monkeypatch.setenv("PATH", str(program.parent))
        assert command("info") == "throughtime info"
        monkeypatch.setattr(sys, "argv", ["throughtime/__main__.py"])
        assert command("info") == f"{sys.executable} -m throughtime info"


def test_options_reach_the_configuration(trained):
    config = Run.open(trained[0]).config
    network, training = config.network, config.training
    assert (network.hidden_size, network.num_layers, network.tie) == (8, 1, True)
    assert (config.task.window, training.batch, training.steps) == (10, 4, 4)
    assert training.optimizer == TrainingOptions.model_fields["optimizer"].default


def test_json_is_the_only_standard_output(text, tmp_path, capsys):
    arguments = ["--steps", "2", "--level", "word", "--cell", "gru", "--out", str(tmp_path / "run"), "--json"]
    assert main(["train", str(text), *SMALL, *arguments]) == 0
    out, error = capsys.readouterr()
    result = json.loads(out)
    assert result["run"] == str(tmp_path / "run")
    assert result["valid"]["loss"] > 0
    assert "Sample 1" in error


def test_command_line_overrides_options_from_a_file(text, tmp_path, capsys):
    config, out = tmp_path / "config.json", tmp_path / "run"
    config.write_text(json.dumps({"hidden_size": 9, "num_layers": 3, "batch": 4, "steps": 1}))
    assert main(["train", str(text), "--config", str(config), "--layers", "1", "--out", str(out), "--json"]) == 0
    used = Run.open(out).config.network
    assert (used.hidden_size, used.num_layers) == (9, 1)


def test_configuration_of_a_run_can_be_reused(trained, tmp_path, capsys):
    arguments = ["--config", str(trained[0] / "config.json"), "--hidden", "6", "--out", str(tmp_path / "run")]
    assert main(["train", *arguments]) == 0
    new = {"hidden_size": 6, "out": str(tmp_path / "run")}
    assert Run.open(tmp_path / "run").config.given == Run.open(trained[0]).config.given | new


def test_user_defined_cell_is_trained_and_its_file_not_needed_afterwards(text, tmp_path, capsys):
    own = tmp_path / "own.py"
    own.write_text(
        "from throughtime.language import affine, cell, tanh\n"
        "@cell\n"
        "def leaky(x, h):\n"
        "    return 0.5 * h + 0.5 * tanh(affine('candidate', x, h))\n"
    )
    out = str(tmp_path / "run")
    assert main(["train", str(text), *SMALL, "--cell", f"{own}:leaky", "--steps", "2", "--out", out]) == 0
    own.unlink()
    assert main(["sample", out, "--length", "5"]) == 0
    assert main(["info", out]) == 0
    assert "1 x leaky" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--hidden", "0", "--lr", "-1"], ["hidden", "lr"]),
        (["--hidden", "many"], ["hidden", "many"]),
        (["--level", "chra"], ["did you mean char?"]),
        (["--cell", "lsmt"], ["did you mean lstm"]),
        (["--engine", "referense"], ["did you mean reference?"]),
        (["--minuts", "3"], ["did you mean --minutes?"]),
        (["no-such-file.txt"], ["no-such-file.txt"]),
        (["--resume", "somewhere", "--hidden", "3"], ["remove --hidden"]),
        (["--resume", "nowhere"], ["nowhere"]),
        (["--config", "nothing.json"], ["nothing.json"]),
    ],
)
def test_invalid_arguments_are_reported_and_nothing_is_written(arguments, told, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["train", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert all(word in error for word in told)
    assert list(tmp_path.iterdir()) == []


def test_a_run_is_a_configuration(trained):
    assert from_file(trained[0]) == from_file(trained[0] / "config.json") != {}


@pytest.mark.parametrize(
    ("content", "told"), [("{", "not JSON"), ("[1]", "JSON object"), ('{"hiden": 3}', "did you mean hidden_size?")]
)
def test_invalid_configuration_files_raise(content, told, tmp_path, capsys):
    path = tmp_path / "config.json"
    path.write_text(content)
    assert main(["train", "--config", str(path)]) == 2
    assert told in capsys.readouterr().err


def test_every_configuration_field_is_an_option_with_help(capsys):
    assert main(["train", "--help"]) == 0
    help_ = capsys.readouterr().out
    shown = {line.split()[0].rstrip(","): line for line in help_.splitlines() if line.startswith("  -")}
    assert set(shown) == {flag(name) for name in TrainConfig.of().given if name != "data"} | {
        "--resume", "--replay", "--config", "--json", "-h",
    }  # fmt: skip
    assert f"[default: {TrainConfig.of().network.hidden_size}]" in " ".join(help_.split())


def test_resuming_a_finished_run_shows_it(trained, capsys):
    assert main(["train", "--resume", str(trained[0]), "--json"]) == 0
    out, error = capsys.readouterr()
    assert json.loads(out) == Run.open(trained[0]).result
    assert "is already finished, after 4 steps" in error
    assert main(["train", "--resume", str(trained[0])]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"{trained[0]} is already finished, after 4 steps and ")
    assert line.endswith("set a later end, counted from its first step, with one of --steps, --epochs, --minutes")


@pytest.fixture
def several(trained, tmp_path, monkeypatch):
    """Make a directory with two runs under `runs`, the second of which is newer."""
    monkeypatch.chdir(tmp_path)
    for k, name in enumerate(("b", "a")):
        shutil.copytree(trained[0], tmp_path / "runs" / name)
        os.utime(tmp_path / "runs" / name / "program.json", (1000 + k, 1000 + k))
    return tmp_path


def test_runs_are_listed(several, trained, capsys):
    assert main(["runs"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["run", "runs/b", "runs/a"]
    loss = Run.open(trained[0]).result["valid"]["loss"]
    assert all(word in lines[1] for word in ("text", "1 x lstm 8", "text.txt", f"valid loss {loss:.4f}"))
    assert lines[1].split()[-1] in ("now", "ago")  # on a busy machine, the run may be minutes old
    assert main(["runs", str(several / "runs"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(each["value"], each["state"]) for each in found] == [(loss, "finished")] * 2


def test_runs_show_the_test_result_and_whether_it_is_of_all_data(several, capsys):
    (several / "runs" / "a" / "result.json").unlink()
    file = several / "runs" / "b" / "result.json"
    result = json.loads(file.read_text())
    file.write_text(json.dumps(result | {"test": {"loss": 1.25}, "measured": {"valid": 1.0, "test": 0.5}}))
    assert main(["runs"]) == 0
    shown = capsys.readouterr().out
    assert "test loss ~1.2500" in shown.splitlines()[1]
    assert shown.splitlines()[2].endswith(", not finished")
    assert "~ measured on part of the data" in shown
    assert str(Run.open(several / "runs" / "b").headline()) == "test loss ~1.2500"


@pytest.mark.parametrize("columns", [50, 80, 100])
def test_a_narrow_terminal_shortens_only_the_names_of_runs_and_data(several, columns, capsys, monkeypatch):
    long = several / "runs" / "20260102-030405-lstm-a-text-with-a-long-name"
    shutil.move(several / "runs" / "b", long)
    file = long / "config.json"
    record = json.loads(file.read_text())
    record["created"] = (datetime.now().astimezone() - timedelta(minutes=26.5)).isoformat()
    record["data"]["name"] = "a-text-with-a-long-name.txt"
    file.write_text(json.dumps(record))
    assert main(["runs"]) == 0
    piped = capsys.readouterr().out
    assert piped.splitlines()[1].startswith(
        "runs/20260102-030405-lstm-a-text-with-a-long-name  text  1 x lstm 8  a-text-"
    )
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert main(["runs"]) == 0
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("runs/20260102-030405", "text", "1 x lstm 8", " loss ", "26 minutes ago"))
    assert all(len(line) <= columns for line in re.sub(r"\x1b\[\d*m", "", shown).splitlines())
    assert ("…" in shown) == (columns > 50)


def test_damaged_run_is_listed_after_the_others(several, capsys):
    (several / "runs" / "b" / "config.json").write_text("{")
    assert main(["runs"]) == 0
    out = capsys.readouterr().out
    assert "runs/a" in out.splitlines()[1]
    assert "runs/b is damaged" in out


def test_empty_directory_says_there_are_no_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["runs"]) == 0
    assert "No runs in runs" in capsys.readouterr().out
    assert main(["runs", "nowhere"]) == 2
    assert main(["info", "latest"]) == 2
    assert "no run found under runs/" in capsys.readouterr().err


def test_latest_is_the_newest_run(several, text, capsys):
    for name, *rest in (["info"], ["evaluate", str(text)], ["sample", "--length", "3"], ["predict", str(text)]):
        assert main([name, "latest", *rest]) == 0
        out, error = capsys.readouterr()
        assert "runs/a" in out + error
    for name, *rest in (["export", "net.onnx"], ["horizon", "--steps", "30"], ["inspect", "--length", "20"]):
        assert main([name, "latest", *rest]) == 0
    assert (several / "runs" / "a" / "inspect.html").is_file()
    assert main(["train", "--resume", "latest"]) == 0
    assert "runs/a is already finished" in capsys.readouterr().out
    small = ["--batch", "4", "--window", "10", "--threads", "1", "--steps", "1", "--out", "new"]
    assert main(["train", str(text), "--init-from", "latest", *small]) == 0
    assert f"starting from the weights of {several / 'runs' / 'a'}\n" in capsys.readouterr().err
    assert Run.open("new").config.network.init_from == str(several / "runs" / "a")


def test_latest_is_the_newest_run_in_python_too(several):
    (several / "runs" / "b" / "model.safetensors").unlink()  # reading the older run would fail
    assert throughtime.load("latest").recurrent.hidden_size == 8
    assert throughtime.Stream("latest").step(0).shape == (Run.open("latest").description.codecs.inputs.size,)
    assert throughtime.to_c("latest", several / "net.c").weights > 0
    assert throughtime.sight.compare("latest", "rnn", hidden=4).a.name == "runs/a"
    assert throughtime.training.resume("latest", progress=False).path == Path("runs/a")
    with pytest.raises(RunError, match="latset: no such file or directory"):
        throughtime.Stream("latset")


def test_commands_announce_the_run_and_the_data(trained, text, capsys):
    assert main(["evaluate", str(trained[0]), str(text)]) == 0
    assert capsys.readouterr().err.splitlines()[0] == f"run {trained[0]} (text, 1 x lstm, 8 units) reads {text}"


def test_a_prompt_of_unknown_characters_is_reported(trained, capsys, caplog):
    assert main(["sample", str(trained[0]), "--prompt", "the 3\u2603 3", "--length", "3"]) == 0
    assert "the prompt has 2 characters not seen in training: '3', '\u2603'; read as <unk>" in caplog.text


def test_a_cells_options_are_set(text, tmp_path, capsys):
    out = str(tmp_path / "run")
    given = ["--cell", "rnn_leaky", "--set", "leak=0.3", "--set", "activation=relu", "--steps", "2", "--out", out]
    assert main(["train", str(text), *SMALL, *given]) == 0
    run = Run.open(out)
    assert run.config.network.cell_options == {"leak": 0.3, "activation": "relu"}
    assert run.programs[0] == throughtime.cells.rnn_leaky.program(8, 8, leak=0.3, activation="relu")
    capsys.readouterr()
    for wrong, told in (("leek=1", "did you mean leak?"), ("leak", "expected NAME=VALUE"), ("leak=many", "rnn_leaky")):
        assert main(["train", str(text), *SMALL, "--cell", "rnn_leaky", "--set", wrong]) == 2
        assert told in capsys.readouterr().err


def test_a_run_is_used_from_python(trained, text):
    run = Run.open(trained[0])
    assert run.evaluate(text) == throughtime.evaluate(run, text)
    assert run.sample("the ", length=20, seed=1) == "".join(sample(run, "the ", length=20, seed=1))
    assert next(iter(run.predict(text).rows)) == next(iter(throughtime.predict(run, text).rows))


def test_evaluate_prints_metrics_or_json(trained, text, capsys):
    assert main(["evaluate", str(trained[0]), str(text)]) == 0
    assert f"{len(TEXT) - 1:,} predicted" in capsys.readouterr().out
    assert main(["evaluate", str(trained[0]), str(text), "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert {"loss", "perplexity", "bits_per_token", "tokens"} <= set(figures)
    assert figures["tokens"] == len(TEXT) - 1


def test_evaluation_without_data_uses_the_held_out_data(trained, capsys):
    assert main(["evaluate", str(trained[0])]) == 0
    out, err = capsys.readouterr()
    assert "reads the validation data" in err
    assert "note: " not in err
    shown = Run.open(trained[0]).result["valid"]
    assert f"{shown['loss']:.4f} nats per character" in out
    assert f"{shown['tokens']:,.0f} predicted" in out


def test_evaluation_on_training_data_is_pointed_out(trained, text, capsys):
    assert main(["evaluate", str(trained[0]), str(text)]) == 0
    assert f"note: the run was trained on data in {text}; " in capsys.readouterr().err
    run, nested = Run.open(trained[0]), text.parent / "nowhere" / ".." / text.name
    assert run.trained_on([text.parent, nested, "-", text.with_name("other.txt")]) == [str(text.parent), str(nested)]


def test_evaluation_reports_unknown_characters(trained, tmp_path, capsys):
    other = tmp_path / "other.txt"
    other.write_text("the 3 dogs\n")
    assert main(["evaluate", str(trained[0]), str(other)]) == 0
    assert "1 character not seen in training" in capsys.readouterr().out


def test_evaluation_rejects_or_replaces_bytes_that_are_not_utf8(trained, tmp_path, capsys):
    other = tmp_path / "other.txt"
    other.write_bytes(b"the caf\xe9 over there\n")
    assert main(["evaluate", str(trained[0]), str(other)]) == 2
    assert "--encoding-errors replace" in capsys.readouterr().err
    assert main(["evaluate", str(trained[0]), str(other), "--encoding-errors", "replace"]) == 0


def test_sampling_continues_the_prompt_and_is_reproducible(trained, capsys):
    texts = []
    for seed in ("1", "1", "2"):
        assert main(["sample", str(trained[0]), "--prompt", "the ", "--length", "30", "--seed", seed]) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0].startswith("the ")
    assert len(texts[0]) == len("the ") + 30 + len("\n")
    assert texts[0] == texts[1] != texts[2]


def test_defaults_of_sample_match_the_function():
    here = inspect.signature(sample_command).parameters
    for function in (sample, Sampling):
        for name, parameter in inspect.signature(function).parameters.items():
            if name != "draw" and parameter.default is not parameter.empty:
                assert here[name].default == parameter.default


@pytest.mark.slow
def test_sample_is_printed_as_it_is_generated(trained):
    command = [sys.executable, "-m", "throughtime", "sample", str(trained[0]), "--length", "100000000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout.read(20)
        process.stdout.close()
        assert process.wait(60) != 0  # it exits because the pipe is closed
        assert process.stderr.read().startswith(b"run ")


def test_info_prints_the_configuration_and_the_result(trained, text, capsys):
    assert main(["info", str(trained[0])]) == 0
    shown = capsys.readouterr().out
    assert all(word in shown for word in (str(text), "1 x lstm, 8 units", "4 steps", "torch", "nats per character"))
    assert main(["info", str(trained[0]), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["config"]["hidden_size"] == 8
    assert shown["result"]["valid"]["loss"] > 0


@pytest.mark.parametrize("command", [["info"], ["sample"], ["evaluate", "text.txt"]])
def test_path_that_is_not_a_run_raises(command, tmp_path, capsys):
    (tmp_path / "file.txt").write_text("text")
    for path in (tmp_path / "nothing", tmp_path / "file.txt", tmp_path):
        assert main([command[0], str(path), *command[1:]]) == 2
        assert str(path) in capsys.readouterr().err


@pytest.mark.slow
def test_interrupted_run_says_how_to_resume(text, tmp_path, capfd):
    out = tmp_path / "run"
    command = [sys.executable, "-m", "throughtime", "train", str(text), *SMALL, "--out", str(out), "--steps", "3000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        until = time.monotonic() + 100
        while not (out / "model.safetensors").exists():
            assert time.monotonic() < until
            assert process.poll() is None
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGINT)
        error = process.communicate()[1]
    assert process.returncode == 130
    assert f"throughtime train --resume {out}" in error
    assert "Traceback" not in error
    assert main(["info", str(out)]) == 0
    assert "not finished" in capfd.readouterr().out


def test_info_describes_a_model_file(tmp_path, capsys):
    throughtime.save(throughtime.Recurrent("lstm", 3, 4, 2, zoneout={"cell": 0.1}), tmp_path / "model.safetensors")
    assert main(["info", str(tmp_path / "model.safetensors")]) == 0
    told = capsys.readouterr().out
    assert "hidden_size 4, zoneout {'cell': 0.1}" in told
    assert "272 (float32)" in told
    assert told.count("cell          = v16 + v17") == 2
    assert main(["info", "--json", str(tmp_path / "model.safetensors")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["parameters"], len(found["programs"])) == (272, 2)
    assert found["settings"]["options"] == {"zoneout": {"cell": 0.1}}
    (tmp_path / "model.safetensors").write_bytes(b"nothing")
    assert main(["info", str(tmp_path / "model.safetensors")]) == 2
    assert "damaged" in capsys.readouterr().err


@pytest.mark.slow
def test_using_a_run_does_not_import_torchs_compiler(trained, text):
    code = (
        "import sys; from throughtime.cli.main import main\n"
        f"for command in ('sample', {str(trained[0])!r}), ('predict', {str(trained[0])!r}, {str(text)!r}):\n"
        "    assert main(list(command)) == 0\n"
        "sys.exit('torch._dynamo' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_listing_and_describing_runs_does_not_load_torch(trained):
    path, _ = trained
    code = (
        "import sys; from throughtime.cli.main import main\n"
        f"assert main(['runs', {str(path.parent)!r}]) == main(['info', {str(path)!r}]) == 0\n"
        "sys.exit(', '.join({'torch', 'lightning', 'polars', 'sklearn'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    parameters = sum(p.numel() for p in Run.open(path).model().parameters())
    assert f"; {parameters:,} parameters" in done.stdout  # tied weights count once


def test_a_prompt_is_suggested_if_the_network_knows_its_characters(tmp_path, capsys):
    (tmp_path / "text.txt").write_text("道可道，非常道；名可名，非常名。\n" * 40)
    assert main(["train", str(tmp_path / "text.txt"), *SMALL, "--steps", "2", "--out", str(tmp_path / "run")]) == 0
    assert re.search(r"throughtime sample \S+ --temperature 0.8\n", capsys.readouterr().out)


def test_the_step_whose_weights_are_kept_is_named(trained, capsys, monkeypatch):
    run = Run.open(trained[0])
    monkeypatch.setattr(Run, "result", {**run.result, "best_step": 3})
    train_command._show(run)
    assert "; kept the weights of step 3, the best in validation. Saved to" in capsys.readouterr().out
    monkeypatch.setattr(Run, "result", {**run.result, "best_step": 4})
    train_command._show(run)
    assert "kept" not in capsys.readouterr().out


def test_predictions_and_samples_are_iterated_over(trained, text):
    run = throughtime.Run.open(trained[0])
    assert next(iter(run.predict(text))) == next(iter(run.predict(text).rows))
    continuation = throughtime.sample(run, "the ", length=9)
    assert "while you iterate" in repr(continuation)
    assert "".join(continuation) == run.sample("the ", length=9)


def test_the_usage_of_a_command_has_no_braces(capsys):
    assert main(["predict", "--help"]) == 0
    assert "predict [OPTIONS] RUN DATA...\n" in capsys.readouterr().out


def test_data_whose_test_part_alone_is_evaluated_get_no_note():
    assert tasks.get("forecast").reads_test_part(["table.csv"])
    assert tasks.get("notes").reads_test_part(["chorales.mat"])
    assert not tasks.get("notes").reads_test_part(["songs"])
    assert not tasks.get("text").reads_test_part(["text.txt"])


def test_files_are_overwritten_only_on_request(trained, text, tmp_path, capsys):
    (tmp_path / "kept.csv").write_text("kept")
    (tmp_path / "kept.txt").write_text("kept")
    predict = ["predict", str(trained[0]), str(text), "--out", str(tmp_path / "kept.csv")]
    draw = ["sample", str(trained[0]), "--length", "5", "--out", str(tmp_path / "kept.txt")]
    for arguments, file in ((predict, "kept.csv"), (draw, "kept.txt")):
        assert main(arguments) == 2
        assert "already exists; choose another name, or pass --overwrite" in capsys.readouterr().err
        assert (tmp_path / file).read_text() == "kept"
        assert main([*arguments, "--overwrite"]) == 0
        assert (tmp_path / file).read_text() != "kept"


def test_a_whole_evaluation_replaces_a_partial_one(trained, text, tmp_path, capsys):
    shutil.copytree(trained[0], tmp_path / "run")
    run = Run.open(tmp_path / "run")
    whole = run.result["valid"]
    run.save_result({**run.result, "valid": {**whole, "loss": 9.0}, "measured": {"valid": 0.5}})
    assert str(run.headline()) == "valid loss ~9.0000"
    assert main(["evaluate", str(run.path), str(text)]) == 0  # other data
    assert str(run.headline()) == "valid loss ~9.0000"
    assert main(["evaluate", str(run.path)]) == 0
    assert run.result["valid"] == {**whole, "loss": pytest.approx(whole["loss"])}
    assert str(run.headline()) == f"valid loss {whole['loss']:.4f}"
    assert run.result["measured"] == {"valid": 1.0}
    run.save_result({**run.result, "measured": {"valid": 0.5}})
    with patch.object(Run, "save_result", side_effect=OSError(errno.EROFS, "read-only")):
        assert main(["evaluate", str(run.path)]) == 0  # the result is only printed
