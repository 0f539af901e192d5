"""Layers that look up their inputs in a table match layers that run on the vectors themselves."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers import assert_close
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pack_padded_sequence

import throughtime
from throughtime.engines import get
from throughtime.errors import ProgramError, UserError
from throughtime.nn.language_model import LanguageModel
from throughtime.nn.look_up import TokenIds
from throughtime.nn.recurrent import Recurrent

ROWS = 5  # rows of the table
pytestmark = pytest.mark.skipif(
    get("native").refuses(throughtime.cells.lstm.program(1, 1), torch.zeros(1)) is not None,
    reason="the native extension is not built",
)


def given(width: int = 4, steps: int = 7, rows: int = 3, count: int = ROWS) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    table = torch.randn(count, width, generator=generator, dtype=torch.float64, requires_grad=True)
    return table, torch.randint(count, (steps, rows), generator=generator)


def layer(cell: str = "lstm", **options: Any) -> Recurrent:
    torch.manual_seed(0)
    return Recurrent(cell, 4, 6, dtype=torch.float64, **options)


def all_of(result: Any) -> list[Tensor]:
    return [result] if isinstance(result, Tensor) else [t for part in result for t in all_of(part)]


def with_gradients(of: Recurrent, table: Tensor, run: Any) -> list[Tensor]:
    torch.manual_seed(2)  # draw the same masks
    results = all_of(run())
    loss = sum((r * r).sum() for r in results)
    assert isinstance(loss, Tensor)
    return [*results, *torch.autograd.grad(loss, [table, *of.parameters()])]


def compare(of: Recurrent, table: Tensor, tokens: Tensor, state: Any = None) -> None:
    found = with_gradients(of, table, lambda: of(tokens, state, table=table))
    wanted = with_gradients(of, table, lambda: of(functional.embedding(tokens, table), state))
    assert_close(found, wanted, 1e-12)


QUICK: list[dict[str, Any]] = [
    {},
    {"cell": "gru"},
    {"cell": "rnn", "bias": False},
    {"cell": "lstm_multiplicative"},
    {"num_layers": 3, "dropout": 0.4},
    {"bidirectional": True, "num_layers": 2},
    {"bidirectional": True, "merge": "none"},
    {"reverse": True},
    {"learn_initial": True},
    {"weight_drop": 0.5},
    {"checkpoint_every": 2},
]


@pytest.mark.parametrize("options", QUICK, ids=str)
def test_products_computed_once_per_table_row_match_products_at_every_step(options: dict[str, Any]) -> None:
    of = layer(**options)
    table, tokens = given()
    assert of._layers_over(TokenIds(tokens, table)) is not None
    compare(of, table, tokens)
    of.eval()
    compare(of, table, tokens)


def test_initial_states_are_supported() -> None:
    of = layer(num_layers=2)
    table, tokens = given()
    compare(of, table, tokens, tuple(torch.randn(2, 2, 3, 6, dtype=torch.float64)))
    with pytest.raises(UserError, match=r"must have shape \[\[2, 3, 6\], \[2, 3, 6\]\]"):
        of(tokens, tuple(torch.zeros(2, 2, 4, 6, dtype=torch.float64)), table=table)


SLOW: list[dict[str, Any]] = [
    {"cell": "sru"},  # its output depends on x
    {"returns": "last"},
    {"returns": "states"},
    {"skip": "residual", "num_layers": 2},
    {"zoneout": 0.3},
    {"recurrent_dropout": 0.3},
    {"engine": "reference"},
]


@pytest.mark.parametrize("options", SLOW, ids=str)
def test_unsupported_options_fall_back_to_the_general_path(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    of = Recurrent(**{"cell": "lstm", "input_size": 6, "hidden_size": 6, "dtype": torch.float64} | options)
    table, tokens = given(6)
    assert of._layers_over(TokenIds(tokens, table)) is None
    compare(of, table, tokens)


def test_token_ids_can_have_any_supported_shape() -> None:
    table, tokens = given()
    compare(layer(batch_first=True), table, tokens)
    compare(layer(), table, tokens[:, 0])
    compare(layer(), *given(steps=2, rows=2))  # more table rows than tokens
    compare(layer(), table, tokens[:0])
    compare(layer(), *given(count=1))


def test_lengths_resets_and_packed_sequences_are_supported() -> None:
    table, tokens = given()
    vectors, of = functional.embedding(tokens, table), layer()
    reset = torch.zeros(7, 3)
    reset[4, 1] = 1
    for more in ({"lengths": [7, 2, 0]}, {"reset": reset}):
        assert_close(all_of(of(tokens, table=table, **more)), all_of(of(vectors, **more)), 1e-12)
    lengths = torch.tensor([7, 5, 1])
    packed, usual = (pack_padded_sequence(given, lengths) for given in (tokens, vectors))
    assert torch.equal(of(packed, table=table)[0].data, of(usual)[0].data)


def test_forward_hooks_are_called() -> None:
    of, seen = layer(), []
    of.register_forward_hook(lambda module, given, result: seen.append(result[0]))
    table, tokens = given()
    assert torch.equal(of(tokens, table=table)[0], seen[0])


def test_invalid_token_ids_and_tables_raise() -> None:
    of, (table, tokens) = layer(), given()
    assert torch.equal(of(tokens.int(), table=table)[0], of(tokens, table=table)[0])
    with pytest.raises(UserError, match=r"must be int64 or int32 token ids, got torch.float32"):
        of(tokens.float(), table=table)
    with pytest.raises(UserError, match="got list"):
        of([[1]], table=table)
    with pytest.raises(UserError, match=r"the table must be a tensor \[n, input_size\], got \[5, 4, 1\]"):
        of(tokens, table=table[..., None])
    with pytest.raises(UserError, match=r"must be \[T, B, 4\] or \[T, 4\], got \[7, 3, 3\]"):
        of(tokens, table=table[:, :3])
    with pytest.raises(UserError, match=r"must have the layers' dtype, torch.float64, got torch.float32"):
        of(tokens, table=table.float())


def test_recording_leaves_results_bitwise_equal() -> None:
    of = layer(num_layers=2)
    table, tokens = given()
    plain = with_gradients(of, table, lambda: of(tokens, table=table))
    with throughtime.record(of, "*", gradients=True) as tape:
        seen = with_gradients(of, table, lambda: of(tokens, table=table))
    for found, wanted in zip(seen, plain, strict=True):
        assert torch.equal(found, wanted)
    with throughtime.record(of, "*", gradients=True) as usual:
        with_gradients(of, table, lambda: of(functional.embedding(tokens, table)))
    for name, value in usual.calls[0].items():
        assert_close([tape[name], tape.gradient(name)], [value, usual.gradient(name)], 1e-12)


def test_edits_work() -> None:
    of = layer()
    table, tokens = given()
    with throughtime.edit(of, {"layer0.forget": lambda forget: forget * 0}):
        found = of(tokens, table=table)
        wanted = of(functional.embedding(tokens, table))
    assert_close(all_of(found), all_of(wanted), 1e-12)


def test_a_token_id_outside_the_table_raises() -> None:
    table, tokens = given()
    tokens[2, 1] = ROWS
    with pytest.raises(ProgramError, match="token ids must be from 0 to 4, got 5"):
        layer()(tokens, table=table)
    # batch_first uses the general path.
    with pytest.raises(UserError, match="token ids must be from 0 to 4 for a table of 5 rows, got 0 to 5"):
        layer(batch_first=True)(tokens, table=table)
    with pytest.raises(UserError, match=r"the table must be a tensor .*, got list"):
        layer()(tokens, table=table.tolist())


def test_autocast_and_forward_mode_are_supported() -> None:
    of = layer().float()
    table, tokens = given()
    table = table.detach().float()
    with torch.autocast("cpu", torch.bfloat16):
        assert of(tokens, table=table)[0].dtype == torch.bfloat16
    wanted = torch.func.jvp(lambda t: of(functional.embedding(tokens, t))[0], (table,), (torch.ones_like(table),))
    found = torch.func.jvp(lambda t: of(tokens, table=t)[0], (table,), (torch.ones_like(table),))
    assert_close(list(found), list(wanted), 1e-5)  # float32, over a few steps


# The language model, which trains with look-ups.


def model(vocabulary: int = 11, **options: Any) -> LanguageModel:
    torch.manual_seed(0)
    return LanguageModel(vocabulary, layer(num_layers=2), **options).double()


@pytest.mark.parametrize("vocabulary", [11, 200], ids=["fewer tokens than steps", "more tokens than steps"])
def test_the_training_loss_of_a_language_model_equals_the_evaluation_loss(vocabulary: int) -> None:
    of = model(vocabulary)
    tokens, targets = torch.randint(vocabulary, (2, 9, 4))
    found, measured = of.loss(tokens, targets), of.eval().loss(tokens, targets)
    assert_close([*all_of(found)], [*all_of(measured)], 1e-12)
    gradients = [torch.autograd.grad(loss, list(of.parameters())) for loss in (found[0], measured[0])]
    assert_close(list(gradients[0]), list(gradients[1]), 1e-12)


@pytest.mark.parametrize("vocabulary", [11, 200])
def test_embedding_dropout_drops_the_same_elements_at_every_occurrence_of_a_token(
    vocabulary: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = model(vocabulary, dropout=0.5)
    tokens = torch.randint(vocabulary, (9, 4))
    seen: list[Tensor] = []
    monkeypatch.setattr(
        of.recurrent, "forward", lambda at, state, lengths, table: seen.append(table[at]) or (table[at], ())
    )
    for _ in range(200):
        of._features(tokens, None, None, 0)
    given = torch.stack(seen)  # [200, T, B, width]
    embedded = of.encoder(tokens)
    kept = given != 0
    torch.testing.assert_close(given[kept], (2 * embedded.expand_as(given))[kept])
    for token in tokens.unique():
        at = kept[:, tokens == token]
        assert bool((at == at[:, :1]).all())
    # 200 draws for each of 4 elements of at least 10 tokens: the mean is within 5 standard deviations.
    assert kept.double().mean().item() == pytest.approx(0.5, abs=5 * 0.5 / (200 * 4 * 10) ** 0.5)


def test_a_language_model_in_training_compiles_as_one_graph() -> None:
    of = model().float()
    tokens = torch.randint(11, (9, 4))
    compiled = torch.compile(of, fullgraph=True, backend="aot_eager")
    assert_close(all_of(compiled(tokens)), all_of(of(tokens)), 1e-5)  # float32, over a few steps
