"""Additional inputs of a cell: every way to run a layer accepts them, and all results agree."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import assert_close
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence

import throughtime
from throughtime import Recurrent, cells
from throughtime.errors import CellError, UserError
from throughtime.language import affine, cell, exp, inputs, parameter, softplus, state, tanh
from throughtime.nn.encoders import Embedding, Numeric, Projection
from throughtime.nn.sequence_model import SequenceModel
from throughtime.outputs import Point

STEPS, ROWS = 6, 3


@cell
def decaying(x, h, dt=inputs(width=1), mask=inputs(width="kinds"), *, kinds=2):
    """A cell whose state decays with elapsed time."""
    h = exp(-dt * softplus(parameter("rate"))) * h
    return tanh(affine("hidden", x, h, mask))


def sequences(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.rand(STEPS, ROWS, width, generator=generator) for width in (4, 1, 2))


def in_torch(layer: Recurrent, x: Tensor, dt: Tensor, mask: Tensor) -> Tensor:
    """Run one layer as a plain loop."""
    p = dict(layer.named_parameters())
    h, found = torch.zeros(x.shape[1], layer.hidden_size), []
    for t in range(len(x)):
        h = torch.exp(-dt[t] * torch.nn.functional.softplus(p["rate_l0"])) * h
        total = x[t] @ p["weight_x_l0"].T + h @ p["weight_hidden_l0"].T + mask[t] @ p["weight_mask_l0"].T
        h = torch.tanh(total + p["bias_l0"])
        found.append(h)
    return torch.stack(found)


@pytest.mark.parametrize("engine", ["reference", "native"])
def test_a_layer_takes_additional_inputs_by_name(engine):
    layer = Recurrent(decaying, 4, 5, engine=engine)
    x, dt, mask = sequences()
    dt.requires_grad_()
    y, _ = layer(x, dt=dt, mask=mask)
    wanted = in_torch(layer, x, dt, mask)
    assert_close([y], [wanted], 1e-6)
    (gradient,) = torch.autograd.grad(y.square().sum(), dt)
    (expected,) = torch.autograd.grad(wanted.square().sum(), dt)
    assert_close([gradient], [expected], 1e-5)
    throughtime.gradcheck(decaying)


def test_all_forms_of_input_agree():
    layer = Recurrent(decaying, 4, 5, 2, bidirectional=True)
    x, dt, mask = sequences()
    y, _ = layer(x, dt=dt, mask=mask)
    assert torch.equal(layer(x, dt=dt[..., 0], mask=mask)[0], y)  # an axis of width 1 can be omitted
    assert torch.equal(layer(x[:, 1], dt=dt[:, 1], mask=mask[:, 1])[0], y[:, 1])
    assert torch.equal(layer(x, dt=dt, mask=mask, reset=torch.zeros(STEPS, ROWS))[0], y)
    lengths = [3, 6, 0]
    padded, _ = layer(x, dt=dt, mask=mask, lengths=lengths)
    for row, length in enumerate(lengths[:2]):
        cut = slice(length), slice(row, row + 1)
        assert torch.equal(padded[cut], layer(x[cut], dt=dt[cut], mask=mask[cut])[0])
    lengths = [3, 6, 1]
    packed = [pack_padded_sequence(v, lengths, enforce_sorted=False) for v in (x, dt, mask)]
    of_packed, _ = layer(packed[0], dt=packed[1], mask=packed[2])
    wanted = pack_padded_sequence(layer(x, dt=dt, mask=mask, lengths=lengths)[0], lengths, enforce_sorted=False)
    assert torch.equal(of_packed.data, wanted.data)
    first = Recurrent.from_programs(layer.programs, 5, bidirectional=True, batch_first=True)
    first.load_state_dict(layer.state_dict())
    turned = [v.transpose(0, 1) for v in (x, dt, mask)]
    assert torch.equal(first(turned[0], dt=turned[1], mask=turned[2])[0].transpose(0, 1), y)


def test_inference_matches_training():
    """A single layer takes a fast path without gradients."""
    layer = Recurrent(decaying, 4, 5).eval()
    x, dt, mask = sequences()
    y, _ = layer(x, dt=dt, mask=mask)
    with torch.no_grad():
        assert torch.equal(layer(x, dt=dt, mask=mask)[0], y)
        with pytest.raises(UserError, match="missing input dt, which the layers take at each step"):
            layer(x, mask=mask)


def test_additional_inputs_can_be_recorded_and_edited():
    layer = Recurrent(decaying, 4, 5)
    x, dt, mask = sequences()
    with throughtime.record(layer, "layer0.dt", "layer0.hidden") as tape:
        y, _ = layer(x, dt=dt, mask=mask)
    assert torch.equal(tape["layer0.dt"], dt)
    assert torch.equal(tape["layer0.hidden"], y)
    with throughtime.edit(layer, {"layer0.dt": 0.0}):
        edited, _ = layer(x, dt=dt, mask=mask)
    assert torch.equal(edited, layer(x, dt=torch.zeros_like(dt), mask=mask)[0])


def test_compiled_layers_take_additional_inputs():
    layer = Recurrent(decaying, 4, 5)
    x, dt, mask = sequences()
    compiled = torch.compile(layer, backend="eager")
    assert torch.equal(compiled(x, dt=dt, mask=mask)[0], layer(x, dt=dt, mask=mask)[0])


def test_streams_and_saved_files_take_additional_inputs(tmp_path):
    layer = Recurrent(decaying, 4, 5, 2)
    x, dt, mask = (v[:, 0] for v in sequences())
    y = layer(x, dt=dt, mask=mask)[0].detach().numpy()
    throughtime.save(layer, tmp_path / "layer.safetensors")
    assert np.array_equal(throughtime.load(tmp_path / "layer.safetensors")(x, dt=dt, mask=mask)[0].detach().numpy(), y)
    x, dt, mask = (v.numpy() for v in (x, dt, mask))
    stream = throughtime.Stream(tmp_path / "layer.safetensors")
    assert np.array_equal([stream.step(x[t], dt=float(dt[t, 0]), mask=mask[t]) for t in range(STEPS)], y)
    stream.reset()
    assert np.array_equal(stream.process(x, dt=dt[:, 0], mask=mask), y)
    side_by_side = throughtime.Stream(layer, rows=2)
    twice = side_by_side.step(np.stack([x[0]] * 2), dt=np.stack([dt[0]] * 2), mask=np.stack([mask[0]] * 2))
    assert np.array_equal(twice, [y[0], y[0]])
    for given, message in [
        ({"mask": mask[0]}, r"missing input dt, which the network takes at each step: step\(x, dt=...\)"),
        ({"dt": 1.0, "mask": mask[0], "masks": 1}, "has no input 'masks' .did you mean mask"),
        ({"dt": 1.0, "mask": mask[0, :1]}, r"mask must be float32 \[2\], got float32 \[1\]"),
    ]:
        with pytest.raises(UserError, match=message):
            stream.step(x[0], **given)


def test_c_and_onnx_exports_take_additional_inputs(tmp_path: Path):
    layer = Recurrent(decaying, 4, 5, 2)
    x, dt, mask = (v[:, :1] for v in sequences())
    y = layer(x, dt=dt, mask=mask)[0].detach().numpy()
    throughtime.to_c(layer, tmp_path / "net.c")
    assert "x has NET_INPUTS values: 4 for x, then 1 for dt, then 2 for mask." in (tmp_path / "net.h").read_text()
    command = ["cc", "-std=c99", "-Wall", "-Wextra", "-pedantic", "-Werror", "-O2", "-DNET_MAIN", "net.c", "-lm"]
    subprocess.run(command, cwd=tmp_path, check=True)
    rows = "\n".join(" ".join(map(str, row)) for row in torch.cat([x, dt, mask], -1)[:, 0].tolist())
    printed = subprocess.run(tmp_path / "a.out", input=rows, capture_output=True, text=True, check=True).stdout
    np.testing.assert_allclose(np.array([line.split() for line in printed.splitlines()], float), y[:, 0], atol=1e-5)

    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(throughtime.to_onnx(layer).SerializeToString())
    given = {"input": x, "dt": dt, "mask": mask, "initial_hidden": torch.zeros(2, 1, 5)}
    (found, _) = session.run(None, {name: value.numpy() for name, value in given.items()})
    np.testing.assert_allclose(found, y, atol=1e-6)


def test_a_sequence_model_reads_them_after_x(tmp_path: Path) -> None:
    model = SequenceModel(Numeric(7), Recurrent(decaying, 4, 5, 2), Point(1, "mse"))
    parts = sequences()
    x = torch.cat(parts, -1)

    def expected(part: slice, **options: object) -> tuple[Tensor, Tensor]:
        of, dt, mask = (each[part] for each in parts)
        y, h = model.recurrent(of, dt=dt, mask=mask, **options)
        return model.head(y), h

    y, h = model(x)
    assert_close([y, h], expected(slice(None)), 0)
    lengths = torch.tensor([6, 4, 1])
    assert_close([model(x, lengths=lengths)[0]], [expected(slice(None), lengths=lengths)[0]], 0)
    _, h = expected(slice(STEPS - 2))
    assert_close([model(x, branches=2)[0][-1]], expected(slice(STEPS - 1, None), state=h)[0], 1e-6)

    throughtime.save(model, tmp_path / "model.safetensors")
    assert torch.equal(throughtime.load(tmp_path / "model.safetensors")(x)[0], y)
    together, by_name = (throughtime.Stream(tmp_path / "model.safetensors", rows=ROWS) for _ in range(2))
    for t in range(STEPS):
        of, dt, mask = (each[t].numpy() for each in parts)
        found = together.step(x[t].numpy())
        assert np.array_equal(found, by_name.step(of, dt=dt, mask=mask))
    np.testing.assert_allclose(found, y[-1].detach().numpy(), atol=1e-6)

    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(throughtime.to_onnx(model).SerializeToString())
    (found, _) = session.run(None, {"input": x.numpy(), "initial_hidden": np.zeros((2, ROWS, 5), np.float32)})
    np.testing.assert_allclose(found, y.detach().numpy(), atol=1e-6)


def test_an_optional_input_is_none_unless_requested():
    @cell
    def paced(x, h, dt=inputs(optional=True)):
        return tanh(affine("candidate", x, h)) * (1.0 if dt is None else dt)

    @cell
    def around(x, h):
        return paced(x, h)

    assert [i.name for i in paced.program(3, 4).inputs] == ["x"]
    assert [i.name for i in paced.program(3, 4, inputs=["dt"]).inputs] == ["x", "dt"]
    assert around.program(3, 4).equivalent(paced.program(3, 4))
    with pytest.raises(UserError, match=r"name it when you create the layers: Recurrent\(..., inputs=\['dt'\]\)"):
        Recurrent(paced, 3, 4)(torch.zeros(2, 1, 3), dt=torch.zeros(2, 1))
    with pytest.raises(CellError, match=r"has no input 'gap'.*it has dt"):
        Recurrent(paced, 3, 4, inputs=["gap"])


def test_cfc_takes_time_gaps():
    """Hasani et al. 2022: the gate between the two heads is a sigmoid of `a dt + b`."""
    layer = Recurrent("cfc", 3, 4, backbone=5, inputs=["dt"], dtype=torch.float64)
    x, dt = torch.randn(STEPS, 2, 3, dtype=torch.float64), torch.rand(STEPS, 2, 1, dtype=torch.float64)
    p, program = dict(layer.named_parameters()), layer.programs[0]
    rows = {q.gate: slice(q.start, q.stop) for k in program.parameters if k.name == "weight_first" for q in k.parts}
    biases = {q.gate: slice(q.start, q.stop) for k in program.parameters if k.name == "bias" for q in k.parts}
    h = torch.zeros(2, 4, dtype=torch.float64)
    for t in range(STEPS):
        u = x[t] @ p["weight_x_l0"].T + h @ p["weight_h_l0"].T + p["bias_l0"][biases["backbone"]]
        u = 1.7159 * torch.tanh(0.666 * u)
        first, second, scale, shift = (
            u @ p["weight_first_l0"][rows[gate]].T + p["bias_l0"][biases[gate]]
            for gate in ("first", "second", "time.scale", "time.shift")
        )
        s = torch.sigmoid(scale * dt[t] + shift)
        h = torch.tanh(first) * (1 - s) + torch.tanh(second) * s
    assert_close([layer(x, dt=dt)[1][0]], [h], 1e-12)
    assert [i.name for i in cells.cfc.program(3, 4).inputs] == ["x"]


# Mistakes.


def forgotten_declaration(x, dt, h):
    return tanh(affine("hidden", x, h, dt))


def name_of_an_argument(x, h, lengths=inputs()):
    return h


def no_state(x, dt=inputs()):
    return dt


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (forgotten_declaration, r"declare it as one: def forgotten_declaration(x, h, dt=inputs(width=1))"),
        (name_of_an_argument, "an input can't be named 'lengths': layers have an argument of that name"),
        (no_state, "a cell must take at least one state besides its inputs"),
    ],
)
def test_a_wrong_declaration_raises_with_a_fix(function, message):
    with pytest.raises(CellError) as caught:
        cell(function).program(3, 4)
    assert message in str(caught.value)


def test_missing_or_mismatched_inputs_raise():
    layer = Recurrent(decaying, 4, 5)
    x, dt, mask = sequences()
    packed = pack_padded_sequence(x, [6, 6, 6])
    for given, input, message in [
        ({"mask": mask}, x, r"missing input dt, which the layers take at each step: layer\(x, dt=...\)"),
        ({"dt": dt, "mask": mask, "gap": dt}, x, r"have no input 'gap'; they take dt, mask"),
        ({"dt": dt[:2], "mask": mask}, x, r"dt must have shape \[6, 3, 1\], to match x, got \[2, 3, 1\]"),
        ({"dt": dt.double(), "mask": mask}, x, "dt must have the layers' dtype, torch.float32"),
        ({"dt": 1.0, "mask": mask}, x, "dt must be a tensor"),
        ({"dt": dt, "mask": mask}, packed, "dt must be a packed sequence with the same lengths as the input"),
    ]:
        with pytest.raises(UserError, match=message):
            layer(input, **given)
    with pytest.raises(UserError, match=r"4 features, but the recurrent layers take 4 \+ 1 of dt \+ 2 of mask"):
        SequenceModel(Numeric(4), layer, Point(1, "mse"))
    for encoder in (Embedding(9, 7), Projection(9, 7)):
        with pytest.raises(UserError, match="embeds its input has no other inputs, but the recurrent layers take dt"):
            SequenceModel(encoder, layer, Point(1, "mse"))

    @cell
    def as_wide_as_x(x, h, mask=inputs(width=lambda input_size: input_size)):
        return tanh(affine("hidden", x, h, mask))

    with pytest.raises(
        UserError, match=r"layer 1 takes the step inputs mask \[5\], but the first layer takes mask \[4\]"
    ):
        Recurrent(as_wide_as_x, 4, 5, 2)


# Computed widths.


def test_widths_can_be_computed_from_sizes_and_hyper_parameters():
    @cell
    def quarter(x, h, s=state("summary", width=lambda hidden_size, share: hidden_size // share), *, share=4):
        s = tanh(affine("summary.next", x, s, width=s.width))
        return tanh(affine("hidden", x, h, s)), s

    assert [s.width for s in quarter.program(3, 8).states] == [8, 2]
    assert [s.width for s in quarter.program(3, 8, share=2).states] == [8, 4]

    @cell
    def unknown(x, h, s=state(width=lambda units: units // 4)):
        return h, s

    with pytest.raises(CellError, match="depends on 'units'; it can depend only on input_size, hidden_size"):
        unknown.program(3, 8)

    @cell
    def matrix_valued(x, h, m=state(width=(4, 4))):
        return h, m

    with pytest.raises(CellError, match=r"\(4, 4\), but the state of a cell is a vector; matrix-valued states"):
        matrix_valued.program(3, 4)
