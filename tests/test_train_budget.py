"""A time budget is used up exactly even if the machine's speed changes; the clock is simulated."""

import math
import signal
from dataclasses import replace
from functools import partial
from unittest.mock import patch

import numpy as np
import polars
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_training import TINY, train_tiny, write_text

from throughtime import cells
from throughtime.data.windows import Windows
from throughtime.errors import Interrupted, TrainingError
from throughtime.runs import Run
from throughtime.tasks.forecast import ForecastTask
from throughtime.tasks.text import Text, TextOptions
from throughtime.training import callbacks, loop, resume
from throughtime.training.building import build_model, programs_of
from throughtime.training.callbacks import BestWeights, Deadline, Rates, Validation
from throughtime.training.config import TrainConfig
from throughtime.training.evaluation import measured
from throughtime.training.fitting import Fit
from throughtime.training.planning import Throughput, make_plan
from throughtime.training.start import Start

BUDGET, STEP, VALIDATING = 60.0, 0.2, 0.1  # seconds
REPORT, SAMPLES = 1.1, 6  # to write the report, in seconds of CPU time; to draw samples, in training steps


# Rounded seconds per step and per validation of notes, labels, text and forecasts on 2 cores.
COSTS = {"notes": (0.02, 0.05), "classify": (0.04, 0.2), "text": (0.2, 0.1), "forecast": (0.4, 0.2)}


class Machine:
    """A simulated clock and machine, `factor` times slower between two fractions of the budget."""

    def __init__(self, factor=1.0, start=0.0, end=1.0):
        self.now, self._factor, self._start, self._end = 1000.0, factor, start, end
        self._began = self.now

    def clock(self):
        return self.now

    def work(self, seconds):
        share = (self.now - self._began) / BUDGET
        self.now += seconds * (self._factor if self._start <= share < self._end else 1.0)


def training(tmp_path, monkeypatch, machine, own=(), **options):
    """Set up a one-minute training run on a machine's clock."""
    advance, validate = Fit._advance, Validation._validate
    monkeypatch.setattr(Fit, "_advance", lambda self, batch: (advance(self, batch), machine.work(STEP)))
    monkeypatch.setattr(Validation, "_validate", lambda self, fit: (validate(self, fit), machine.work(VALIDATING)))
    data_path = tmp_path / "text.txt"
    if not data_path.exists():
        write_text(data_path, 100)
    small = {**TINY, "steps": None, "hidden_size": 2, "num_layers": 1, "batch": 2, "window": 2, "minutes": BUDGET / 60}
    config = TrainConfig.of(data=data_path, **small | options)
    task = Text(TextOptions(data=[str(data_path)], window=2))
    data = task.prepare()
    interface = task.interface(data.codecs)
    torch.manual_seed(0)
    model = build_model(config.network, programs_of(config.network, cells.lstm, interface), interface, "reference")
    model.task = task.describe(data.codecs)
    plan = make_plan(task, data, config, model, machine.now, machine.clock)
    plan = plan.model_copy(update={"expected_steps": 250, "reserve": 2.0, "seconds": BUDGET - 2.0})
    validation = Validation()
    calls = [Deadline(validation), validation, BestWeights(), Rates(tmp_path / "rates.f64"), *own]
    return Fit(task, data, config, plan, model, calls, clock=machine.clock)


@pytest.mark.slow
@pytest.mark.parametrize("factor", [5.0, 0.2])
@pytest.mark.parametrize(("start", "end"), [(0.3, 0.7)])
def test_the_budget_is_used_if_the_machine_changes_speed(tmp_path, monkeypatch, factor, start, end):
    machine = Machine(factor, start, end)
    fit = training(tmp_path, monkeypatch, machine)
    began = machine.now
    fit.run()
    assert 0.9 * BUDGET <= machine.now - began <= BUDGET
    assert fit.learning_rate < 0.05 * fit.config.training.learning_rate
    assert fit.figures is not None  # measured after the last step


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A training run whose steps take only simulated time."""
    with pytest.MonkeyPatch.context() as patched:
        return training(tmp_path_factory.mktemp("simulated"), patched, Machine())


class Simulated(Fit):
    """A training run that records the learning rate of each step and learns nothing."""

    def __init__(self, like, machine, costs, plan=None):
        (self.step_cost, validation_cost), self.machine = costs, machine
        validation = Validation()
        validation._validate = lambda fit: (machine.work(validation_cost), fit.validated({"loss": 1.0}))
        super().__init__(
            like.task, like.data, like.config, plan or like.plan, like.model, [Deadline(validation), validation],
            clock=machine.clock,
        )  # fmt: skip

    def _advance(self, batch):
        rate = self.config.training.learning_rate * self.schedule.factor(self.step, self.seconds)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self.machine.work(self.step_cost)
        self.last_loss, self.step = 1.0, self.step + 1


@pytest.mark.parametrize("costs", COSTS.values(), ids=COSTS.keys())
@settings(max_examples=25, deadline=None)
@given(factor=st.sampled_from([5.0, 0.2]), part=st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_speed_changes_at_any_time_are_handled_for_every_task(prepared, costs, factor, part):
    machine = Machine(factor, *sorted(part))
    fit, began = Simulated(prepared, machine, costs), machine.now
    fit.run()
    # A step and a validation that start just before the machine slows down may exceed the reserve.
    late = max(0.0, 5 * sum(costs) - fit.plan.reserve)
    assert 0.9 * BUDGET <= machine.now - began <= BUDGET + late
    assert fit.learning_rate < 0.05 * fit.config.training.learning_rate
    assert fit.just_validated


@pytest.mark.slow
@settings(max_examples=20, deadline=None)
@given(
    step=st.floats(0.001, 0.5),
    term=st.floats(1e-5, 1e-3),
    stream=st.floats(0.01, 0.3),
    loss=st.floats(0.001, 0.1),
    waiting=st.floats(1.0, 6.0),
    before=st.floats(0.0, 12.0),
)
def test_training_reaches_the_last_tenth_of_the_time_and_the_report_is_in_time(
    prepared, step, term, stream, loss, waiting, before
):
    """The network's size allows 8 steps per unit and at least 512 steps, as `sizing` ensures."""
    budget, machine = 150.0, Machine()
    speed = Throughput(step=min(step, budget / 512), term=term, stream=stream, loss=loss, waiting=waiting)
    config = prepared.config.model_copy(
        update={"training": prepared.config.training.model_copy(update={"minutes": budget / 60})}
    )
    began = machine.now
    machine.now += before  # loading torch, reading the data, choosing the size
    with patch("throughtime.training.planning._measured", return_value=speed):
        plan = make_plan(prepared.task, prepared.data, config, prepared.model, began, machine.clock)
    fit = Simulated(prepared, machine, (speed.step, 0.04 * budget / 20), plan)
    fit.run()
    assert 0.9 * budget <= machine.now - began < budget
    held_out = prepared.task.reading(prepared.data.valid).terms
    machine.now += min(plan.evaluate_terms, held_out) * term
    machine.now += 2 * speed.reach(4, plan.losses)  # four streams of text, before and after training
    machine.now += REPORT * waiting + SAMPLES * speed.step
    assert machine.now - began <= budget
    assert 8 <= plan.losses <= 160


def test_time_is_reserved_for_every_reading_of_held_out_data(tmp_path, monkeypatch):
    """The network reads held-out data for the loss, the errors, the calibration of intervals and the report."""
    table = np.random.default_rng(0).normal(size=(4000, 2)).cumsum(0)
    polars.DataFrame(table, schema=["a", "b"]).write_csv(tmp_path / "table.csv")
    config = TrainConfig.of(
        "forecast", data=tmp_path / "table.csv", target="a,b", horizon=8, context=16, hidden_size=4, minutes=1
    )
    task = ForecastTask(config.task)
    data = task.prepare()
    interface = task.interface(data.codecs)
    model = build_model(config.network, programs_of(config.network, cells.gru, interface), interface, "reference")
    model.task = task.describe(data.codecs, task.baselines(data))
    speed = Throughput(step=0.01, term=5e-4)
    with patch("throughtime.training.planning._measured", return_value=speed):
        plan = make_plan(task, data, config, model, 0.0, lambda: 0.0)
        without_report = make_plan(task, data, config, model, 0.0, lambda: 0.0, report=False)
    read, inputs = [], Windows.inputs
    monkeypatch.setattr(
        Windows, "inputs", lambda self, windows, **given: (read.append(len(windows)), inputs(self, windows, **given))[1]
    )

    def seconds():
        return 8 * sum(read) * speed.term

    model.task = replace(model.task, calibration=task.calibrate(model, data, without_report.evaluate_terms))
    assert 0 < seconds() <= without_report.reserve
    read.clear()
    task.calibrate(model, data, plan.evaluate_terms)
    for part in (data.valid, data.test):
        assert plan.evaluate_terms < task.reading(part).terms
        measured(model, task, part, terms=plan.evaluate_terms)
    task.pictures(model, data, plan.evaluate_terms)
    assert 0 < seconds() <= plan.reserve


def test_fewer_losses_are_followed_on_a_slow_machine(prepared):
    counts = []
    for loss in (1e-4, 3e-2, 1.0):
        speed = Throughput(step=0.01, term=1e-4, stream=0.01, loss=loss)
        with patch("throughtime.training.planning._measured", return_value=speed):
            plan = make_plan(prepared.task, prepared.data, prepared.config, prepared.model, 0.0, lambda: 0.0)
        counts.append(plan.losses)
    assert counts[0] == 160 > counts[1] > counts[2] == 8


@pytest.mark.slow
def test_validation_takes_a_small_fraction_of_the_time(tmp_path, monkeypatch):
    counts = []
    validated = Fit.validated

    def counted(self, figures):
        counts[-1] += 1
        validated(self, figures)

    monkeypatch.setattr(Fit, "validated", counted)
    for factor in (1.0, 5.0):
        counts.append(0)
        with monkeypatch.context() as patched:
            training(tmp_path, patched, Machine(factor)).run()
        assert 10 <= counts[-1] <= 0.07 * BUDGET / (VALIDATING * factor) + 2


@pytest.mark.slow
def test_a_resumed_training_uses_the_remaining_time(tmp_path, monkeypatch):
    machine = Machine()
    states = []

    class Stop(callbacks.Callback):
        def on_step(self, fit):
            if not states and fit.seconds > BUDGET / 2:
                states.append(fit.state_dict())
                fit.stop()

    with monkeypatch.context() as patched:
        training(tmp_path, patched, machine, [Stop()]).run()
    machine.now += 1e6
    began = machine.now
    with monkeypatch.context() as patched:
        fit = training(tmp_path, patched, machine)
        began = machine.now
        fit.run(states[0])
    assert 0.4 * BUDGET < machine.now - began < 0.5 * BUDGET
    assert fit.learning_rate < 0.05 * fit.config.training.learning_rate
    with monkeypatch.context() as patched:  # the time is up, so no further step is taken
        again = training(tmp_path, patched, machine)
        again.run(fit_state := fit.state_dict())
    assert again.step == fit_state["step"]


def test_a_run_is_replayed_bit_for_bit_from_its_learning_rates(tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        timed = training(tmp_path, patched, Machine(3.0, 0.2, 0.5))
        timed.run()
    rates = torch.frombuffer(bytearray((tmp_path / "rates.f64").read_bytes()), dtype=torch.float64).tolist()
    assert len(rates) == timed.step
    assert rates[-1] == timed.learning_rate
    with monkeypatch.context() as patched:
        again = training(tmp_path, patched, Machine())
        plan = again.plan.model_copy(update={"steps": timed.step, "seconds": None})
        replayed = Fit(again.task, again.data, again.config, plan, again.model, [], rates=rates)
        replayed.run()
    assert all(torch.equal(tensor, replayed.model.state_dict()[n]) for n, tensor in timed.model.state_dict().items())


def test_a_run_records_the_learning_rate_of_each_step(tmp_path):
    run = train_tiny(tmp_path, steps=30)
    rates = run.rates()
    assert [f"{rate:.8g}" for rate in rates] == [f"{row['lr']:.8g}" for row in run.metrics()]
    further = resume(run.path, steps=40, progress=False)
    assert (further.rates()[:30] == rates).all()
    # Warms up again to 0.3 of the peak over a tenth of the new steps.
    assert max(further.rates()[30:]) == pytest.approx(0.3 * further.config.training.learning_rate)
    assert math.isclose(further.rates()[30], max(further.rates()[30:]))
    assert len(Run.open(run.path).rates()) == 40


def test_a_stopped_run_resumes_for_the_remaining_time(tmp_path, monkeypatch):
    machine, advance, stop_at = Machine(), Fit._advance, 20

    def working(self, batch):
        if self.step == stop_at:
            signal.raise_signal(signal.SIGINT)
        advance(self, batch)
        machine.work(STEP)

    monkeypatch.setattr(Fit, "_advance", working)
    monkeypatch.setattr(loop, "Fit", partial(Fit, clock=machine.clock))
    monkeypatch.setattr(loop, "make_plan", lambda *given: make_plan(*given[:-1], machine.now, machine.clock))
    with pytest.raises(Interrupted, match=r"stopped at step 21, .* s of "):
        train_tiny(tmp_path, steps=None, minutes=0.2)
    stop_at, machine.now = None, machine.now + 1e6
    before = Run.open(tmp_path / "run")
    first = before.rates()
    run = resume(before.path, progress=False)
    assert run.plan == before.plan
    assert run.result["seconds"] == pytest.approx(run.plan.seconds, abs=STEP)
    assert len(run.rates()) == run.result["steps"] > 21
    assert (run.rates()[:21] == first[:21]).all()
    assert run.rates()[-1] < first.max()
    with pytest.raises(TrainingError, match=r"has already trained .*minutes=0\.01 is not a later end"):
        resume(run.path, minutes=0.01, progress=False)


def test_a_short_evaluation_reads_as_much_as_a_validation_during_training(tmp_path, monkeypatch):
    def plan_of(*args):
        plan = make_plan(*args)
        return plan.model_copy(update={"evaluate_terms": 5, "validate_terms": 100})

    monkeypatch.setattr(loop, "make_plan", plan_of)
    run = train_tiny(tmp_path, steps=3)
    held_out = run.record.data.counts["valid"] - 1
    assert run.result["valid"]["tokens"] == 96  # in streams of equal length
    assert run.result["measured"]["valid"] == pytest.approx(96 / held_out)
    assert f"measured on 96 of {held_out:,}" in run.log.read_text()
    assert [each["tokens"] for each in run.result["valid"]["baselines"].values()] == [100]


def test_an_evaluation_that_could_read_nearly_all_data_reads_all(tmp_path, monkeypatch):
    def plan_of(*args):
        plan = make_plan(*args)
        return plan.model_copy(update={"evaluate_terms": plan.validate_terms - 1})

    monkeypatch.setattr(loop, "make_plan", plan_of)
    run = train_tiny(tmp_path, steps=3)
    held_out = run.record.data.counts["valid"] - 1
    assert 0.995 * held_out <= run.plan.evaluate_terms < held_out == run.plan.validate_terms
    assert run.result["valid"]["tokens"] == held_out
    assert run.result["measured"]["valid"] == 1.0


def test_time_before_training_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "write_report", lambda run, data: None)
    monkeypatch.setattr(loop, "make_plan", partial(make_plan, clock=lambda: 1004.0))
    options = {**TINY, "steps": None, "minutes": 0.1, "data": write_text(tmp_path / "text.txt")}
    run = loop.train_from(Start.of({**options, "out": tmp_path / "run"}), 1000.0, progress=False)
    assert run.plan.seconds == pytest.approx(6 - run.plan.reserve - 4)
    assert "of 6.0 s are needed before the first step" in run.log.read_text()


def test_a_budget_without_time_for_a_step_is_rejected(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "make_plan", partial(make_plan, clock=lambda: 1012.0))
    options = {**TINY, "steps": None, "minutes": 0.2, "data": write_text(tmp_path / "text.txt")}
    with pytest.raises(TrainingError, match=r"minutes=0\.2 leaves no time to train: 12\.0 s .* at least minutes=0\.4$"):
        loop.train_from(Start.of({**options, "out": tmp_path / "run"}), 1000.0, progress=False)
    assert not (tmp_path / "run").exists()
