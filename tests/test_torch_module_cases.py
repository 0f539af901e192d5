"""Torch's own test cases for recurrent modules: results, gradients and error messages match."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing._internal.common_modules import ModuleInfo, module_db

import throughtime

NAMES = ("RNN", "LSTM", "GRU", "RNNCell", "LSTMCell", "GRUCell")
INFOS = [info for info in module_db if info.module_cls in [getattr(nn, name) for name in NAMES]]
# The same formula summed in a different order.
TOLERANCE = {torch.float32: {"rtol": 1e-4, "atol": 1e-5}, torch.float64: {"rtol": 1e-10, "atol": 1e-12}}

pytestmark = pytest.mark.filterwarnings("ignore:dropout option adds dropout after all but last:UserWarning")


def tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for part in value:
            yield from tensors(part)


def copied(value: Any) -> Any:
    """Copy arguments with new leaf tensors."""
    if isinstance(value, Tensor):
        return value.detach().clone().requires_grad_(value.requires_grad)
    return type(value)(copied(v) for v in value) if isinstance(value, tuple | list) else value


def ours_of(info: ModuleInfo) -> type[nn.Module]:
    return getattr(throughtime, info.module_cls.__name__)  # type: ignore[no-any-return]


def test_every_module_has_cases() -> None:
    assert {info.module_cls.__name__ for info in INFOS} == set(NAMES)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("info", INFOS, ids=lambda info: info.name)
def test_results_and_gradients_match_torch(info: ModuleInfo, dtype: torch.dtype, training: bool) -> None:
    torch.manual_seed(0)
    cases = info.module_inputs_func(info, device="cpu", dtype=dtype, requires_grad=True, training=training)
    assert cases
    for case in cases:
        made, given = case.constructor_input, case.forward_input
        theirs, ours = (kind(*made.args, **made.kwargs).to(dtype) for kind in (info.module_cls, ours_of(info)))
        ours.load_state_dict(theirs.state_dict())
        found = []
        for module in (theirs.train(training), ours.train(training)):
            args, kwargs = copied(given.args), {name: copied(value) for name, value in given.kwargs.items()}
            results = list(tensors(module(*args, **kwargs)))
            leaves = [t for t in (*tensors(args), *tensors(tuple(kwargs.values()))) if t.requires_grad]
            leaves += module.parameters()
            loss = sum((r.sin().sum() for r in results), torch.zeros((), dtype=dtype))
            found.append([*results, *torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)])
        for torchs, own in zip(*found, strict=True):
            torch.testing.assert_close(own, torchs, **TOLERANCE[dtype])


def error_of(kind: type[nn.Module], case: Any) -> tuple[str, Exception | None]:
    made, given = case.constructor_input, case.forward_input
    try:
        module = kind(*made.args, **made.kwargs)
    except Exception as error:
        return "made", error
    try:
        module(*given.args, **given.kwargs)
    except Exception as error:
        return "run", error
    return "taken", None


@pytest.mark.parametrize("info", [i for i in INFOS if i.module_error_inputs_func], ids=lambda info: info.name)
def test_errors_match_torch(info: ModuleInfo) -> None:
    cases = info.module_error_inputs_func(info, device="cpu", dtype=torch.float32, requires_grad=False, training=False)
    for case in cases:
        step, torchs = error_of(info.module_cls, case.module_error_input)
        ours_step, own = error_of(ours_of(info), case.module_error_input)
        assert ours_step == step
        assert type(own) is type(torchs)
        assert str(own) == str(torchs)


@pytest.mark.parametrize("name", NAMES)
def test_a_state_of_another_dtype_is_rejected(name: str) -> None:
    layer = getattr(throughtime, name)(3, 4)
    x = torch.randn(2, 3) if name.endswith("Cell") else torch.randn(5, 2, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = layer(x)
    carried = found if name.endswith("Cell") else found[1]
    wide = tuple(s.double() for s in carried) if isinstance(carried, tuple) else carried.double()
    for state, dtype in ((carried, "bfloat16"), (wide, "float64")):
        if dtype == "bfloat16" and (name.endswith("Cell") or name == "GRU"):
            continue  # torch's cells and GRU keep a float32 state under autocast
        with pytest.raises(RuntimeError, match=f"state hx must be torch.float32, got torch.{dtype}"):
            layer(x, state)


@pytest.mark.parametrize("name", [name for name in NAMES if name.endswith("Cell")])  # torch's layers accept only bools
def test_a_truthy_bias_is_true(name: str) -> None:
    layer = getattr(throughtime, name)(3, 4, bias="yes")
    plain = getattr(nn, name)(3, 4, bias="yes")
    plain.load_state_dict(layer.state_dict())
    x = torch.randn(2, 3)
    torch.testing.assert_close(next(tensors(layer(x))), next(tensors(plain(x))))
