"""Each row of the table in docs/pytorch.md: what a layer does under torch's tracers, transforms and tensor kinds."""

from __future__ import annotations

import copy
import io
import itertools
import json
import logging
import pickle
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import run_python
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.utils import parametrizations, prune
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

import throughtime
from throughtime.engines import log_fallback
from throughtime.errors import UserError
from throughtime.language import affine, sigmoid, tanh
from throughtime.nn.encoders import Numeric
from throughtime.nn.language_model import LanguageModel
from throughtime.nn.sequence_model import SequenceModel
from throughtime.outputs import Point

from torch._subclasses.fake_tensor import FakeTensorMode  # isort: skip

NAMES = ["RNN", "LSTM", "GRU"]
DISTRIBUTED = Path(__file__).with_name("distributed_layers.py")
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


# Rows of the table, identified by the text of their first cell.
TRACE = '`torch.jit.trace`, Lightning\'s `to_torchscript("trace")`'
SCRIPT = "`torch.jit.script`"
OLDER_ONNX = "`torch.onnx.export(dynamo=False)`"
ONNX = "`torch.onnx.export(dynamo=True)`"
GRAPHS = "`torch.export`, `torch.compile`"
OUTSIDE = "`torch.compile` with a `PackedSequence`, a `torch.func` transform inside, `record` or `edit`"
MODES = "`make_fx`, `aot_module`, `functionalize`, `FlopCounterMode` and other dispatch modes"
FX = "`torch.fx.symbolic_trace`"
TRANSFORMS = "`vmap`, `jvp`, `torch.func.grad`, forward-mode AD"
BATCHED = "`is_grads_batched`, `jacobian(vectorize=True)`, `gradcheck(check_batched_grad=True)`"
FAKE = "fake and meta tensors"
KINDS = "masked, nested, sparse, DTensor inputs"
SUBCLASSES = "other `Tensor` subclasses"
VIEWS = "efficient zero tensors, negative views"
QUANTIZED = "`quantize_dynamic`"
COPIES = "`copy.deepcopy`, pickle, `torch.save` and `torch.load`"
PARAMETRIZED = "`weight_norm`, `spectral_norm`, pruning"
DDP = "`DistributedDataParallel`"
FSDP = "FSDP (`fully_shard` and `FullyShardedDataParallel`)"
FREED = "freed storage (`untyped_storage().resize_(0)`)"

AUTOCAST = "`torch.autocast`"
SECOND = "second derivatives (`create_graph=True`)"
CHECKPOINT = "`torch.utils.checkpoint`, saved-tensor hooks"

BORDERS: dict[str, list[Callable[..., None]]] = {}


def border(*features: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a test for the rows of the table that it covers."""

    def added(test: Callable[..., None]) -> Callable[..., None]:
        for feature in features:
            BORDERS.setdefault(feature, []).append(test)
        return test

    return added


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


@border(TRACE)
@pytest.mark.parametrize("gradients", [False, True])
def test_a_trace_depends_on_its_input(model: nn.Module, gradients: bool) -> None:
    example, other = inputs()
    with torch.set_grad_enabled(gradients):
        traced = torch.jit.trace(model, example)
        torch.testing.assert_close(traced(other), model(other), **CLOSE)


@border(TRACE)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("form", ["packed", "bidirectional", "training"])
def test_a_trace_accepts_every_form_of_input(name: str, form: str) -> None:
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


@border(TRACE)
def test_a_frozen_layer_is_traced() -> None:
    model = throughtime.freeze(Tagger(throughtime.LSTM(3, 4)))
    example, other = inputs()
    with torch.no_grad():
        torch.testing.assert_close(torch.jit.trace(model, example)(other), model(other), **CLOSE)


@border(TRACE)
@pytest.mark.parametrize("reads", ["tokens", "numbers"])
def test_a_sequence_model_can_be_traced(reads: str) -> None:
    layer = throughtime.Recurrent("lstm", 3, 4)
    model = LanguageModel(7, layer) if reads == "tokens" else SequenceModel(Numeric(3), layer, Point(1, "mse"))
    x = torch.arange(60).view(20, 3) % 7 if reads == "tokens" else torch.randn(20, 2, 3)
    with torch.no_grad():
        traced = torch.jit.trace(model.eval(), x)
        torch.testing.assert_close(traced(x.flip(0))[0], model(x.flip(0))[0], **CLOSE)


@border(TRACE)
def test_lightning_can_trace_a_model(tmp_path: Path) -> None:
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


@border(OLDER_ONNX)
def test_a_model_of_the_older_onnx_exporter_depends_on_its_input(model: nn.Module, tmp_path: Path) -> None:
    ort = pytest.importorskip("onnxruntime")
    example, other = inputs()
    path = tmp_path / "model.onnx"
    torch.onnx.export(model.requires_grad_(False), (example,), path, dynamo=False, input_names=["x"])
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"x": other.numpy()})
    np.testing.assert_allclose(found, model(other).numpy(), **CLOSE)


# One model of each class is traced in every mode, each of the others in a single mode.
@pytest.mark.slow
@border(MODES)
@pytest.mark.parametrize(
    ("model", "how"),
    [
        *itertools.product(
            ["LSTM", "LSTMCell", "Recurrent own", "Recurrent dropout"], ["real", "fake", "symbolic", "pre_dispatch"]
        ),
        *[("RNN", "real"), ("GRU", "fake"), ("RNNCell", "symbolic"), ("GRUCell", "pre_dispatch")],
        *[("Recurrent lstm", "symbolic"), ("Recurrent peephole", "pre_dispatch")],
    ],
    indirect=["model"],
)
def test_a_make_fx_graph_depends_on_its_input(model: nn.Module, how: str) -> None:
    example, other = inputs()
    kwargs: dict[str, Any] = {"pre_dispatch": True} if how == "pre_dispatch" else {"tracing_mode": how}
    if how in ("fake", "symbolic"):
        kwargs["_allow_non_fake_inputs"] = True  # the weights
    with torch.no_grad():
        graph = make_fx(model, **kwargs)(example)
        torch.testing.assert_close(graph(other), model(other), **CLOSE)


@border(MODES)
def test_aot_graphs_depend_on_their_input(model: nn.Module) -> None:
    from functorch.compile import aot_module, nop

    example, other = inputs()
    compiled = aot_module(model, nop)
    with torch.no_grad():  # with gradients, torch doesn't support its own LSTM here
        compiled(example)
        torch.testing.assert_close(compiled(other), model(other), **CLOSE)


@border(MODES)
def test_functionalize_works(model: nn.Module) -> None:
    example, _ = inputs()
    torch.testing.assert_close(torch.func.functionalize(model)(example), model(example), **CLOSE)


@border(FAKE)
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


@border(FAKE)
@pytest.mark.parametrize("name", NAMES)
def test_a_layer_with_fake_parameters_runs_and_trains(name: str) -> None:
    with FakeTensorMode():
        layer = getattr(throughtime, name)(3, 4, 2, dropout=0.5)
        x = torch.randn(5, 2, 3)
        y = layer(x)[0]
        y.sum().backward()
        assert y.shape == (5, 2, 4)
        assert all(p.grad is not None and p.grad.shape == p.shape for p in layer.parameters())


@border(MODES)
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


@border(FAKE, KINDS, SUBCLASSES, VIEWS)
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


@border(FREED)
def test_freed_storage_is_rejected() -> None:
    x = torch.randn(5, 2, 3)
    x.untyped_storage().resize_(0)
    with pytest.raises(throughtime.errors.UserError, match="has no memory"):
        throughtime.LSTM(3, 4)(x)


@border(SUBCLASSES)
def test_tensor_subclasses_are_preserved() -> None:
    class Tagged(Tensor):
        pass

    layer = throughtime.Recurrent(own_cell, 3, 4)
    x = torch.randn(5, 2, 3)
    y, h = layer(x.as_subclass(Tagged))
    assert type(y) is type(h) is Tagged
    torch.testing.assert_close(y.as_subclass(Tensor), layer(x)[0], **CLOSE)


@border(BATCHED)
@pytest.mark.parametrize("name", NAMES)
def test_batched_cotangents_match_separate_ones(name: str) -> None:
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


@border(TRANSFORMS)
@pytest.mark.parametrize("name", NAMES)
def test_tangents_of_weights_alone_match_torchs(name: str) -> None:
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


@border(BATCHED)
def test_batched_cotangents_work_with_segments_and_dropout() -> None:
    layer = throughtime.Recurrent("gru", 3, 4, 2, dropout=0.5, dtype=torch.float64, checkpoint_every=2)
    x = torch.randn(7, 2, 3, dtype=torch.float64, requires_grad=True)
    y = layer(x)[0]
    cotangents = torch.randn(3, *y.shape, dtype=torch.float64)
    (batched,) = torch.autograd.grad(y, x, cotangents, is_grads_batched=True, retain_graph=True)
    for k, cotangent in enumerate(cotangents):
        assert torch.equal(batched[k], torch.autograd.grad(y, x, cotangent, retain_graph=True)[0])


@pytest.mark.slow
@border(OUTSIDE)
@pytest.mark.filterwarnings(
    "ignore:The .grad attribute of a Tensor that is not a leaf"
)  # Dynamo inspects a dual tensor
@pytest.mark.parametrize(
    ("name", "transform"),
    [("LSTM", "grad"), ("LSTM", "vmap"), ("LSTM", "jvp"), ("RNN", "grad"), ("GRU", "vmap")],
)
def test_compiled_transforms_match_eager_ones(name: str, transform: str) -> None:
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


@border(OUTSIDE)
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


@border(SCRIPT)
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
@pytest.mark.parametrize("name", ["RNN", "LSTM", "GRU"])
def test_a_scripted_model_returns_the_same_results(name: str, caplog: pytest.LogCaptureFixture) -> None:
    class Tagger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = getattr(nn, name)(3, 4, 2, bidirectional=True, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.rnn(x)[0]

    model = throughtime.accelerate(Tagger())
    x = torch.randn(2, 5, 3)
    expected = model(x)
    torch.testing.assert_close(torch.jit.script(model)(x), expected)
    assert "call throughtime.accelerate(model)." in caplog.text
    torch.testing.assert_close(throughtime.accelerate(model)(x), expected)
    assert type(model.rnn) is getattr(throughtime, name)


def assert_onnx_runtime_agrees(model: nn.Module, folder: Path) -> None:
    """Export a model by torch's exporter from one input, and compare its results for another one."""
    ort = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    example, other = torch.randn(2, 5, 2, 3)
    path = folder / "model.onnx"
    torch.onnx.export(model, (example,), path, dynamo=True, input_names=["x"], verbose=False)
    (found,) = ort.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"x": other.numpy()})
    # ONNX Runtime rounds differently in float32.
    np.testing.assert_allclose(found, model(other).detach().numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@border(ONNX)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("LSTM", {}),
        ("LSTM", {"num_layers": 2, "bidirectional": True}),
        ("RNN", {"num_layers": 2, "bidirectional": True, "batch_first": True}),
        ("GRU", {"bidirectional": True, "batch_first": True}),
    ],
)
def test_torchs_onnx_exporter_supports_an_accelerated_model(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    torch.manual_seed(0)

    class Tagger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = getattr(nn, name)(3, 4, **options)

        def forward(self, x: Tensor) -> Tensor:
            return self.rnn(x)[0] + 1

    assert_onnx_runtime_agrees(throughtime.accelerate(Tagger()).eval(), tmp_path)


@pytest.mark.slow
@border(ONNX)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
def test_torchs_onnx_exporter_supports_any_cell(tmp_path: Path) -> None:
    class Tagger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = throughtime.Recurrent("lstm_peephole", 3, 4)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.rnn(x)[0]
            return y

    assert_onnx_runtime_agrees(Tagger().eval(), tmp_path)


@border(FX)
@pytest.mark.parametrize("name", ["RNN", "LSTM", "GRU", "Recurrent"])
def test_symbolic_tracing_treats_a_layer_as_a_leaf(name: str) -> None:
    layer = throughtime.Recurrent("lstm_peephole", 3, 4) if name == "Recurrent" else getattr(throughtime, name)(3, 4)

    class Tagger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = layer

        def forward(self, x: Tensor) -> Tensor:
            return self.rnn(x)[0] + 1

    model = Tagger()
    traced = torch.fx.symbolic_trace(model)
    assert [node.op for node in traced.graph.nodes if node.target == "rnn"] == ["call_module"]
    x = torch.randn(5, 2, 3)
    torch.testing.assert_close(traced(x), model(x))


@border(TRANSFORMS)
@pytest.mark.parametrize("kind", [*NAMES, "Recurrent"])
def test_forward_mode_and_vmap_are_correct(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    if kind == "Recurrent":
        layer = plain = throughtime.Recurrent(own_cell, 3, 4, dtype=torch.float64)
    else:
        layer = getattr(throughtime, kind)(3, 4, dtype=torch.float64)
        plain = getattr(nn, kind)(3, 4, dtype=torch.float64)
        plain.load_state_dict(layer.state_dict())
    x, v = torch.randn(2, 5, 2, 3, dtype=torch.float64)
    log_fallback.cache_clear()
    with caplog.at_level(logging.WARNING, "throughtime"):
        _, tangent = torch.func.jvp(lambda x: layer(x)[0], (x,), (v,))
        with torch.autograd.forward_ad.dual_level():
            dual = torch.autograd.forward_ad.make_dual(x, v)
            other = torch.autograd.forward_ad.unpack_dual(layer(dual)[0]).tangent
    step = 1e-6
    expected = (plain(x + step * v)[0] - plain(x - step * v)[0]) / (2 * step)
    # Rounding of central differences with a step of 1e-6, for values of about 1: 1e-16 / 1e-6.
    torch.testing.assert_close(tangent, expected, rtol=0, atol=1e-9)
    torch.testing.assert_close(other, tangent)
    assert len(caplog.records) == 1  # logged once
    mapped = torch.func.vmap(lambda x: layer(x)[0])(x.unsqueeze(0).expand(3, -1, -1, -1))
    torch.testing.assert_close(mapped[2], plain(x)[0])
    per_sample = torch.func.grad(lambda x: layer(x)[0].sum())(x)
    x.requires_grad_()
    torch.testing.assert_close(per_sample, torch.autograd.grad(plain(x)[0].sum(), x)[0])


@border(QUANTIZED)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", ["RNN", "LSTM", "GRU", "LSTMCell"])
def test_quantization_raises_an_error_with_a_solution(name: str) -> None:
    model = nn.Sequential(getattr(throughtime, name)(4, 3))
    with pytest.raises(UserError, match=r"throughtime\.restore"):
        torch.ao.quantization.quantize_dynamic(model, {getattr(nn, name)})


@border(COPIES)
@pytest.mark.parametrize("engine", [None, "reference"])
def test_a_saved_model_loads_with_weights_only(engine: str | None) -> None:
    model = nn.Sequential(throughtime.LSTM(4, 3, engine=engine))
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    with torch.serialization.safe_globals([nn.Sequential, nn.LSTM]):
        loaded = torch.load(file)
    assert type(loaded[0]) is throughtime.LSTM
    x = torch.randn(5, 2, 4)
    assert torch.equal(loaded(x)[0], model(x)[0])


@border(PARAMETRIZED)
@pytest.mark.parametrize("name", ["RNN", "LSTM", "GRU"])
def test_a_parametrized_layer_stays_ours(name: str) -> None:
    torch.manual_seed(0)
    layer = getattr(throughtime, name)(3, 4)
    plain = getattr(nn, name)(3, 4)
    plain.load_state_dict(layer.state_dict())
    x = torch.randn(5, 2, 3)
    for of in (layer, plain):
        nn.utils.parametrizations.weight_norm(of, "weight_hh_l0")
        nn.utils.parametrizations.spectral_norm(of.eval(), "weight_ih_l0")
    assert isinstance(layer, getattr(throughtime, name))
    assert isinstance(layer, getattr(nn, name))
    plain.load_state_dict(layer.state_dict())
    torch.testing.assert_close(layer(x)[0], plain(x)[0])
    with throughtime.record(layer, "layer0.hidden") as tape:
        layer(x)
    assert tape["layer0.hidden"].shape == (5, 2, 4)
    assert torch.equal(copy.deepcopy(layer)(x)[0], layer(x)[0])
    for weight in ("weight_hh_l0", "weight_ih_l0"):
        nn.utils.parametrize.remove_parametrizations(layer, weight)
    assert type(layer) is getattr(throughtime, name)
    torch.testing.assert_close(layer(x)[0], plain(x)[0])


@border(SCRIPT)
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
@pytest.mark.parametrize("inside", [False, True])
def test_scripting_a_recurrent_is_rejected_with_alternatives(inside: bool) -> None:
    layer = throughtime.Recurrent("gru", 3, 4)
    with pytest.raises(UserError, match=r"torch\.jit\.trace.*torch\.export.*to_onnx"):
        torch.jit.script(nn.Sequential(layer) if inside else layer)


def layers_of_both_columns() -> list[nn.Module]:
    """Return an accelerated layer and a `Recurrent`."""
    torch.manual_seed(0)
    return [throughtime.accelerate(nn.LSTM(3, 4)), throughtime.Recurrent(own_cell, 3, 4)]


@pytest.mark.slow
@border(GRAPHS)
def test_a_run_is_one_operator_of_a_graph() -> None:
    example, other = inputs()
    any_size = {"x": {0: torch.export.Dim("steps", min=2), 1: torch.export.Dim("rows", min=2)}}
    for layer in layers_of_both_columns():
        model = Tagger(layer)
        torch.testing.assert_close(torch.compile(model, fullgraph=True, backend="aot_eager")(other), model(other))
        exported = torch.export.export(model, (example,), dynamic_shapes=any_size)
        operators = [str(node.target) for node in exported.graph.nodes if "throughtime" in str(node.target)]
        assert operators == ["throughtime.run.default"]
        longer = torch.cat([other, example])
        torch.testing.assert_close(exported.module()(longer), model(longer))


@border(GRAPHS)
def test_torchs_lstm_breaks_the_graph() -> None:
    with pytest.raises(torch._dynamo.exc.Unsupported):
        torch.compile(nn.LSTM(3, 4), fullgraph=True, backend="eager")(torch.randn(5, 2, 3))


@border(OUTSIDE)
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_a_full_graph_is_rejected_with_the_reason() -> None:
    x, _ = inputs()
    for layer in layers_of_both_columns():
        compiled = torch.compile(layer, fullgraph=True, backend="eager")
        with pytest.raises(RuntimeError, match=r"PackedSequence can't be part of a graph.*pass a padded input"):
            compiled(pack_padded_sequence(x, [5, 3]))
        with (
            throughtime.record(layer, "layer0.forget"),
            pytest.raises(RuntimeError, match=r"record and throughtime\.edit work outside of a graph"),
        ):
            compiled(x)
        of = torch.func.grad(lambda x: layer(x)[0].sum())  # noqa: B023
        with pytest.raises(RuntimeError, match=r"transform of torch\.func runs outside of a graph"):
            torch.compile(lambda x: of(x), fullgraph=True, backend="eager")(x)  # noqa: B023
        torch._dynamo.reset()


@border(OUTSIDE)
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_a_compiled_layer_is_recorded_and_edited_outside_of_the_graph() -> None:
    x, _ = inputs()
    for layer in layers_of_both_columns():
        compiled = torch.compile(layer, backend="eager")
        with throughtime.record(layer, "layer0.forget") as expected:
            layer(x)
        with throughtime.record(compiled, "layer0.forget") as tape:
            compiled(x)
        torch.testing.assert_close(tape["layer0.forget"], expected["layer0.forget"])
        with throughtime.edit(layer, {"layer0.forget": 0.0}):
            edited = layer(x)[0]
        with throughtime.edit(compiled, {"layer0.forget": 0.0}):
            torch.testing.assert_close(compiled(x)[0], edited)
        assert not torch.allclose(edited, layer(x)[0])


@border(TRACE)
@pytest.mark.parametrize("name", NAMES)
def test_a_trace_of_an_accelerated_layer_takes_any_number_of_steps(name: str) -> None:
    example, other = inputs()
    model = Tagger(getattr(throughtime, name)(3, 4))
    longer = torch.cat([other, example])
    torch.testing.assert_close(torch.jit.trace(model, example)(longer), model(longer), **CLOSE)


@border(TRACE)
def test_a_trace_of_a_recurrent_takes_the_examples_number_of_steps() -> None:
    example, other = inputs()
    traced = torch.jit.trace(Tagger(throughtime.Recurrent(own_cell, 3, 4)), example)
    with pytest.raises(RuntimeError):
        traced(torch.cat([other, example]))


@border(FAKE)
def test_a_recurrent_takes_meta_tensors() -> None:
    with torch.device("meta"):
        layer = throughtime.Recurrent(own_cell, 3, 4)
        y, _ = layer(torch.randn(5, 2, 3))
        y.sum().backward()
    assert y.is_meta
    assert y.shape == (5, 2, 4)
    assert all(p.grad is not None for p in layer.parameters())


@border(KINDS)
@pytest.mark.filterwarnings(
    "ignore:.*PyTorch API of (MaskedTensors|nested tensors):UserWarning", "ignore:.*not implemented in:UserWarning"
)
@pytest.mark.parametrize("kind", ["masked", "nested", "sparse"])
def test_a_recurrent_rejects_other_kinds_of_tensors(kind: str) -> None:
    x = odd_tensors()[kind](torch.randn(5, 2, 3))
    for layer in (throughtime.Recurrent(own_cell, 3, 4), throughtime.Recurrent("lstm", 3, 4)):
        with pytest.raises((UserError, RuntimeError, TypeError, NotImplementedError)):
            layer(x)


@border(VIEWS)
@pytest.mark.parametrize("kind", ["zero", "negative view"])
def test_a_recurrent_reads_the_values_of_views(kind: str) -> None:
    x = odd_tensors()[kind](torch.randn(5, 2, 3))
    for layer in (throughtime.Recurrent(own_cell, 3, 4), throughtime.Recurrent("lstm", 3, 4)):
        torch.testing.assert_close(layer(x)[0], layer(torch.zeros_like(x) + x)[0])


@border(QUANTIZED)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_quantization_leaves_a_recurrent_as_it_is() -> None:
    model = nn.Sequential(throughtime.Recurrent("lstm", 3, 4))
    found = torch.ao.quantization.quantize_dynamic(model, {nn.LSTM})
    x, _ = inputs()
    assert torch.equal(found(x)[0], model(x)[0])
    assert all(p.dtype == torch.float32 for p in found.parameters())


@border(BATCHED)
def test_batched_cotangents_of_a_recurrent_match_separate_ones() -> None:
    layer = throughtime.Recurrent(own_cell, 3, 4, dtype=torch.float64)
    x = torch.randn(5, 2, 3, dtype=torch.float64, requires_grad=True)
    found = [torch.autograd.functional.jacobian(lambda x: layer(x)[0], x, vectorize=v) for v in (True, False)]
    torch.testing.assert_close(*found)
    assert torch.autograd.gradcheck(lambda x: layer(x)[0], (x,), check_batched_grad=True)


@border(COPIES)
def test_copied_and_saved_layers_return_the_same_results() -> None:
    x, _ = inputs()
    for layer in layers_of_both_columns():
        file = io.BytesIO()
        torch.save(layer, file)
        file.seek(0)
        made = [copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), torch.load(file, weights_only=False)]
        for other in made:
            assert type(other) is type(layer)
            assert torch.equal(other(x)[0], layer(x)[0])
        file = io.BytesIO()
        torch.save(layer.state_dict(), file)
        file.seek(0)
        with torch.no_grad():
            expected = layer(x)[0]
            for parameter in layer.parameters():
                parameter.zero_()
        layer.load_state_dict(torch.load(file, weights_only=True))
        assert torch.equal(layer(x)[0], expected)


@border(PARAMETRIZED)
@pytest.mark.parametrize("kind", ["weight_norm", "spectral_norm", "pruning"])
def test_a_layer_uses_altered_weights(kind: str) -> None:
    x, _ = inputs()
    for layer in layers_of_both_columns():
        name = "weight_hh_l0" if isinstance(layer, nn.LSTM) else "weight_h_l0"
        plain = copy.deepcopy(layer)
        if kind == "pruning":
            prune.l1_unstructured(layer, name, 0.5)
        else:
            getattr(parametrizations, kind)(layer.eval(), name)
            with torch.no_grad():
                layer.parametrizations[name].original0.mul_(2) if kind == "weight_norm" else None
        assert isinstance(layer, (throughtime.LSTM, throughtime.Recurrent))
        y, _ = layer(x)
        with torch.no_grad():
            getattr(plain, name).copy_(getattr(layer, name))
        torch.testing.assert_close(y, plain(x)[0])
        y.sum().backward()
        assert all(p.grad is not None and p.grad.any() for p in layer.parameters())


@border(FREED)
@pytest.mark.parametrize("gradients", [False, True])
def test_an_input_without_memory_is_rejected(gradients: bool) -> None:
    x = torch.randn(5, 2, 3)
    x.untyped_storage().resize_(0)
    for layer in layers_of_both_columns():
        with torch.set_grad_enabled(gradients), pytest.raises(UserError, match="has no memory"):
            layer(x)


@pytest.fixture(scope="module")
def distributed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The error message of each case, run in two processes with gloo; empty if the case passed."""
    printed = run_python(DISTRIBUTED.read_text(), tmp_path_factory.mktemp("gloo") / "meeting", OMP_NUM_THREADS="1")
    found: dict[str, str] = json.loads(printed.splitlines()[-1])
    assert len(found) == 11
    return found


@border(DDP)
@pytest.mark.slow
def test_data_parallel_training_equals_training_on_the_whole_batch(distributed: dict[str, str]) -> None:
    assert {case: error for case, error in distributed.items() if case.startswith("DistributedData") and error} == {}


@border(FSDP)
@pytest.mark.slow
@pytest.mark.parametrize("wrapper", ["FullyShardedDataParallel", "fully_shard"])
@pytest.mark.parametrize("kind", ["accelerated", "Recurrent"])
def test_sharded_training_equals_training_on_the_whole_batch(
    distributed: dict[str, str], wrapper: str, kind: str
) -> None:
    assert not distributed[f"{wrapper} {kind}"], distributed[f"{wrapper} {kind}"]


@border(KINDS)
@pytest.mark.slow
@pytest.mark.parametrize("layer", [*NAMES, "Recurrent"])
def test_dtensors_behave_as_in_torchs_layer_or_raise(distributed: dict[str, str], layer: str) -> None:
    assert not distributed[f"DTensor {layer}"], distributed[f"DTensor {layer}"]
    assert not distributed["the other process"]


@pytest.mark.slow
@border(ONNX)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("kind", ["RNN", "Recurrent"])
def test_torchs_onnx_exporter_rejects_a_loop_over_a_dynamic_number_of_steps(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    example, _ = inputs()
    layer = throughtime.Recurrent(own_cell, 3, 4) if kind == "Recurrent" else throughtime.accelerate(nn.RNN(3, 4))
    with pytest.raises(torch.onnx.OnnxExporterError, match=r"Failed to export the model with torch\.export"):
        torch.onnx.export(
            Tagger(layer).eval(),
            (example,),
            tmp_path / "model.onnx",
            dynamo=True,
            dynamic_shapes={"x": {0: "steps"}},
            verbose=False,
        )


@border(AUTOCAST)
@pytest.mark.parametrize("engine", [None, "reference"])
def test_autocast_computes_in_float32(engine: str | None) -> None:
    layer = throughtime.Recurrent("lstm", 3, 4, engine=engine)
    x = torch.randn(5, 2, 3)
    with torch.autocast("cpu", torch.bfloat16):
        y, (h, _) = layer(x.bfloat16())
    assert y.dtype == h.dtype == torch.bfloat16
    assert torch.equal(y, layer(x.bfloat16().float())[0].bfloat16())


@border(AUTOCAST)
@pytest.mark.parametrize("name", NAMES)
def test_an_accelerated_layer_under_autocast_rounds_the_results_to_torchs_types(name: str) -> None:
    theirs, ours = layers(name)
    x = inputs()[0].bfloat16()  # without AVX-512, torch's LSTM takes no float32 input under autocast
    with torch.autocast("cpu", torch.bfloat16):
        found, expected = ours(x)[0], theirs(x)[0]
        assert ours(x.float())[0].dtype in (torch.bfloat16, torch.float32)
    assert found.dtype == expected.dtype
    assert torch.equal(found, ours(x.float())[0].to(found.dtype))


@border(SECOND)
def test_second_derivatives_match_finite_differences() -> None:
    for layer in layers_of_both_columns():
        x = torch.randn(3, 2, 3, dtype=torch.float64, requires_grad=True)
        weights = list(layer.double().parameters())
        assert torch.autograd.gradgradcheck(lambda x, *_: layer(x)[0], (x, *weights))  # noqa: B023


@border(CHECKPOINT)
@pytest.mark.parametrize("how", ["checkpoint", "reentrant checkpoint", "hooks"])
def test_gradients_have_the_same_bits_with_checkpoints_and_saved_tensor_hooks(how: str) -> None:
    x, _ = inputs()
    x.requires_grad_()
    for layer in layers_of_both_columns():
        leaves = [x, *layer.parameters()]
        expected = torch.autograd.grad(layer(x)[0].sin().sum(), leaves)
        layer.zero_grad()
        x.grad = None
        if how == "hooks":
            with torch.autograd.graph.save_on_cpu():
                y = layer(x)[0]
        else:
            y = checkpoint(layer, x, use_reentrant=how.startswith("reentrant"))[0]
        y.sin().sum().backward()
        assert all(torch.equal(leaf.grad, g) for leaf, g in zip(leaves, expected, strict=True))


def test_every_row_of_the_documents_table_has_a_test() -> None:
    lines = (Path(__file__).parents[1] / "docs" / "pytorch.md").read_text().splitlines()
    start = next(k for k, line in enumerate(lines) if line.startswith("| feature |")) + 2
    rows = itertools.takewhile(lambda line: line.startswith("|"), lines[start:])
    assert {row.split(" | ")[0].removeprefix("| ") for row in rows} == BORDERS.keys()
