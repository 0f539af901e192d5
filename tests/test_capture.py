"""Under torch's tracing, fake tensors and transforms, a layer behaves like torch's own."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

import throughtime
from throughtime.language import affine, sigmoid, tanh
from throughtime.nn.language_model import LanguageModel

from torch._subclasses.fake_tensor import FakeTensorMode  # isort: skip

NAMES = ["RNN", "LSTM", "GRU"]
# The same formula summed in a different order, for values near 1.
CLOSE = {"rtol": 1e-5, "atol": 1e-6}

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*torch.jit.*:DeprecationWarning",
    "ignore:The feature will be removed:DeprecationWarning",
    "ignore:.*to_torchscript:",
    "ignore:You are using the legacy TorchScript-based ONNX export:DeprecationWarning",
    "ignore::torch.jit.TracerWarning",  # traces fix shapes in torch's own layers too
    "ignore:Exporting a model to ONNX with a batch_size other than 1:UserWarning",
)


@throughtime.cell
def own_cell(x, h):  # type: ignore[no-untyped-def]
    f = sigmoid(affine("forget", x, h))
    return f * h + (1 - f) * tanh(affine("candidate", x, f * h))


class Tagger(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer, self.out = layer, nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.out(self.layer(x)[0])
        return y


class Stepper(nn.Module):
    """A loop over single steps of a cell."""

    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, x: Tensor) -> Tensor:
        state, outputs = None, []
        for t in range(x.shape[0]):
            state = self.cell(x[t], state)
            outputs.append(state[0] if isinstance(state, tuple) else state)
        return torch.stack(outputs)


def models() -> dict[str, Callable[[], nn.Module]]:
    made: dict[str, Callable[[], nn.Module]] = {}
    for name in NAMES:
        made[name] = lambda name=name: Tagger(getattr(throughtime, name)(3, 4))  # type: ignore[misc]
        made[name + "Cell"] = lambda name=name: Stepper(getattr(throughtime, name + "Cell")(3, 4))  # type: ignore[misc]
    made["Recurrent lstm"] = lambda: Tagger(throughtime.Recurrent("lstm", 3, 4))
    made["Recurrent peephole"] = lambda: Tagger(throughtime.Recurrent("lstm_peephole", 3, 4))
    made["Recurrent own"] = lambda: Tagger(throughtime.Recurrent(own_cell, 3, 4))
    made["Recurrent dropout"] = lambda: Tagger(throughtime.Recurrent("gru", 3, 4, 2, dropout=0.5))
    return made


MODELS = models()


@pytest.fixture(autouse=True)
def _reset_dynamo() -> Iterator[None]:
    """Reset Dynamo, which gives up after eight recompilations of a function in a process."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture(params=list(MODELS))
def model(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(0)
    return MODELS[request.param]().eval()


def inputs() -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    example, other = torch.randn(2, 5, 2, 3)
    return example, other


@pytest.mark.parametrize("gradients", [False, True])
def test_a_trace_depends_on_its_input(model: nn.Module, gradients: bool) -> None:
    example, other = inputs()
    with torch.set_grad_enabled(gradients):
        traced = torch.jit.trace(model, example)
        torch.testing.assert_close(traced(other), model(other), **CLOSE)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("form", ["packed", "bidirectional", "training"])
def test_a_trace_of_other_input_forms(name: str, form: str) -> None:
    layer = getattr(throughtime, name)(3, 4, 2, bidirectional=form == "bidirectional", dropout=0.5)
    layer.train(form == "training")
    example, other = inputs()
    lengths = torch.tensor([5, 3])

    class Run(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, x: Tensor) -> Tensor:
            if form == "packed":
                return pad_packed_sequence(self.layer(pack_padded_sequence(x, lengths))[0])[0]
            return self.layer(x)[0]

    with torch.no_grad():
        traced = torch.jit.trace(Run(), example, check_trace=False)
        torch.manual_seed(2)
        found = traced(other)
        torch.manual_seed(2)
        expected = getattr(nn, name).forward(layer, other)[0] if form == "training" else Run()(other)
    torch.testing.assert_close(found, expected, **CLOSE)


def test_a_frozen_layer_is_traced() -> None:
    model = throughtime.freeze(Tagger(throughtime.LSTM(3, 4)))
    example, other = inputs()
    with torch.no_grad():
        torch.testing.assert_close(torch.jit.trace(model, example)(other), model(other), **CLOSE)


def test_a_trace_of_a_language_model() -> None:
    model = LanguageModel(7, throughtime.Recurrent("lstm", 3, 4)).eval()
    tokens = torch.arange(60).view(20, 3) % 7
    with torch.no_grad():
        traced = torch.jit.trace(model, tokens)
        torch.testing.assert_close(traced(tokens.flip(0))[0], model(tokens.flip(0))[0], **CLOSE)


def test_lightning_traces(tmp_path: Path) -> None:
    from lightning import LightningModule

    class Lit(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = Tagger(throughtime.GRU(3, 4))

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.model(x)
            return y

    lit = Lit().eval()
    example, other = inputs()
    traced = lit.to_torchscript(method="trace", example_inputs=example)
    torch.testing.assert_close(traced(other), lit(other), **CLOSE)  # type: ignore[operator]


def test_a_model_of_the_older_onnx_exporter_depends_on_its_input(model: nn.Module, tmp_path: Path) -> None:
    ort = pytest.importorskip("onnxruntime")
    example, other = inputs()
    path = tmp_path / "model.onnx"
    torch.onnx.export(model.requires_grad_(False), (example,), path, dynamo=False, input_names=["x"])
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"x": other.numpy()})
    np.testing.assert_allclose(found, model(other).numpy(), **CLOSE)


@pytest.mark.parametrize("how", ["real", "fake", "symbolic", "pre_dispatch"])
def test_a_make_fx_graph_depends_on_its_input(model: nn.Module, how: str) -> None:
    example, other = inputs()
    kwargs: dict[str, Any] = {"pre_dispatch": True} if how == "pre_dispatch" else {"tracing_mode": how}
    if how in ("fake", "symbolic"):
        kwargs["_allow_non_fake_inputs"] = True  # the weights
    with torch.no_grad():
        graph = make_fx(model, **kwargs)(example)
        torch.testing.assert_close(graph(other), model(other), **CLOSE)


def test_aot_graphs_depend_on_their_input(model: nn.Module) -> None:
    from functorch.compile import aot_module, nop

    example, other = inputs()
    compiled = aot_module(model, nop)
    with torch.no_grad():  # with gradients, torch doesn't support its own LSTM here
        compiled(example)
        torch.testing.assert_close(compiled(other), model(other), **CLOSE)


def test_functionalize_works(model: nn.Module) -> None:
    example, _ = inputs()
    torch.testing.assert_close(torch.func.functionalize(model)(example), model(example), **CLOSE)


def test_fake_tensors_return_fake_results(model: nn.Module) -> None:
    example, _ = inputs()
    expected = model(example)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        for gradients in (False, True):
            with torch.set_grad_enabled(gradients):
                found = model(mode.from_tensor(example))
            assert type(found) is type(mode.from_tensor(example))
            assert found.shape == expected.shape
            assert found.dtype == expected.dtype


@pytest.mark.parametrize("name", NAMES)
def test_a_layer_with_fake_parameters_runs_and_trains(name: str) -> None:
    with FakeTensorMode():
        layer = getattr(throughtime, name)(3, 4, 2, dropout=0.5)
        x = torch.randn(5, 2, 3)
        y = layer(x)[0]
        y.sum().backward()
        assert y.shape == (5, 2, 4)
        assert all(p.grad is not None and p.grad.shape == p.shape for p in layer.parameters())


def test_a_mode_sees_every_operation(model: nn.Module) -> None:
    class Count(TorchDispatchMode):
        seen = 0

        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.seen += 1
            return function(*args, **(kwargs or {}))

    example, _ = inputs()
    with FlopCounterMode(display=False) as flops, Count() as count:
        found = model(example)
    torch.testing.assert_close(found, model(example), **CLOSE)
    assert flops.get_total_flops() > 0
    assert count.seen > 2


def layers(name: str) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    theirs = getattr(nn, name)(3, 4)
    ours = getattr(throughtime, name)(3, 4)
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def odd_tensors() -> dict[str, Callable[[Tensor], Tensor]]:
    from torch.masked import masked_tensor

    class Tagged(Tensor):
        pass

    return {
        "zero": lambda x: torch._efficientzerotensor(x.shape),
        "negative view": lambda x: torch.complex(x, x).conj().imag,
        "subclass": lambda x: x.as_subclass(Tagged),
        "masked": lambda x: masked_tensor(x, x > 0),
        "nested": lambda x: torch.nested.nested_tensor(list(x)),
        "sparse": lambda x: x.to_sparse(),
        "mkldnn": lambda x: x.to_mkldnn(),
        "meta": lambda x: x.to("meta"),
    }


@pytest.mark.filterwarnings("ignore:.*PyTorch API of (MaskedTensors|nested tensors):UserWarning")
@pytest.mark.parametrize("kind", list(odd_tensors()))
@pytest.mark.parametrize("name", [*NAMES, "RNNCell", "LSTMCell", "GRUCell"])
def test_unusual_tensors_behave_as_in_torchs_layer(name: str, kind: str) -> None:
    theirs, ours = layers(name)
    x = odd_tensors()[kind](torch.randn((2, 3) if name.endswith("Cell") else (5, 2, 3)))

    def outcome(layer: nn.Module) -> Any:
        try:
            result = layer(x)
        except Exception as error:
            return type(error)
        return result[0] if isinstance(result, tuple) else result

    found = outcome(ours)
    x = torch.zeros(x.shape) if kind == "zero" else x  # torch's LSTM reads invalid memory for this kind
    expected = outcome(theirs)
    assert type(found) is type(expected)
    if isinstance(expected, type):
        assert found is expected
    elif kind != "meta":
        torch.testing.assert_close(found, expected, **CLOSE)


def test_freed_storage_is_rejected() -> None:
    x = torch.randn(5, 2, 3)
    x.untyped_storage().resize_(0)
    with pytest.raises(throughtime.errors.UserError, match="has no memory"):
        throughtime.LSTM(3, 4)(x)


def test_tensor_subclasses_are_preserved() -> None:
    class Tagged(Tensor):
        pass

    layer = throughtime.Recurrent(own_cell, 3, 4)
    x = torch.randn(5, 2, 3)
    y, h = layer(x.as_subclass(Tagged))
    assert type(y) is type(h) is Tagged
    torch.testing.assert_close(y.as_subclass(Tensor), layer(x)[0], **CLOSE)


@pytest.mark.parametrize("name", NAMES)
def test_batched_cotangents(name: str) -> None:
    theirs, ours = (layer.double() for layer in layers(name))
    x = torch.randn(5, 2, 3, dtype=torch.float64, requires_grad=True)
    jacobians, hessians = [], []
    for layer in (theirs, ours):
        jacobians.append(torch.autograd.functional.jacobian(lambda x: layer(x)[0], x, vectorize=True))  # noqa: B023
        hessians.append(torch.autograd.functional.hessian(lambda x: layer(x)[0].sin().sum(), x, vectorize=True))  # noqa: B023
    torch.testing.assert_close(jacobians[1], jacobians[0])
    torch.testing.assert_close(hessians[1], hessians[0])
    assert torch.autograd.gradcheck(lambda x: ours(x)[0], (x,), check_batched_grad=True)
    y = ours(x)[0]
    cotangents = torch.randn(4, *y.shape, dtype=torch.float64)
    leaves = [x, *ours.parameters()]
    batched = torch.autograd.grad(y, leaves, cotangents, is_grads_batched=True, retain_graph=True)
    for k, cotangent in enumerate(cotangents):
        for of_batch, alone in zip(batched, torch.autograd.grad(y, leaves, cotangent, retain_graph=True), strict=True):
            assert torch.equal(of_batch[k], alone)


@pytest.mark.parametrize("name", NAMES)
def test_tangents_of_weights_only(name: str) -> None:
    theirs, ours = (layer.double() for layer in layers(name))
    x = torch.randn(5, 2, 3, dtype=torch.float64)
    tangents = {key: torch.randn_like(weight) for key, weight in theirs.named_parameters()}
    found = []
    for layer in (theirs, ours):
        with forward_ad.dual_level():
            weights = {
                key: forward_ad.make_dual(weight.detach(), tangents[key]) for key, weight in layer.named_parameters()
            }
            y = torch.func.functional_call(layer, weights, (x,))[0]
            found.append(forward_ad.unpack_dual(y).tangent)
    torch.testing.assert_close(found[1], found[0])


def test_batched_cotangents_through_segments_and_dropout() -> None:
    layer = throughtime.Recurrent("gru", 3, 4, 2, dropout=0.5, dtype=torch.float64, checkpoint_every=2)
    x = torch.randn(7, 2, 3, dtype=torch.float64, requires_grad=True)
    y = layer(x)[0]
    cotangents = torch.randn(3, *y.shape, dtype=torch.float64)
    (batched,) = torch.autograd.grad(y, x, cotangents, is_grads_batched=True, retain_graph=True)
    for k, cotangent in enumerate(cotangents):
        assert torch.equal(batched[k], torch.autograd.grad(y, x, cotangent, retain_graph=True)[0])


@pytest.mark.filterwarnings(
    "ignore:The .grad attribute of a Tensor that is not a leaf"
)  # Dynamo inspects a dual tensor
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("transform", ["grad", "vmap", "jvp"])
def test_compiled_transforms(name: str, transform: str) -> None:
    layer = getattr(throughtime, name)(3, 4)
    example, other = inputs()
    transformed: dict[str, Callable[[Tensor], Any]] = {
        "grad": torch.func.grad(lambda x: layer(x)[0].sin().sum()),
        "vmap": lambda x: torch.func.vmap(lambda x: layer(x)[0], in_dims=1)(x),
        "jvp": lambda x: torch.func.jvp(lambda x: layer(x)[0], (x,), (other,))[1],
    }
    function = transformed[transform]
    torch._dynamo.reset()
    compiled = torch.compile(lambda x: function(x), backend="aot_eager")
    torch.testing.assert_close(compiled(example), function(example), **CLOSE)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_compiled_layer_supports_a_packed_sequence(backend: str) -> None:
    for layer in (throughtime.LSTM(3, 4, batch_first=True), throughtime.Recurrent(own_cell, 3, 4, batch_first=True)):
        packed = pack_padded_sequence(torch.randn(2, 5, 3), [3, 5], batch_first=True, enforce_sorted=False)
        found, _ = torch.compile(layer, backend=backend)(packed)
        expected, _ = layer(packed)
        assert isinstance(found, PackedSequence)
        for ours, theirs in zip(pad_packed_sequence(found), pad_packed_sequence(expected), strict=True):
            torch.testing.assert_close(ours, theirs, **CLOSE)


def test_eager_calls_do_not_warn() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        throughtime.LSTM(3, 4)(torch.randn(5, 2, 3))[0].sum().backward()
