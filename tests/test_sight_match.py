"""`match` on a handmade cell, and `interest` on units made to follow a feature."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from throughtime import Recurrent, record
from throughtime.errors import DataError, UserError
from throughtime.language import affine, cell, sigmoid
from throughtime.sight import interest, match

TEXT = "a quick fox, a quiet queen; no qualm"


@cell
def latch(x, h):
    """A cell whose units open on one token and stay open until another."""
    opening = sigmoid(affine("opening", x))
    closing = sigmoid(affine("closing", x))
    h = (1 - closing) * h + opening * (1 - h) * (1 - closing)
    return h


def opened_by(opener: str, closer: str, alphabet: list[str]) -> Recurrent:
    """Unit 0 opens on `opener` and shuts on `closer`, unit 1 does the opposite, and unit 2 never opens."""
    module = Recurrent(latch, len(alphabet), 3, dtype=torch.float64)
    bias, weight = torch.full((6,), -20.0), torch.zeros(6, len(alphabet))
    for row, token in ((0, opener), (1, closer), (3, closer), (4, opener)):  # openings of 3 units, then closings
        weight[row, alphabet.index(token)] = 40.0
    with torch.no_grad():
        module.weight_x_l0.copy_(weight)
        module.bias_l0.copy_(bias)
    return module


def test_match_finds_the_unit_that_opens_on_a_character_and_all_its_occurrences():
    alphabet = sorted(set(TEXT))
    module = opened_by("q", " ", alphabet)
    x = torch.eye(len(alphabet), dtype=torch.float64)[[alphabet.index(c) for c in TEXT]][:, None]
    with record(module, "layer0.hidden") as tape:
        module(x)
    found = match(tape["layer0.hidden"], "quick", TEXT, threshold=0.5)
    assert found.units.tolist() == [0]
    assert found.signs.tolist() == [1]
    assert (found.start, found.stop) == (2, 7)
    assert [place.text for place in found.occurrences] == ["quiet", "qualm", "queen;"]
    assert [TEXT[place.start : place.stop] for place in found.occurrences] == ["quiet", "qualm", "queen;"]
    assert all(place.closeness == 1 for place in found.occurrences)


VALUES = np.array([
    # units 0 and 1 are on in the span 1:3, one also elsewhere; 2 is on everywhere, 3 negative in the span
    [0.0, 0.9, 0.8, 0.0, 0.7, 0.7, 0.0, 0.6],
    [0.0, 0.9, 0.9, 0.1, 0.9, 0.1, 0.0, 0.9],
    [0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5],
    [0.1, -.9, -.8, 0.2, 0.9, 0.9, 0.0, -.9],
]).T  # fmt: skip


def places(found):
    return [(place.start, place.stop) for place in found.occurrences]


def test_signs_edges_and_shares_restrict_matches():
    both = match(VALUES, (1, 3))
    assert both.units.tolist() == [0, 1, 2, 3]
    assert both.signs.tolist() == [1, 1, 1, -1]
    assert places(both) == [(7, 8)]
    assert places(match(VALUES, (1, 3), share=0.75)) == [(7, 8), (4, 5)]
    assert match(VALUES, (1, 3), sign="negative").units.tolist() == [3]
    positive = match(VALUES, (1, 3), sign="positive")
    assert positive.units.tolist() == [0, 1, 2]
    # unit 3 is on at step 4 too, but not at step 7
    assert [(p.start, p.closeness) for p in positive.occurrences] == [(7, 1.0), (4, 0.75)]
    assert match(VALUES, (1, 3), edges=True).units.tolist() == [0, 1, 3]


def test_the_span_is_not_its_own_occurrence_even_if_its_units_stay_on():
    found = match(VALUES[:, 2:3], (2, 3))
    assert found.units.tolist() == [0]
    assert found.occurrences == ()


def test_match_without_units_is_empty():
    found = match(VALUES, (3, 5), threshold=0.8)
    assert len(found.units) == 0
    assert found.occurrences == ()


@given(st.integers(0, 10_000))
def test_occurrences_are_maximal_ranges_of_steps_with_the_units_on(seed):
    values = np.random.default_rng(seed).normal(size=(40, 3))
    found = match(values, (10, 11), threshold=0.2)
    on = (values[:, found.units] * found.signs > 0.2).all(1)
    if not len(found.units):
        return
    covered = np.zeros(40, bool)
    for place in found.occurrences:
        assert on[place.start : place.stop].all()
        assert place.start == 0 or not on[place.start - 1]
        assert place.stop == 40 or not on[place.stop]
        covered[place.start : place.stop] = True
    left = np.flatnonzero(on & ~covered)
    assert 10 in left
    assert np.array_equal(left, np.arange(left[0], left[-1] + 1))  # only the span's own steps


@pytest.mark.parametrize(
    ("span", "options", "message"),
    [
        ("quikc", {"text": TEXT}, "the span 'quikc' is not in the text (did you mean quick?)"),
        ("", {"text": TEXT}, "is not in the text"),
        ("quick", {}, "requires text"),
        ((3, 3), {}, "0 <= start < stop <= 36, got"),
        ((0, 37), {}, "got"),
        (4, {}, "must be text or steps"),
        ((0, 2), {"sign": "up"}, "must be one of both, positive, negative, got 'up'"),
        ((0, 2), {"threshold": -1}, "must be >= 0"),
        ((0, 2), {"share": 0}, "in (0, 1]"),
        ((0, 2), {"text": "short"}, "the text has 5 tokens, but the values have 36 steps"),
        ((0, 2), {"text": ""}, "non-empty"),
    ],
)
def test_invalid_input_raises(span, options, message):
    with pytest.raises(UserError, match=re.escape(message)):
        match(np.zeros((len(TEXT), 2)), span, **options)


def test_values_of_several_sequences_raise():
    with pytest.raises(UserError, match=r"values of one sequence must be numbers \[T, H\]"):
        match(np.zeros((4, 2, 3)), (0, 1))


def test_spans_are_found_in_tokens_longer_than_a_character():
    tokens = ["the", " ", "cat", " ", "sat", " ", "the", " ", "cat"]
    values = np.array([[0, 0, 1, 0, 0, 0, 0, 0, 1.0]]).T
    found = match(values, "cat", tokens)
    assert (found.start, found.stop) == (2, 3)
    assert [(p.start, p.text) for p in found.occurrences] == [(8, "cat")]


# Interest.

PLAY = "".join(
    f"{name}:\n{'some words that are said by them '[: 20 + k % 13]}and more\nand a {'long ' * (k % 4)}line\n\n"
    for k, name in enumerate(["First Citizen", "All", "MENENIUS", "Second Citizen"] * 12)
)


def noise(seed, units=1):
    return np.random.default_rng(seed).normal(size=(len(PLAY), units))


def test_interest_scores_and_names_the_features_that_units_follow():
    heading = np.zeros(len(PLAY))
    at = 0
    for line in PLAY.splitlines(keepends=True):
        heading[at : at + len(line) - 1] = line.endswith(":\n")
        at += len(line)
    since = np.array([k - (PLAY.rfind("\n", 0, k) + 1) for k in range(len(PLAY))])
    slow = np.cumsum(noise(5, 30), 0)  # slow units that follow nothing
    values = np.stack([-heading, np.tanh(since / 20), PLAY_SPACES], 1) + 0.05 * noise(1, 3)
    found = interest(np.concatenate([values, noise(2), slow], 1), PLAY)
    assert found.phrases[:3] == ("low in a heading that ends in a colon", "rises along a line", "high at spaces")
    assert found.scores[0] > 0.75  # the bin at the boundary contains steps of both kinds
    assert found.scores[1] > 0.4
    assert 0.35 < found.scores[2] <= 0.5  # features of the current token count half
    assert found.scores[3] < 0.02
    assert found.scores[4:].max() < 0.25
    assert set(found.order[:3]) == {0, 1, 2}
    assert (np.diff(found.scores[found.order]) <= 0).all()


PLAY_SPACES = np.array([float(c == " ") for c in PLAY])


def test_quotes_and_brackets_are_recognized():
    text = 'He said "this is it" and (so on) went away. Then "no more of it" (never) came, "or so" (it) went. ' * 4
    quoted, inside = np.zeros(len(text)), False
    for k, character in enumerate(text):
        inside = inside != (character == '"')
        quoted[k] = inside or character == '"'
    brackets = np.cumsum([(c == "(") - (p == ")") for c, p in zip(text, " " + text, strict=False)])
    rough = 0.01 * np.random.default_rng(0).normal(size=(len(text), 2))
    found = interest(np.stack([quoted, 1.0 - brackets], 1) + rough, text)
    assert found.phrases == ("high inside quotes", "low inside brackets")


def test_featureless_text_and_constant_units_score_0():
    assert interest(noise(0)[:5], "aaaaa").scores.tolist() == [0]
    assert interest(np.ones((len(PLAY), 2)), PLAY).scores.tolist() == [0, 0]
    assert interest(np.ones((len(PLAY), 2)), PLAY).phrases == ("", "")


def test_right_to_left_text_emoji_and_nul_are_accepted():
    text = "שלום עולם\n😀 \0 ok\n" * 5
    found = interest(np.random.default_rng(0).normal(size=(len(text), 3)), text)
    assert np.isfinite(found.scores).all()


def test_text_of_a_different_length_raises():
    with pytest.raises(DataError, match="3 tokens, but the values have 4 steps"):
        interest(np.zeros((4, 2)), "abc")
