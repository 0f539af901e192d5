"""Text from a trained model."""

import itertools

import pytest
import torch
from tiny_training import train_tiny

from throughtime.errors import UserError
from throughtime.tasks.generative import Sampling
from throughtime.tasks.text import _draw, _skip_first_lines
from throughtime.training import sample


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return train_tiny(tmp_path_factory.mktemp("run"), steps=150, lr=0.02)


def text_of(run, *args, **options):
    return "".join(sample(run, *args, **options))


def test_the_seed_determines_the_text(run):
    assert text_of(run, "time ", length=80, seed=3) == text_of(run.path, "time ", length=80, seed=3)
    assert text_of(run, "time ", length=80, seed=3) != text_of(run, "time ", length=80, seed=4)


@pytest.mark.parametrize("prompt", ["", "through ", "☃"])
def test_the_length_is_as_requested(run, prompt):
    assert len(text_of(run, prompt, length=37)) == 37
    assert text_of(run, prompt, length=0) == ""


def test_samples_are_generated_lazily(run):
    assert list(itertools.islice(sample(run, length=10**9), 3)) != []


def test_a_shorter_sample_is_a_prefix_of_a_longer_one(run):
    assert text_of(run, length=50).startswith(text_of(run, length=20))


@pytest.mark.parametrize("line", [1, 7, 150, 1000])
def test_a_sample_without_a_prompt_begins_at_a_line_of_the_networks_own_text(run, line):
    vocabulary = run.description.codecs.inputs
    ids = vocabulary.encode(("t" * (line - 1) + "\n") * 500)
    assert _skipped(ids, vocabulary) == {1: 100, 7: 105, 150: 150, 1000: 600}[line]


def test_a_sample_without_a_prompt_begins_at_a_word_if_the_line_is_long(run):
    vocabulary = run.description.codecs.inputs
    assert _skipped(vocabulary.encode(("t" * 6 + " ") * 500), vocabulary) == 301


def _skipped(ids, vocabulary):
    drawn = iter(ids.tolist())
    _skip_first_lines(drawn, vocabulary)
    return len(ids) - len(list(drawn))


def test_temperature_0_is_greedy_for_any_seed(run):
    model, vocabulary = run.model(), run.description.codecs.inputs
    written = text_of(run, "time", length=30, temperature=0, seed=1)
    assert written == text_of(run, "time", length=30, temperature=0, seed=2)
    assert written == text_of(run, "time", length=30, top_k=1, seed=5)
    assert written == text_of(run, "time", length=30, top_p=1e-9, seed=6)
    ids = torch.from_numpy(vocabulary.encode("time" + written))[:, None]
    scores, _ = model(ids)
    scores[..., vocabulary.unknown] = float("-inf")
    assert torch.equal(scores.argmax(-1)[3:-1], ids[4:])


def draws(probabilities, count=4000, **options):
    """Count how often each token is drawn."""
    sampling = Sampling(1, **{name: value for name, value in options.items() if name != "unknown"})
    generator = torch.Generator().manual_seed(0)
    scores = torch.tensor(probabilities).log()
    found = torch.zeros(len(probabilities))
    for _ in range(count):
        found[_draw(scores.clone(), options.get("unknown"), sampling, generator)] += 1
    return found / count


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [0.5, 0.3, 0.15, 0.05]),
        ({"top_k": 2}, [0.625, 0.375, 0, 0]),
        ({"top_p": 0.6}, [0.625, 0.375, 0, 0]),
        ({"top_p": 0.5}, [1, 0, 0, 0]),
        ({"top_k": 100, "top_p": 1}, [0.5, 0.3, 0.15, 0.05]),
        ({"unknown": 0}, [0, 0.6, 0.3, 0.1]),
        ({"temperature": 0.5}, [0.6849, 0.2466, 0.0616, 0.0068]),
        ({"temperature": 1e-300}, [1, 0, 0, 0]),
    ],
)
def test_tokens_are_drawn_with_their_probabilities(options, expected):
    found = draws([0.5, 0.3, 0.15, 0.05], **options)
    assert [share == 0 for share in found.tolist()] == [share == 0 for share in expected]
    # Four standard deviations of a frequency among 4000 draws.
    assert found.tolist() == pytest.approx(expected, abs=4 * (0.25 / 4000) ** 0.5)


def test_the_model_takes_what_its_vocabulary_returns(run):
    model, ids = run.model(), run.description.codecs.inputs.encode("through time")
    scores, _ = model(ids)
    expected, _ = model(torch.from_numpy(ids)[:, None])
    assert torch.equal(scores, expected[:, 0])


def test_invalid_options_are_reported_before_sampling(run):
    with pytest.raises(UserError, match=r"no option lengthe here \(did you mean length\?\); expected length, seed"):
        sample(run, lengthe=3)
    for options in ({"temperature": -1}, {"top_k": 0}, {"top_p": 0}, {"top_p": 1.1}, {"length": -1}):
        with pytest.raises(UserError, match="must be"):
            sample(run, **options)


def test_unknown_words_are_never_drawn(tmp_path):
    run = train_tiny(tmp_path, level="word", vocab_size=4, steps=2)
    assert run.result["valid"]["unknown"] > 0
    assert "<unk>" not in text_of(run, "time", length=200)
