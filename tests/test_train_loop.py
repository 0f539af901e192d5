"""Training end to end: learning, files, and errors."""

import csv
import errno
import math
import os
import re

import pytest
import torch
from tiny_training import figures, train_tiny, write_text

import throughtime
from throughtime import language
from throughtime.errors import CellError, DataError, RunError, TrainingError
from throughtime.runs import Run
from throughtime.training import config as config_module
from throughtime.training import loop
from throughtime.training.callbacks import MetricsRows
from throughtime.training.display import Display
from throughtime.training.first_lines import first_lines
from throughtime.training.fitting import Fit
from throughtime.training.measuring import worse_than
from throughtime.training.metrics import COLUMNS
from throughtime.training.planning import make_plan


def test_training_learns_and_writes_the_run_directory(tmp_path, capfd):
    run = train_tiny(tmp_path, steps=150, lr=0.02, hidden_size=24)
    assert {path.name for path in run.path.iterdir()} == {
        "config.json", "task.json", "program.json", "model.safetensors", "metrics.csv", "checkpoints", "log.txt",
        "result.json", "rates.f64",
    }  # fmt: skip
    rows = run.metrics()
    assert [row["step"] for row in rows] == list(range(1, 151))
    assert rows[0]["train_loss"] == pytest.approx(math.log(run.description.codecs.inputs.size), rel=0.1)
    # Five equally likely words of 4.4 letters and a space: only the choice of a word is unpredictable.
    assert run.result["valid"]["loss"] < 1.5 * math.log(5) / 5.4
    assert run.result["steps"] == 150
    validated = {row["step"]: row["valid_loss"] for row in rows if row["valid_loss"] is not None}
    assert validated[run.result["best_step"]] == min(validated.values())
    assert "step 150 of 150" in run.log.read_text()
    assert capfd.readouterr() == ("", "")  # progress=False, and Lightning is silent


def test_progress_has_a_line_per_validation(tmp_path, capfd):
    train_tiny(tmp_path, steps=3, progress=True)
    out, err = capfd.readouterr()
    assert out == ""
    lines = [line for line in err.splitlines() if not line.startswith("  ")]
    samples = [line for line in lines if re.match(r"after \d+% of the training:", line)]
    assert re.findall(r"^step (\d of 3)\b", err, re.MULTILINE) == [f"{k} of 3" for k in (1, 2, 3)]
    assert len(samples) == 2  # one third is past a quarter, two thirds are past a half


def test_a_longer_training_shows_about_ten_validations(tmp_path, capfd):
    run = train_tiny(tmp_path, steps=40, progress=True)
    assert sum(row["valid_loss"] is not None for row in run.metrics()) == 20
    steps = [int(k) for k in re.findall(r"^step (\d+) of 40", capfd.readouterr().err, re.MULTILINE)]
    assert steps == [2, *range(4, 41, 4)]


def test_the_network_is_described_in_words():
    for options, words in [
        ({"num_layers": 1, "hidden_size": 64}, "1 x lstm, 64 units"),
        ({"num_layers": 2, "hidden_size": 64, "bidirectional": True}, "2 x bidirectional lstm, 64 units each"),
    ]:
        assert config_module.NetworkOptions(**options).layers_in_words == words


def test_the_first_lines_describe_data_network_threads_and_plan(tmp_path, capfd):
    run = train_tiny(tmp_path, steps=3, progress=True)
    lines = dict(line.split(": ", 1) for line in capfd.readouterr().err.splitlines()[:6])
    assert list(lines) == ["task", "run", "data", "network", "runs on", "plan"]
    train = run.record.data.counts["train"]
    assert f"{train:,} for training" in lines["data"]
    assert lines["network"] == f"2 x lstm, 12 units each; {run.parameters:,} parameters"
    assert lines["runs on"] == "1 thread of the CPU"
    assert lines["plan"].startswith("3 steps of 8 sequences (0.075 epochs)")
    assert lines["plan"] in run.log.read_text()
    read = f"{run.plan.validate_terms:,} of 9,000 characters"
    legend = dict(first_lines(run, run.model(), 9000))["legend"]
    assert f"validations during training read only {read}, in 8 parallel streams" in legend
    run.record = run.record.model_copy(update={"plan": run.plan.model_copy(update={"steps": 9, "seconds": 60.0})})
    plan = dict(first_lines(run, run.model(), 9000))["plan"]
    assert plan.startswith("9 steps or 1 min 0 s of training, whichever ends first, about 3 steps of 8 sequences")


def test_a_pipe_receives_occasional_lines(capfd):
    now = [0.0]
    with Display(True, lambda: now[0]) as display:
        for k in range(61):
            display.progress("training", k, 100, "loss 1.000")
            now[0] += 1
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 6
    assert lines[1] == "training: 20%, 20.0 s elapsed, 1 min 20 s left, loss 1.000"


def test_the_time_of_an_activity_counts_from_its_first_call(capfd):
    now = [100.0]
    with Display(True, lambda: now[0]) as display:
        now[0] += 50
        display.progress("measuring", 0, 4)
        now[0] += 20
        display.progress("measuring", 1, 4)
    assert capfd.readouterr().err.splitlines() == ["measuring: 25%, 20.0 s elapsed, 1 min 0 s left"]


def test_progress_is_complete_only_without_time_left(capfd):
    now = [0.0]
    with Display(True, lambda: now[0]) as display:
        display.progress("training", 0, 1000)
        now[0] += 100
        display.progress("training", 999, 1000)
    assert capfd.readouterr().err.splitlines() == ["training: 99%, 1 min 40 s elapsed, 0.1 s left"]


def test_the_seed_determines_the_run(tmp_path):
    runs = []
    for k, seed in enumerate((1, 1, 2)):
        torch.manual_seed(k)  # the caller's generator has no effect
        runs.append(train_tiny(tmp_path, out=tmp_path / str(k), dropout=0.2, seed=seed))
    assert figures(runs[0]) == figures(runs[1]) != figures(runs[2])


def test_torch_settings_are_restored(tmp_path):
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    threads = torch.get_num_threads()
    throughtime.load(train_tiny(tmp_path, threads=threads + 1).path)
    assert torch.equal(torch.rand(1), expected)
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", "rmsprop"])
def test_every_optimizer_lowers_the_loss(tmp_path, optimizer):
    run = train_tiny(tmp_path, steps=60, optimizer=optimizer, num_layers=1, dropout=0.0)
    losses = [row["train_loss"] for row in run.metrics()]
    assert losses[-1] < losses[0] - 0.3


@pytest.mark.parametrize(
    "options",
    [
        {"precision": "64"},
        {"precision": "bf16-mixed"},
        {"init": "orthogonal"},
        {"init": 0.05, "tie": True},
        {"cell": "gru", "embed": 5},
        {"clip": 0},
    ],
)
def test_model_and_precision_options_take_effect(tmp_path, options):
    run = train_tiny(tmp_path, **options)
    model = throughtime.load(run.path)
    assert not model.training
    assert model.encoder.weight.dtype == (torch.float64 if options.get("precision") == "64" else torch.float32)
    assert model.recurrent.input_size == options.get("embed", 12)


@pytest.mark.parametrize(
    ("ends", "steps"),
    [({"steps": 5}, 5), ({"epochs": 0.5}, 20), ({"epochs": 0.5, "steps": 5}, 5), ({"epochs": 0.1, "steps": 5}, 4)],
)
def test_training_ends_at_the_first_end_reached(tmp_path, ends, steps):
    run = train_tiny(tmp_path, **{"steps": None, **ends})
    assert run.plan.epoch_steps == 40
    assert run.result["steps"] == steps


def test_training_has_a_default_end(tmp_path, monkeypatch):
    monkeypatch.setattr(config_module, "DEFAULT_STEPS", 7)
    assert train_tiny(tmp_path, steps=None).result["steps"] == 7


@pytest.mark.slow
def test_minutes_limit_the_time_and_are_used_up(tmp_path, monkeypatch):
    """Uses a clock on which each step takes 0.05 s."""
    monkeypatch.setattr(Fit, "elapsed", property(lambda self: 0.05 * self.step))
    monkeypatch.setattr(loop, "make_plan", lambda *given: make_plan(*given, clock=lambda: given[-1]))
    run = train_tiny(tmp_path, steps=None, minutes=0.1)
    assert run.plan.seconds - 0.5 < 0.05 * run.result["steps"] < run.plan.seconds + 0.1
    assert run.result["steps"] > 20
    rates = run.rates()
    assert len(rates) == run.result["steps"]
    assert rates[-1] < 0.2 * max(rates)
    assert run.plan.steps is None


def test_an_exhausted_budget_trains_one_step(tmp_path, monkeypatch):
    monkeypatch.setattr(Fit, "elapsed", property(lambda self: 1e9))
    run = train_tiny(tmp_path, steps=None, minutes=0.1)
    assert run.result["steps"] == 1
    assert run.finished


@pytest.mark.parametrize("clip", [0.01, 0.0, 100.0])
def test_clipping_limits_the_gradient_norm(tmp_path, clip):
    run = train_tiny(tmp_path, steps=1, optimizer="sgd", lr=1, schedule="constant", clip=clip, precision="64")
    torch.manual_seed(0)
    from throughtime.training.building import build_model

    interface = run.task.interface(run.description.codecs)
    before = build_model(run.config.network, run.programs, interface).state_dict()
    moved = math.sqrt(sum(float((run.weights()[n] - before[n].double()).square().sum()) for n in before))
    norm = run.metrics()[0]["grad_norm"]
    assert norm > 0.1
    # Clipping adds 1e-6 to the norm; the CSV file has 8 digits.
    assert moved == pytest.approx(min(clip or norm, norm), rel=1e-4)


@language.cell
def leaky(x, h):
    """A unit that forgets at a fixed rate."""
    return 0.9 * h + 0.1 * language.tanh(language.affine("input", x, h))


def test_a_custom_cell_loads_without_its_source(tmp_path):
    run = train_tiny(tmp_path, cell=leaky)
    assert run.config.network.cell == "leaky"
    assert "leaky" not in throughtime.cells.names()
    model = throughtime.load(run.path)
    assert [program.name for program in model.recurrent.programs] == ["leaky", "leaky"]
    assert throughtime.training.evaluate(run.path, tmp_path / "text.txt")["loss"] > 0


def test_words_and_byte_pairs_can_be_learned(tmp_path):
    for level, size in (("word", None), ("bpe", 270)):
        run = train_tiny(tmp_path, level=level, vocab_size=size, out=tmp_path / level)
        assert run.description.codecs.inputs.level == level
        assert 0 < run.result["valid"]["bits_per_character"] < run.result["valid"]["bits_per_token"]


def test_a_test_text_is_evaluated(tmp_path):
    text = write_text(tmp_path / "text.txt")
    other = tmp_path / "other.txt"
    other.write_text(text.read_text()[:500] + "☃")
    run = train_tiny(tmp_path, data=text, valid=text, test=other)
    assert run.result["test"]["tokens"] == 500
    assert run.result["test"]["unknown"] == 1
    assert run.record.data.counts["train"] == run.record.data.counts["valid"]


def test_short_texts_use_fewer_streams(tmp_path):
    text = tmp_path / "short.txt"
    text.write_text("ab" * 30)
    run = train_tiny(tmp_path, data=text)
    assert run.plan.batch == 5
    assert run.result["valid"]["tokens"] == 5


def test_a_directory_is_named_by_cell_and_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    paths = [train_tiny(tmp_path, out=None).path for _ in range(2)]
    assert paths[0] != paths[1]
    assert all(path.parent.name == "runs" and "-lstm-text" in path.name for path in paths)


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"cell": "lstmm"}, CellError, "did you mean lstm"),
        ({"tie": True, "embed": 5}, TrainingError, "embed=5"),
        ({"cell": "gru", "forget_bias": 2}, TrainingError, "'gru' has no gate named forget.* remove forget_bias"),
        ({"data": "nowhere.txt"}, DataError, "no such file"),
        ({"window": 10_000}, DataError, "fewer than one window of 10000 steps"),
        ({"precision": "16-mixed", "devices": "cpu"}, TrainingError, "16-mixed needs a CUDA"),
        ({"devices": "cpu:3"}, TrainingError, "can't be divided among 3 processes"),
        ({"nodes": 2}, TrainingError, "torchrun or SLURM"),
    ],
)
def test_impossible_options_are_reported_before_writing(tmp_path, options, kind, message):
    with pytest.raises(kind, match=message):
        train_tiny(tmp_path, **options)
    assert not (tmp_path / "run").exists()


def test_missing_tensorboard_is_reported(tmp_path, monkeypatch):
    monkeypatch.setattr("throughtime.training.fabric.find_spec", lambda name: None)
    with pytest.raises(TrainingError, match="pip install tensorboard"):
        train_tiny(tmp_path, log="tensorboard")


def test_nothing_is_overwritten(tmp_path):
    run = train_tiny(tmp_path)
    before = run.metrics_file.read_text()
    with pytest.raises(RunError, match=r"already exists.*--resume"):
        train_tiny(tmp_path)
    assert run.metrics_file.read_text() == before


def test_divergence_is_reported_and_the_last_checkpoint_kept(tmp_path, monkeypatch):
    original = Fit._advance

    def overflow(self, batch):
        if self.step == 7:
            batch = batch._replace(terms=0.0)
        original(self, batch)

    with monkeypatch.context() as patched:
        patched.setattr(Fit, "_advance", overflow)
        with pytest.raises(TrainingError, match=r"step 8: the loss is inf .*lr \(0\.003 now\).*clip \(1 now\)"):
            train_tiny(tmp_path)
    run = Run.open(tmp_path / "run")
    assert torch.load(run.checkpoint, weights_only=True)["step"] == 7
    assert all(tensor.isfinite().all() for tensor in run.weights().values())


def test_overflowing_weights_are_reported(tmp_path):
    with pytest.raises(TrainingError, match=r"diverged at step .*Try a lower lr"):
        train_tiny(tmp_path, optimizer="sgd", lr=1e38, schedule="constant", clip=0, steps=50)


@pytest.mark.parametrize("what", ["checkpoint", "weights", "row"])
def test_a_full_disk_is_reported_and_the_last_checkpoint_kept(tmp_path, monkeypatch, what):
    def fail(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    original = MetricsRows._write

    def then_fail(self, fit):
        original(self, fit)
        if fit.step == 6:
            target = {
                "checkpoint": ("throughtime.training.checkpoints.replacing", fail),
                "weights": ("throughtime.runs.replacing", fail),
                "row": ("throughtime.training.metrics.MetricsFile.write", fail),
            }[what]
            patched.setattr(*target)

    with monkeypatch.context() as patched:
        patched.setattr(MetricsRows, "_write", then_fail)
        with pytest.raises(TrainingError, match=r"the disk is full.*Resume with"):
            train_tiny(tmp_path)
    run = throughtime.training.resume(tmp_path / "run", progress=False)
    (tmp_path / "whole").mkdir()
    assert figures(run) == figures(train_tiny(tmp_path / "whole"))


def test_a_full_disk_before_the_first_checkpoint_is_reported(tmp_path, monkeypatch):
    def fail(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("throughtime.training.checkpoints.replacing", fail)
    with pytest.raises(TrainingError, match=r"the disk is full.*no checkpoint was saved"):
        train_tiny(tmp_path)
    assert not list(tmp_path.rglob("*.ckpt"))


def test_metrics_are_a_readable_table(tmp_path):
    run = train_tiny(tmp_path)
    with run.metrics_file.open(newline="") as file:
        rows = list(csv.reader(file))
    assert tuple(rows[0]) == COLUMNS
    assert all(len(row) == len(COLUMNS) for row in rows)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", "rmsprop"])
def test_weight_decay_is_decoupled_and_applies_only_to_matrices(optimizer):
    from throughtime.training.config import TrainingOptions
    from throughtime.training.optimizers import make_optimizer

    model = torch.nn.Linear(3, 4, dtype=torch.float64)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    made = make_optimizer(TrainingOptions(optimizer=optimizer, lr=0.1, weight_decay=0.5), model)

    def closure():
        # The gradient is zero, so a step consists only of decay, applied to the previous weights.
        assert torch.equal(model.weight, before["weight"])
        for p in model.parameters():
            p.grad = torch.zeros_like(p)

    made.step(closure)
    torch.testing.assert_close(model.weight.data, before["weight"] * (1 - 0.1 * 0.5), rtol=1e-15, atol=0)
    assert torch.equal(model.bias.data, before["bias"])


def test_adamw_matches_torch_with_decay_of_matrices():
    from throughtime.training.config import TrainingOptions
    from throughtime.training.optimizers import make_optimizer

    torch.manual_seed(0)
    model, x = torch.nn.Linear(3, 4), torch.randn(5, 3)
    other = torch.nn.Linear(3, 4)
    other.load_state_dict(model.state_dict())
    ours = make_optimizer(TrainingOptions(optimizer="adamw", lr=0.01, weight_decay=0.2), model)
    groups = [{"params": [other.weight], "weight_decay": 0.2}, {"params": [other.bias], "weight_decay": 0.0}]
    torchs = torch.optim.AdamW(groups, 0.01, fused=True)
    for _ in range(3):
        for m, optimizer in ((model, ours), (other, torchs)):
            optimizer.zero_grad()
            m(x).square().sum().backward()
            optimizer.step()
    assert torch.equal(model.weight, other.weight)
    assert torch.equal(model.bias, other.bias)


def test_weight_decay_defaults_to_the_optimizers(tmp_path):
    from throughtime.training.config import TrainingOptions

    assert TrainingOptions().decoupled_decay == 0.01
    assert TrainingOptions(optimizer="sgd").decoupled_decay == 0
    assert TrainingOptions(weight_decay=0).decoupled_decay == 0
    run = train_tiny(tmp_path, weight_decay=0.3, steps=2)
    assert run.config.training.weight_decay == 0.3


def test_each_new_best_is_marked_or_named_in_the_next_line(tmp_path):
    run = train_tiny(tmp_path, steps=60, lr=1.0, hidden_size=4)
    losses = {row["step"]: row["valid_loss"] for row in run.metrics() if row["valid_loss"] is not None}
    lines = re.findall(r"step (\d+) of .*validation loss [\d.]+(.*)$", run.log.read_text(), re.MULTILINE)
    before, best, marks = 0, math.inf, set()
    for step, mark in ((int(step), mark) for step, mark in lines):
        here, at = min((loss, at) for at, loss in losses.items() if before < at <= step)
        named = " *" if at == step else f"; best {here:.4f} at step {at:.0f}"
        assert mark == (named if here < best else "")
        before, best = step, min(here, best)
        marks.add(mark[:3])
    assert marks == {"", " *", "; b"}


def test_a_run_worse_than_the_baseline_is_reported_with_advice(tmp_path):
    run = train_tiny(tmp_path, steps=1, lr=1e-9)
    log = run.log.read_text()
    assert "valid: the network is worse than the baseline 'tokens by frequency' (loss" in log
    assert "Train longer, or try a lower lr" in log
    (tmp_path / "good").mkdir()
    good = train_tiny(tmp_path / "good", steps=150, lr=0.02, hidden_size=24)
    assert "worse than the baseline" not in good.log.read_text()
    early = worse_than(good.task, {"loss": 3.0}, {"guess": {"loss": 2.0}}, 0.2)
    assert "after 20% of the steps, so training longer won't help: try more dropout" in early
    assert "Train longer" in worse_than(good.task, {"loss": 3.0}, {"guess": {"loss": 2.0}})
    single = torch.tensor(0.35).item()  # the same number, in single precision
    assert single != 0.35
    assert worse_than(good.task, {"loss": single}, {"guess": {"loss": 0.35}}) == ""


def test_a_validation_reads_all_data_or_clearly_less(tmp_path):
    for number, (held_out, read) in enumerate([(2000, 2000), (2050, 2050), (3000, 2000)]):
        (tmp_path / "valid.txt").write_text("e" * (held_out + 1))
        (tmp_path / str(number)).mkdir()
        run = train_tiny(tmp_path / str(number), steps=1, valid=str(tmp_path / "valid.txt"))
        assert run.plan.validate_terms == read


def test_cell_options_are_kept_by_a_run_that_starts_from_another(tmp_path):
    first = train_tiny(tmp_path, cell="rnn_leaky", cell_options={"leak": 0.3}, steps=1, hidden_size=5)
    again = throughtime.training.TrainConfig.of(**first.config.given)
    assert again.network.cell_options == {"leak": 0.3}
    with pytest.raises(TrainingError, match="cell_options"):
        train_tiny(
            tmp_path, init_from=first.path, cell_options={"leak": 0.4}, out=tmp_path / "x", hidden_size=None,
            num_layers=None,
        )  # fmt: skip
