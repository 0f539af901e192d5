"""Models as single files: they load unchanged, without the source of their cell, and damaged files do no harm."""

from __future__ import annotations

import json
import os
import shutil
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import run_python
from hypothesis import given, settings
from hypothesis import strategies as st
from outcomes import COLLECTING, Outcomes
from safetensors import safe_open
from safetensors.numpy import load_file as numpy_load
from safetensors.numpy import save_file as numpy_save
from safetensors.torch import load_file, save_file
from tiny_training import train_tiny
from torch import nn

import throughtime
from throughtime.codecs import Codecs
from throughtime.data.vocabulary import CharacterVocabulary
from throughtime.engines.native import instruction_sets
from throughtime.errors import ModelError, UserError
from throughtime.model_file import FORMAT, ModelFile
from throughtime.nn.language_model import LanguageModel
from throughtime.nn.sequence_model import SequenceModel
from throughtime.program.saving import to_data
from throughtime.runs import Run
from throughtime.task_description import TaskDescription

STEPS, ROWS, INPUT = 4, 3, 4
needs_native = pytest.mark.skipif(not instruction_sets(), reason="the native extension is not built")


def language_model(**options: Any) -> LanguageModel:
    model = LanguageModel(6, throughtime.Recurrent("gru", INPUT, INPUT, 2, zoneout=0.1), dropout=0.2, **options)
    model.task = TaskDescription("text", Codecs(CharacterVocabulary("aehtz")))
    return model


MODELS: dict[str, Callable[[], nn.Module]] = {
    "plain": lambda: throughtime.Recurrent("rnn", INPUT, 5),
    "hyper": lambda: throughtime.Recurrent("lstm", INPUT, 6, 2, projection=4, bias=False, dtype=torch.float64),
    "rewritten": lambda: throughtime.Recurrent(
        "lstm", INPUT, 6, heads=2, clip=0.5, activations={"forget": "relu"}, batch_first=True
    ),
    "both ways": lambda: throughtime.Recurrent(
        "gru", INPUT, INPUT, 2, bidirectional=True, merge="sum", skip="residual", dropout=0.1, variational=True
    ),
    "learned": lambda: throughtime.Recurrent(
        "lstm", INPUT, 5, 3, skip="dense", learn_initial=True, zoneout={"cell": 0.25}, weight_drop=0.5, returns="last"
    ),
    "backward": lambda: throughtime.Recurrent("lem", INPUT, 5, reverse=True, returns="states", recurrent_dropout=0.1),
    "half": lambda: throughtime.Recurrent("mgu", INPUT, 5, dtype=torch.bfloat16),
    "RNN": lambda: throughtime.RNN(INPUT, 5, nonlinearity="relu", batch_first=True),
    "LSTM": lambda: throughtime.LSTM(INPUT, 5, 2, proj_size=3, bidirectional=True, dropout=0.3),
    "GRU": lambda: throughtime.GRU(INPUT, 5, 2, bias=False),
    "RNNCell": lambda: throughtime.RNNCell(INPUT, 5, nonlinearity="relu"),
    "LSTMCell": lambda: throughtime.LSTMCell(INPUT, 5, bias=False),
    "GRUCell": lambda: throughtime.GRUCell(INPUT, 5, dtype=torch.float64),
    "language model": language_model,
    "tied": lambda: language_model(tie=True),
}


def results(module: nn.Module) -> list[torch.Tensor]:
    """Run a module on random input and return all its results."""
    torch.manual_seed(1)
    x = torch.randn(STEPS, ROWS, INPUT, dtype=next(module.parameters()).dtype)
    given = torch.randint(6, (STEPS, ROWS)) if isinstance(module, SequenceModel) else x
    with torch.no_grad():
        found = module(x[0] if isinstance(module, nn.RNNCellBase) else given)
    return flat(found)


def flat(values: Any) -> list[torch.Tensor]:
    return [values] if isinstance(values, torch.Tensor) else [t for value in values for t in flat(value)]


@pytest.mark.parametrize("name", MODELS)
def test_a_saved_model_loads_unchanged(name: str, tmp_path: Path) -> None:
    module = MODELS[name]().eval()
    throughtime.save(module, tmp_path / "model.safetensors")
    loaded = throughtime.load(tmp_path / "model.safetensors")
    assert type(loaded) is (SequenceModel if isinstance(module, LanguageModel) else type(module))
    assert str(loaded).partition("(")[2] == str(module).partition("(")[2]
    assert not loaded.training
    assert loaded.state_dict().keys() == module.state_dict().keys()
    assert all(torch.equal(loaded.state_dict()[n], tensor) for n, tensor in module.state_dict().items())
    assert all(torch.equal(a, b) for a, b in zip(results(loaded), results(module), strict=True))
    if isinstance(module, LanguageModel):
        assert loaded.dropout == module.dropout
        assert loaded.task.to_data() == module.task.to_data()


def test_a_loaded_model_can_be_trained_and_saved_again(tmp_path: Path) -> None:
    throughtime.save(language_model(tie=True), tmp_path / "one.safetensors")
    loaded = throughtime.load(tmp_path / "one.safetensors", "reference").train()
    assert loaded.recurrent.engine == "reference"
    loss, _ = loaded.loss(torch.zeros(2, 1, dtype=torch.long), torch.ones(2, 1, dtype=torch.long))
    loss.backward()
    assert all(p.grad is not None for p in loaded.parameters())
    throughtime.save(loaded, tmp_path / "two.safetensors")
    assert (tmp_path / "one.safetensors").read_bytes() == (tmp_path / "two.safetensors").read_bytes()


def test_a_loaded_model_does_not_depend_on_the_file(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    module = MODELS["plain"]()
    throughtime.save(module, path)
    loaded = throughtime.load(path)
    path.write_bytes(bytes(path.stat().st_size))
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), module.parameters(), strict=True))


def test_torch_can_load_the_weights_of_a_drop_in_module(tmp_path: Path) -> None:
    ours, torchs = throughtime.LSTM(INPUT, 5, 2), nn.LSTM(INPUT, 5, 2)
    throughtime.save(ours, tmp_path / "model.safetensors")
    torchs.load_state_dict(load_file(tmp_path / "model.safetensors"))
    x = torch.randn(STEPS, ROWS, INPUT)
    torch.testing.assert_close(torchs(x)[0], ours(x)[0])


# A user's cell.

CELL = """
import sys
import torch
import throughtime
from throughtime.language import *

@throughtime.cell
def own(x, h=state("hidden", initial=0.25), *, leak=0.5):
    u = sigmoid(layer_norm("update", affine("update", x, h)))
    n = tanh(affine("candidate", x) + linear("again", u * h))
    h = h + leak * (n - u * h)
    return h

torch.manual_seed(3)
module = throughtime.Recurrent(own, 4, 6, 2, leak=0.25, learn_initial=True)
throughtime.save(module, sys.argv[1])
torch.save(module(torch.ones(5, 1, 4))[0].detach(), sys.argv[2])
"""

WITHOUT_TORCH = """
import json, sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in ('torch', 'lightning', 'pydantic'): raise ImportError(name + ' is blocked')
sys.meta_path.insert(0, Blocked())
import numpy, throughtime
for path in sys.argv[1:]:
    stream = throughtime.Stream(path)
    given = [numpy.ones(4, numpy.float32)] * 5
    if stream.task is not None:
        given = stream.task.codecs.inputs.encode("the haze")
    print(json.dumps([stream.step(one).tolist() for one in given]))
"""


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a saved model whose cell was defined in another process, from a source file deleted since."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "source.py").write_text(CELL)
    code = f"import runpy; runpy.run_path({str(folder / 'source.py')!r})"
    run_python(code, folder / "own.safetensors", folder / "wanted.pt")
    (folder / "source.py").unlink()
    return folder


@pytest.mark.slow
def test_a_users_cell_loads_without_its_source(own: Path) -> None:
    module = throughtime.load(own / "own.safetensors")
    assert module.programs[0].name == "own"
    assert torch.equal(module(torch.ones(5, 1, 4))[0], torch.load(own / "wanted.pt"))
    with throughtime.record(module, "layer0.update") as recorded:
        module(torch.ones(5, 1, 4))
    assert recorded["layer0.update"].shape == (5, 1, 6)


@pytest.mark.slow
@needs_native
def test_a_stream_loads_a_file_without_torch(own: Path, tmp_path: Path) -> None:
    paths = [own / "own.safetensors"]
    for name in ("LSTM", "GRU", "RNN", "learned", "language model", "tied"):
        torch.manual_seed(0)
        module = throughtime.LSTM(INPUT, 5, 2, proj_size=3) if name == "LSTM" else MODELS[name]()
        throughtime.save(module, path := tmp_path / f"{name}.safetensors")
        paths.append(path)
    for path, line in zip(paths, run_python(WITHOUT_TORCH, *paths).splitlines(), strict=True):
        module = throughtime.load(path, "native")
        stream = throughtime.Stream(module)
        task = getattr(module, "task", None)
        given = [np.ones(4, np.float32)] * 5 if task is None else task.codecs.inputs.encode("the haze")
        assert np.array_equal(np.array(json.loads(line), np.float32), [stream.step(one) for one in given])


# Runs.


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train_tiny(tmp_path_factory.mktemp("run"), zoneout=0.1, tie=True)


def test_the_model_file_of_a_run_is_self_contained(run: Run, tmp_path: Path) -> None:
    alone = shutil.copy(run.path / "model.safetensors", tmp_path / "alone.safetensors")
    model, loaded = run.model(), throughtime.load(alone, run.config.training.engine)
    assert str(loaded) == str(model)
    assert loaded.task.to_data() == model.task.to_data() == run.description.to_data()
    ids = torch.arange(6)[:, None]
    assert torch.equal(loaded(ids)[0], model(ids)[0])


@needs_native
def test_a_stream_of_a_runs_model_file_matches_a_stream_of_the_run(run: Run) -> None:
    one, other = throughtime.Stream(run.path / "model.safetensors"), throughtime.Stream(run.path)
    assert one.task.to_data() == other.task.to_data()
    for id in one.task.codecs.inputs.encode("time"):
        assert np.array_equal(one.step(id), other.step(id))


# Modules that cannot be saved.


class Sub(throughtime.Recurrent):
    pass


def test_saving_an_unsupported_module_raises(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    hooked = torch.nn.utils.parametrizations.weight_norm(throughtime.GRU(2, 3), "weight_hh_l0")
    more = throughtime.GRU(2, 3)
    more.scale = nn.Parameter(torch.ones(1))
    pruned = throughtime.GRU(2, 3)
    torch.nn.utils.prune.l1_unstructured(pruned, "weight_hh_l0", 0.5)
    overlapping = throughtime.Recurrent("rnn", 3, 3, 2)
    both = torch.zeros(4, 3)
    overlapping.weight_h_l0, overlapping.weight_h_l1 = nn.Parameter(both[:3]), nn.Parameter(both[1:])
    mixed = nn.Sequential(nn.Linear(2, 2), throughtime.GRU(2, 3))
    for module, message in [
        (
            nn.Linear(2, 3),
            r"can't save the type Linear; supported: Recurrent, SequenceModel, .*torch\.save\(module\.state_dict",
        ),
        (nn.LSTM(2, 3), r"can't save the type LSTM; .*throughtime\.accelerate"),
        (mixed, r"can't save the type Sequential; .*throughtime\.save\(module\.get_submodule\('1'\), path\)"),
        (Sub("gru", 2, 3), r"can't save the type Sub; .*state_dict"),
        (hooked, r"can't save the type ParametrizedGRU; .*throughtime\.from_torch"),
        (pruned, r"can't save this GRU: .*throughtime\.from_torch"),
        (more, "this GRU: it has the unexpected weight 'scale'"),
        (overlapping, "overlap in memory"),
    ]:
        with pytest.raises(UserError, match=message):
            throughtime.save(module, path)
    (tmp_path / "taken").mkdir()
    with pytest.raises(UserError, match="taken can't be written: Is a directory"):
        throughtime.save(MODELS["plain"](), tmp_path / "taken")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["taken"]


# Shared weights.


def shared_modules() -> dict[str, nn.Module]:
    stack, drop_in = throughtime.Recurrent("gru", 4, 4, 3), throughtime.LSTM(4, 4, 2)
    stack.weight_h_l1 = stack.weight_h_l2 = stack.weight_h_l0
    drop_in.weight_hh_l1 = drop_in.weight_hh_l0
    language_model = LanguageModel(7, throughtime.Recurrent("lstm", 4, 4))
    language_model.head.weight = language_model.encoder.weight
    return {"stack": stack, "drop-in": drop_in, "language model": language_model}


@pytest.mark.parametrize("name", shared_modules())
def test_shared_weights_are_stored_once_and_shared_after_loading(tmp_path: Path, name: str) -> None:
    module, path = shared_modules()[name].eval(), tmp_path / "model.safetensors"
    throughtime.save(module, path)
    with safe_open(path, "np") as file:
        assert len(list(file.keys())) == len(list(module.parameters())) < len(module.state_dict())
    loaded = throughtime.load(path)
    assert len(list(loaded.parameters())) == len(list(module.parameters()))
    assert ModelFile.open(path).parameters == sum(parameter.numel() for parameter in module.parameters())
    for weight, parameter in module.named_parameters(remove_duplicate=False):
        torch.testing.assert_close(loaded.get_parameter(weight), parameter, rtol=0, atol=0)
    x = torch.randint(7, (5, 2)) if name == "language model" else torch.randn(5, 2, 4)
    with torch.no_grad():
        torch.testing.assert_close(loaded(x), module(x), rtol=0, atol=0)
    stream, wanted = throughtime.Stream(path, 2), throughtime.Stream(module, 2)
    for step in x.numpy():
        np.testing.assert_array_equal(stream.step(step), wanted.step(step))


def test_invalid_shared_weights_raise(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    throughtime.save(shared_modules()["stack"], path)
    with safe_open(path, "np") as file:
        metadata = json.loads(file.metadata()["throughtime"])
    weights = numpy_load(path)
    for shared in ({"weight_h_l1": "none"}, {"weight_h_l0": "bias_l0"}, ["weight_h_l1"], {"weight_h_l1": 3}, {}):
        numpy_save(weights, path, {"throughtime": json.dumps(metadata | {"shared": shared})})
        with pytest.raises(UserError, match=r"damaged|don't match its programs"):
            throughtime.load(path)


# Files that are not models.


@pytest.fixture
def path(tmp_path: Path) -> Path:
    throughtime.save(MODELS["plain"](), tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def changed(path: Path, **about: Any) -> Path:
    """Change the metadata of a model file."""
    found = json.loads(ModelFile.open(path).description.metadata["throughtime"])
    save_file(load_file(path), path, {"throughtime": json.dumps(found | about)})
    return path


def assert_refused(path: Path, message: str) -> None:
    for use in (throughtime.load, throughtime.Stream):
        with pytest.raises(ModelError, match=message) as caught:
            use(path)
        assert str(path) in str(caught.value)


def test_files_that_are_not_models_raise(path: Path, tmp_path: Path) -> None:
    assert_refused(tmp_path / "modl.safetensors", r"no such file or directory .did you mean model\.safetensors")
    (tmp_path / "text").write_text("no model")
    assert_refused(tmp_path / "text", "damaged or not a safetensors file")
    save_file(nn.LSTM(2, 3).state_dict(), tmp_path / "foreign.safetensors", {"format": "pt"})
    assert_refused(tmp_path / "foreign.safetensors", "no description of the model")
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    assert_refused(path, "damaged")


def test_newer_formats_raise(path: Path) -> None:
    assert_refused(changed(path, format=FORMAT + 1, version="9.1"), r"^\S+: it is from a newer throughtime \(9\.1\)")


def test_unknown_names_in_metadata_raise_with_a_suggestion(path: Path) -> None:
    with pytest.raises(ModelError, match=r"no model named 'Recurrentt' .did you mean Recurrent"):
        throughtime.load(changed(path, model="Recurrentt"))
    with pytest.raises(UserError, match="Recurrentt is not a recurrent layer"):
        throughtime.Stream(path)
    settings = {"hidden_size": 5, "options": {"dropuot": 0.1}}
    assert_refused(changed(path, model="Recurrent", settings=settings), "'dropuot' .did you mean dropout")
    assert_refused(changed(path, format="1"), "metadata is damaged")


def test_weights_that_do_not_match_the_model_raise(path: Path) -> None:
    metadata, weights = ModelFile.open(path).description.metadata, load_file(path)
    save_file(weights | {"bias_l0": torch.zeros(6)}, path, metadata)
    with pytest.raises(ModelError, match=r"'bias_l0': expected shape \[5\], got shape \[6\]"):
        throughtime.load(path)
    with pytest.raises(ModelError, match=r"\(6,\)"):
        throughtime.Stream(path)
    save_file(weights | {"more": torch.zeros(6)}, path, metadata)
    with pytest.raises(ModelError, match=r"'more': expected no tensor, got shape \[6\]"):
        throughtime.load(path)
    for odd in (torch.zeros(5, dtype=torch.float64), torch.zeros(5, dtype=torch.int32)):
        save_file(weights | {"bias_l0": odd}, path, metadata)
        assert_refused(path, "all have the same type")


def test_a_vocabulary_that_does_not_match_the_model_raises(tmp_path: Path) -> None:
    throughtime.save(language_model(), path := tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match="its vocabulary has 3 tokens, but its model reads 6"):
        throughtime.load(changed(path, task=TaskDescription("text", Codecs(CharacterVocabulary("ab"))).to_data()))
    whole = language_model().task.to_data()
    for damaged in (
        {},
        whole | {"codecs": {}},
        whole | {"codecs": {"inputs": {"kind": "vocabulary", "content": [1, 2]}, "targets": None}},
        whole | {"codecs": {"inputs": {"kind": "os"}, "targets": None}},
        whole | {"codecs": {"inputs": 3, "targets": None}},
    ):
        with pytest.raises(ModelError, match="metadata is damaged"):
            throughtime.load(changed(path, task=damaged))


ODD = st.sampled_from([None, True, -1, 0, 1 << 24, 1 << 62, 10**400, 0.5, float("nan"), 1e308, "", "x", "a.b", [], {}])


def content_of(name: str, folder: Path) -> bytes:
    throughtime.save(MODELS[name](), folder / "model.safetensors")
    return (folder / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def contents(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    folder = tmp_path_factory.mktemp("contents")
    return [content_of(name, folder) for name in ("plain", "learned", "language model", "LSTM")]


def assert_harmless(content: bytes, outcomes: Outcomes) -> None:
    """Assert that a file with this content loads or raises a UserError."""
    path = Path(os.environ["XDG_CACHE_HOME"]) / "hostile.safetensors"
    path.write_bytes(content)
    for use in (throughtime.load, throughtime.Stream):
        outcomes.of(use, path)


@settings(COLLECTING, max_examples=120)
@given(data=st.data())
def test_damaged_files_do_no_harm(contents: list[bytes], outcomes: Outcomes, data: st.DataObject) -> None:
    content = bytearray(data.draw(st.sampled_from(contents)))
    header = struct.unpack("<Q", content[:8])[0]
    how = data.draw(st.sampled_from(["cut", "flip", "weights", "length", "more"]))
    if how == "cut":
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    elif how == "flip":
        for at in data.draw(st.lists(st.integers(0, header + 8), min_size=1, max_size=3)):
            content[at] ^= data.draw(st.integers(1, 255))
    elif how == "weights":  # changed weights can't be detected, so these files load
        content[data.draw(st.integers(header + 8, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    elif how == "length":
        content[:8] = struct.pack("<Q", data.draw(st.integers(0, 2**64 - 1) | st.integers(header - 9, header + 9)))
    else:
        content += data.draw(st.binary(min_size=1, max_size=9))
    assert_harmless(bytes(content), outcomes)


@settings(COLLECTING, max_examples=200)
@given(data=st.data())
def test_hostile_metadata_does_no_harm(contents: list[bytes], outcomes: Outcomes, data: st.DataObject) -> None:
    content = data.draw(st.sampled_from(contents))
    size = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + size])
    tree = {"metadata": json.loads(header["__metadata__"]["throughtime"]), "header": header}
    for _ in range(data.draw(st.integers(1, 2))):
        spoil(tree, data)
    if isinstance(header.get("__metadata__"), dict):
        header["__metadata__"]["throughtime"] = json.dumps(tree.get("metadata"))
    made = json.dumps(tree.get("header")).encode()
    assert_harmless(struct.pack("<Q", len(made)) + made + content[8 + size :], outcomes)


def spoil(tree: Any, data: st.DataObject) -> None:
    """Replace, duplicate or delete a random node of a tree."""
    while True:
        places = list(tree) if isinstance(tree, dict) else list(range(len(tree)))
        if not places:
            return
        place = data.draw(st.sampled_from(places))
        inner = tree[place]
        if isinstance(inner, dict | list) and data.draw(st.integers(0, 9)):
            tree = inner
            continue
        if data.draw(st.booleans()):
            tree[place] = data.draw(ODD)
        elif isinstance(tree, list) and data.draw(st.booleans()):
            tree.append(inner)
        else:
            del tree[place]
        return


# Files that claim huge sizes.

LIMITED = """
import resource, sys
import throughtime
from throughtime import cells
from throughtime.errors import UserError
module = throughtime.Recurrent("rnn", 4, 5)
module(__import__("torch").zeros(1, 1, 4))
throughtime.save(module, sys.argv[1] + "/first.safetensors")
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 28), resource.RLIM_INFINITY))
for path in sys.argv[2:]:
    for use in (throughtime.load, throughtime.Stream):
        try:
            use(path)
        except UserError as error:
            print(error)
"""


@pytest.mark.slow
@needs_native
@pytest.mark.skipif(sys.platform != "linux", reason="the memory limit needs Linux")
def test_claims_of_huge_sizes_allocate_no_memory(tmp_path: Path) -> None:
    state = {"name": "wide", "format": 1, "reverse": False, "inputs": [["x", 1]], "parameters": [], "reductions": []}
    wide = {
        "states": [[f"s{k}", 1 << 24, 0.0, 0] for k in range(400)],
        "body": [["previous", [], 1 << 24, {"index": 0}]],
        "outputs": [["y", 0]],
        "names": [],
    }
    lstm = {"input_size": 4, "hidden_size": 1 << 17, "bias": True, "num_layers": 1, "batch_first": False}
    lstm |= {"dropout": 0.0, "bidirectional": False, "proj_size": 0}
    plain = {"hidden_size": 5, "options": {}}
    words = {"encoder": {"kind": "embedding", "size": 1 << 40}, "output": {"kind": "categorical", "classes": 1 << 40}}
    words |= {"dropout": 0.0, "tie": False, "recurrent": plain}
    programs = [to_data(MODELS["plain"]().programs[0])]
    hostile = {
        "wide": ({"model": "Recurrent", "settings": plain}, [state | wide]),
        "parameters": (
            {"model": "Recurrent", "settings": plain},
            [to_data(throughtime.cells.rnn.program(4, 1 << 16))],
        ),
        "drop-in": ({"model": "LSTM", "settings": lstm}, programs),
        "layers": ({"model": "LSTM", "settings": lstm | {"num_layers": 1 << 40}}, programs),
        "tokens": ({"model": "SequenceModel", "settings": words}, programs),
    }
    paths = []
    for name, (about, found) in hostile.items():
        metadata = {"format": FORMAT, "version": "0", "task": None, "programs": found} | about
        save_file({"bias_l0": torch.zeros(5)}, tmp_path / f"{name}.safetensors", {"throughtime": json.dumps(metadata)})
        paths.append(tmp_path / f"{name}.safetensors")
    refusals = run_python(LIMITED, tmp_path, *paths).splitlines()
    assert len(refusals) == 2 * len(paths), refusals
    assert "more than" in refusals[0]


def test_loading_something_that_is_not_a_path_raises() -> None:
    with pytest.raises(UserError, match="got int"):
        throughtime.load(3)  # type: ignore[arg-type]
