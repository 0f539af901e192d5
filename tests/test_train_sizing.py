"""The network size and the number of threads chosen for a time budget; speeds are simulated."""

import pytest
import torch
from tiny_training import TINY, train_tiny, write_text

from throughtime.runs import Run
from throughtime.training import loop, sizing
from throughtime.training.planning import make_plan
from throughtime.training.start import Start


@pytest.fixture
def choose(tmp_path, monkeypatch):
    """Return a function that fits a configuration to given step times, by size and number of threads."""
    data_path = write_text(tmp_path / "text.txt", 20_000)

    def choose(seconds, all_threads=2, **options):
        def timed(task, data, training, model, batch, limit, clock):
            return seconds(model.recurrent.hidden_size, torch.get_num_threads())

        monkeypatch.setattr(sizing, "step_seconds", timed)
        start = Start.of({"data": str(data_path), "engine": "reference", "minutes": 1, **options})
        data = start.read()
        before = torch.get_num_threads()
        torch.set_num_threads(all_threads)
        try:
            found = sizing.fitted(start, data, start.task.interface(data.codecs))
            return found, torch.get_num_threads()
        finally:
            torch.set_num_threads(before)

    return choose


@pytest.mark.parametrize(
    ("per_unit", "size"), [(1e-2, 64), *((7.5 / s**2 * 0.999, s) for s in (64, 128, 192, 256)), (1e-6, 384)]
)
def test_the_largest_size_with_enough_steps_is_chosen(choose, per_unit, size):
    # In 60 seconds, 8 steps per unit are possible if a step takes 7.5 seconds / size. 512 units would have more than 8
    # parameters for each of the 95,000 characters.
    found, _ = choose(lambda hidden, threads: per_unit * hidden)
    assert found.config.network.hidden_size == size
    assert found.config.network.dropout == pytest.approx(0.3 * size / 512, abs=0.005)
    assert f"hidden_size={size}" in found.why[0]


@pytest.mark.parametrize(("speed", "threads"), [(2.0, 2), (1.05, 1), (0.3, 1)])
def test_the_faster_number_of_threads_is_chosen(choose, speed, threads):
    found, now = choose(lambda hidden, count: 0.01 / (speed if count > 1 else 1))
    assert found.config.training.threads == now == threads
    assert f"threads={threads}: faster than {3 - threads}" in found.why[1]


def test_given_options_are_kept(choose):
    found, now = choose(lambda hidden, count: 1e-6, hidden_size=7, threads=2)
    assert (found.config.network.hidden_size, found.config.network.dropout, now) == (7, 0.3, 2)
    assert found.why == []
    found, _ = choose(lambda hidden, count: 1.0, dropout=0.25)
    assert (found.config.network.hidden_size, found.config.network.dropout) == (64, 0.25)


def test_a_run_without_a_budget_has_the_default_size(choose):
    found, now = choose(lambda hidden, count: 1.0, minutes=None, steps=3)
    assert (found.config.network.hidden_size, found.config.training.threads, now) == (512, None, 2)


def test_the_choice_is_saved_in_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "make_plan", lambda *given: make_plan(*given, clock=lambda: given[-1]))
    options = {**TINY, "steps": None, "hidden_size": None, "threads": None, "dropout": None, "minutes": 0.05}
    run = train_tiny(tmp_path, **options)
    config = Run.open(run.path).config
    assert config.network.hidden_size in sizing.SIZES
    assert run.programs[0].states[0].width == config.network.hidden_size
    assert f"hidden_size={config.network.hidden_size}" in run.log.read_text()
