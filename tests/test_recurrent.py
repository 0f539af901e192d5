"""`Recurrent` runs any cell on every engine, with every form of input."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers import differentiable_run
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence

import throughtime
from throughtime import cells
from throughtime.engines import choose, get
from throughtime.engines.reference import ReferenceEngine
from throughtime.errors import UserError
from throughtime.language import affine, parameter, sigmoid, state, tanh
from throughtime.nn.recurrent import Recurrent
from throughtime.program.saving import from_json


@throughtime.cell
def leaky(x, h, m=state("memory", initial=0.5)):  # type: ignore[no-untyped-def]
    """A custom cell with a nonzero initial state."""
    z = sigmoid(affine("keep", x, h, m))
    m = z * m + (1 - z) * tanh(affine("candidate", x, h))
    return tanh(m), m


class OpaqueEngine(ReferenceEngine):
    """The reference engine detached from autograd, as the C++ engine is."""

    traceable = False

    def run(self, *args, **kwargs):  # type: ignore[no-untyped-def]
        with torch.no_grad():
            return super().run(*args, **kwargs)


def tensors(result: tuple[Tensor, object]) -> list[Tensor]:
    output, final = result
    return [output, *(final if isinstance(final, tuple) else (final,))]


@pytest.mark.parametrize("cell", [*cells.names(), leaky])
def test_sequences_and_chunks_are_independent(cell: str | throughtime.Cell) -> None:
    torch.manual_seed(0)
    layer = Recurrent(cell, 3, 5, 2, dtype=torch.float64)
    x = torch.randn(8, 4, 3, dtype=torch.float64)
    y, final = layer(x)
    first, middle = layer(x[:3])
    second, last = layer(x[3:], middle)
    torch.testing.assert_close(torch.cat([first, second]), y, rtol=0, atol=1e-14)
    for row in range(4):
        torch.testing.assert_close(layer(x[:, row])[0], y[:, row], rtol=0, atol=1e-14)
    torch.testing.assert_close(last, final, rtol=0, atol=1e-14)


@pytest.mark.parametrize("cell", [*cells.names(), leaky])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_lengths_match_running_each_sequence_alone(cell: str | throughtime.Cell, bidirectional: bool) -> None:
    torch.manual_seed(0)
    layer = Recurrent(cell, 3, 5, 2, bidirectional=bidirectional, dtype=torch.float64)
    x = torch.randn(6, 4, 3, dtype=torch.float64)
    lengths = [3, 6, 0, 5]
    x[3:, 0] = float("nan")  # padding is never read
    y, *states = tensors(layer(x, lengths=lengths))
    for row, length in enumerate(lengths):
        alone, *ends = tensors(layer(x[:length, row]))
        torch.testing.assert_close(y[:length, row], alone, rtol=0, atol=1e-14)
        assert (y[length:, row] == 0).all()
        for all_rows, end in zip(states, ends, strict=True):
            torch.testing.assert_close(all_rows[:, row], end, rtol=0, atol=1e-14)


@pytest.mark.parametrize("cell", [*cells.names(), leaky])
def test_packed_input_matches_padded_input_with_lengths(cell: str | throughtime.Cell) -> None:
    torch.manual_seed(0)
    layer = Recurrent(cell, 3, 5, batch_first=True, bidirectional=True)
    x, lengths = torch.randn(4, 6, 3), torch.tensor([3, 6, 1, 5])
    padded, *states = tensors(layer(x, lengths=lengths))
    packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    output, final = layer(packed)
    again, _ = torch.nn.utils.rnn.pad_packed_sequence(output, batch_first=True)
    assert torch.equal(again, padded)
    for a, b in zip(states, final if isinstance(final, tuple) else (final,), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("cell", [*cells.names(), leaky])
@pytest.mark.parametrize("sizes", [None, [3, 2, 2, 1]])
def test_first_and_second_derivatives_match_autograd(cell: str | throughtime.Cell, sizes: list[int] | None) -> None:
    torch.manual_seed(0)
    program = cells.get(cell).program(2, 3)

    def arguments() -> list[list[Tensor]]:
        torch.manual_seed(1)
        shapes = (
            [(4, 3, i.width) for i in program.inputs],
            [(3, s.width) for s in program.states],
            [p.shape for p in program.parameters],
        )
        return [[torch.randn(s, dtype=torch.float64, requires_grad=True) for s in kind] for kind in shapes]

    def derivatives(engine: ReferenceEngine) -> list[Tensor]:
        inputs, states, parameters = arguments()
        leaves = [*inputs, *states, *parameters]
        result = differentiable_run(engine, program, 4, inputs, states, parameters, sizes)
        loss = sum((t.sin() * t).sum() for t in [*result.outputs, *result.states])
        first = torch.autograd.grad(loss, leaves, create_graph=True)
        second = torch.autograd.grad(sum((g.cos() * g).sum() for g in first), leaves)
        return [*first, *second]

    for opaque, plain in zip(derivatives(OpaqueEngine()), derivatives(ReferenceEngine()), strict=True):
        # Sums of the same float64 terms in a different order.
        torch.testing.assert_close(opaque, plain, rtol=1e-11, atol=1e-11 * max(1.0, float(plain.detach().abs().max())))


def test_a_saved_layer_loads_without_the_cells_code() -> None:
    layer = Recurrent(leaky, 3, 5, 2)
    again = Recurrent.from_programs(layer.programs, 5)
    again.load_state_dict(layer.state_dict())
    x = torch.randn(4, 2, 3)
    assert torch.equal(again(x)[0], layer(x)[0])


def test_parameters_are_named_by_layer_and_direction() -> None:
    layer = Recurrent("lstm", 3, 4, 2, bidirectional=True)
    shapes = {name: tuple(p.shape) for name, p in layer.named_parameters()}
    assert shapes["weight_x_l0"] == (16, 3)
    assert shapes["weight_x_l1_reverse"] == (16, 8)
    assert shapes["bias_l1"] == (16,)


def test_parameters_with_the_same_stored_name_are_rejected() -> None:
    @throughtime.cell
    def twice(x, h):  # type: ignore[no-untyped-def]
        return tanh(affine("own", x, h)) * parameter("own.scale") * parameter("own_scale")

    with pytest.raises(UserError, match="two parameters of cell 'twice' are both stored as 'own_scale_l0': rename one"):
        Recurrent(twice, 3, 4)


def test_forget_bias_and_orthogonal_initialization_affect_the_right_rows() -> None:
    layer = Recurrent("lstm", 3, 4)
    layer.reset_parameters("orthogonal", forget_bias=1.0)
    assert (layer.get_parameter("bias_l0")[4:8] == 1).all()
    gate = layer.get_parameter("weight_h_l0")[8:12]
    torch.testing.assert_close(gate @ gate.T, torch.eye(4), rtol=0, atol=1e-6)  # float32 rounding
    layer.reset_parameters(0.01)
    assert all(p.abs().max() <= 0.01 for p in layer.parameters())


def test_torchs_engine_supports_only_torchs_layers() -> None:
    like = torch.zeros(1)
    torch_engine = get("torch")
    for name in ("rnn", "rnn_relu", "lstm", "gru"):
        assert torch_engine.refuses(cells.get(name).program(3, 4), like) is None
    assert torch_engine.refuses(cells.lstm.program(3, 4, projection=2), like) is None
    assert "leaky" in str(torch_engine.refuses(leaky.program(3, 4), like))
    with pytest.raises(UserError, match="can't run"):
        choose("torch", leaky.program(3, 4), like)


@pytest.mark.parametrize("name", ["rnn", "rnn_relu", "lstm", "gru"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("lengths", [None, [3, 6, 0, 5]])
def test_torchs_engine_matches_the_reference(name: str, bias: bool, lengths: list[int] | None) -> None:
    torch.manual_seed(0)
    layer = Recurrent(name, 3, 5, 2, bias=bias, bidirectional=True, dtype=torch.float64)
    x = torch.randn(6, 4, 3, dtype=torch.float64)
    results = []
    for engine in ("reference", "torch"):
        layer.engine = engine
        results.append(tensors(layer(x, lengths=lengths)))
    torch.testing.assert_close(*results, rtol=0, atol=1e-14)  # rounding in float64


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("lstn", 3, 4), "did you mean lstm"),
        (("lstm", 0, 4), "input_size must be"),
        (("lstm", 3, -4), "hidden_size must be"),
        (("lstm", 3, 4, 0), "num_layers must be"),
    ],
)
def test_invalid_arguments_are_rejected(arguments: tuple[object, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Recurrent(*arguments)  # type: ignore[arg-type]


def test_wrong_shapes_are_reported_with_the_expected_ones() -> None:
    layer = Recurrent("lstm", 3, 4)
    with pytest.raises(UserError, match=r"\[T, B, 3\].*got \[2, 2, 5\]"):
        layer(torch.zeros(2, 2, 5))
    with pytest.raises(UserError, match=r"must have shape \[\[1, 2, 4\], \[1, 2, 4\]\]"):
        layer(torch.zeros(2, 2, 3), torch.zeros(1, 2, 4))
    with pytest.raises(UserError, match="integers from 0 to 2"):
        layer(torch.zeros(2, 2, 3), lengths=[1, 3])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"input": [[0.0]]}, "the input must be a tensor, got list"),
        ({"input": torch.zeros(2, 2, dtype=torch.int64)}, r"got torch.int64. For token ids.*table=embedding.weight"),
        (
            {"input": torch.zeros(2, 2, 3, dtype=torch.float64)},
            "the input must have the layers' dtype, torch.float32, got torch.float64",
        ),
        ({"state": ([0.0], [0.0])}, "the state must be a tensor, got list"),
        (
            {"state": (torch.zeros(1, 2, 4, dtype=torch.float64),) * 2},
            "the state must have the layers' dtype, torch.float32",
        ),
        ({"lengths": [1.5, 1]}, r"integers from 0 to 2, got \[1.5, 1.0\]"),
        ({"lengths": "ab"}, "integers from 0 to 2, got 'ab'"),
        ({"reset": [[0, 0], [0, 0]]}, r"reset must have shape \[2, 2\], got list"),
    ],
)
def test_wrong_types_and_dtypes_are_rejected(given: dict[str, Any], message: str) -> None:
    arguments = {"input": torch.zeros(2, 2, 3)} | given
    with pytest.raises(UserError, match=message):
        Recurrent("lstm", 3, 4)(**arguments)


def test_meta_tensors_return_the_right_shapes() -> None:
    x = torch.empty(5, 2, 3, device="meta")
    for layer in (Recurrent("gru", 3, 4, 2, device="meta"), throughtime.LSTM(3, 4, device="meta")):
        output, _ = layer(x)
        assert output.shape == (5, 2, 4)
        assert output.device.type == "meta"


def test_lengths_can_have_any_numeric_type() -> None:
    layer, x = Recurrent("lstm", 3, 4), torch.randn(2, 2, 3)
    assert torch.equal(layer(x, lengths=torch.tensor([2.0, 1.0]))[0], layer(x, lengths=[2, 1])[0])
    assert layer(x[:, :0], lengths=[])[0].shape == (2, 0, 4)


@pytest.mark.parametrize("cell", [*cells.names(), leaky])
@pytest.mark.parametrize("engine", ["native", "reference"])
def test_a_reset_matches_a_new_sequence(cell: str | throughtime.Cell, engine: str) -> None:
    torch.manual_seed(0)
    layer = Recurrent(cell, 3, 5, 2, engine=engine, dtype=torch.float64)
    x = torch.randn(6, 2, 3, dtype=torch.float64, requires_grad=True)
    reset = torch.zeros(6, 2, dtype=torch.bool)
    reset[4, 0] = True
    y, *final = tensors(layer(x, reset=reset))
    later, *ends = tensors(layer(x[4:, :1]))
    torch.testing.assert_close(y[4:, :1], later, rtol=0, atol=1e-14)
    for both, one in zip(final, ends, strict=True):
        torch.testing.assert_close(both[:, :1], one, rtol=0, atol=1e-14)
    torch.testing.assert_close(y[:, 1], layer(x[:, 1])[0], rtol=0, atol=1e-14)
    (gradient,) = torch.autograd.grad(y[4:, 0].sum(), x)
    assert (gradient[:4] == 0).all()
    assert (gradient[4:, 0] != 0).any()
    alone = layer(x[:, 0], reset=reset[:, 0], lengths=None)[0]
    torch.testing.assert_close(alone, y[:, 0], rtol=0, atol=1e-14)
    short = layer(x, reset=reset, lengths=[5, 6])[0]
    torch.testing.assert_close(short[:5], y[:5], rtol=0, atol=1e-14)


def test_a_reset_of_the_wrong_shape_is_rejected() -> None:
    with pytest.raises(UserError, match=r"reset must have shape \[4, 2\], got \[4\]"):
        Recurrent("gru", 3, 5)(torch.zeros(4, 2, 3), reset=torch.zeros(4))


def test_gradients_with_checkpoints_are_bit_identical() -> None:
    torch.manual_seed(0)
    whole = Recurrent("lstm", 3, 5, 2)
    kept = Recurrent("lstm", 3, 5, 2, checkpoint_every=16)
    kept.load_state_dict(whole.state_dict())
    x = torch.randn(200, 2, 3)
    for layers in (whole, kept):
        layers(x, lengths=[200, 70])[0].square().sum().backward()
    for a, b in zip(whole.parameters(), kept.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad)


@pytest.mark.parametrize("every", [0, -1, 2.5, True])
def test_an_invalid_checkpoint_every_is_rejected(every: object) -> None:
    with pytest.raises(UserError, match="checkpoint_every"):
        Recurrent("lstm", 3, 5, checkpoint_every=every)


@pytest.mark.parametrize("cell", [torch.nn.LSTM, torch.nn.LSTM(3, 4), None, 3])
def test_an_invalid_cell_is_rejected(cell: Any) -> None:
    with pytest.raises(UserError, match="cell must be a name"):
        Recurrent(cell, 3, 4)


def test_equal_programs_are_the_same_object() -> None:
    """Engines can then look up cached data at each step without comparing whole programs."""
    layer = Recurrent("gru", 3, 5)
    again = Recurrent.from_programs([from_json(program.text) for program in layer.programs], 5)
    assert again.programs[0] is layer.programs[0]


@pytest.mark.parametrize(
    ("cell", "option", "message"),
    [
        ("lstm", {"proj_size": 2}, r"proj_size is called projection here: Recurrent\(..., projection=...\)"),
        ("rnn", {"nonlinearity": "relu"}, r"nonlinearity is called activation here: Recurrent\(..., activation=...\)"),
        ("gru", {"proj_size": 2}, "projection of some cells, but cell 'gru' has no hyper-parameters"),
    ],
)
def test_torchs_option_names_suggest_ours(cell, option, message):
    with pytest.raises(UserError, match=message):
        Recurrent(cell, 3, 4, **option)
