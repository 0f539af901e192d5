"""`throughtime.to_c`: the C code matches the stream and compiles without warnings with every installed compiler."""

from __future__ import annotations

import csv
import ctypes
import shutil
import subprocess
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from random_programs import programs
from tiny_training import train_tiny
from torch import nn

pytest.importorskip("throughtime._native", reason="the native engine's extension module is not built")

import throughtime
from throughtime import cells
from throughtime.cli.main import main
from throughtime.codecs import Codecs
from throughtime.data.knobs import DeviceInput
from throughtime.data.labels import Labels
from throughtime.data.raw_samples import RawSamples
from throughtime.data.scaler import Scaler
from throughtime.data.vocabulary import build_vocabulary
from throughtime.data.waveform import MuLaw, Waveform
from throughtime.errors import UserError
from throughtime.exchange.c.functions import functions
from throughtime.exchange.c.weights import dequantized
from throughtime.exchange.c.writing import CFile, to_c
from throughtime.nn.encoders import Embedding, Numeric, Projection
from throughtime.nn.language_model import LanguageModel
from throughtime.nn.recurrent import Recurrent
from throughtime.nn.sequence_model import SequenceModel
from throughtime.outputs import (
    Bernoulli,
    Categorical,
    LogisticMixture,
    Normal,
    Output,
    Point,
    Quantiles,
    Signal,
    StudentT,
)
from throughtime.program.core import Program
from throughtime.program.operations import OPERATIONS
from throughtime.streaming import Stream
from throughtime.task_description import TaskDescription

COMPILERS = [name for name in ("gcc", "clang") if shutil.which(name)]
STRICT = ["-std=c99", "-Wall", "-Wextra", "-pedantic", "-Werror"]
STEPS = 12
# Float32 rounding in a different order and the approximations of exp and tanh, over several steps.
TOLERANCE = 1e-5

pytestmark = pytest.mark.skipif(not shutil.which("cc"), reason="no C compiler is installed")

Array = np.ndarray[Any, Any]
_FLOATS = ctypes.POINTER(ctypes.c_float)


def _floats(array: Array) -> Any:
    return array.ctypes.data_as(_FLOATS)


@pytest.fixture(autouse=True)
def _seed() -> None:
    """Draw the same weights each time: for a few, a layer normalization divides by almost 0 and amplifies rounding."""
    torch.manual_seed(0)


class Compiled:
    """A shared library compiled from files that `to_c` wrote."""

    def __init__(self, files: Iterable[CFile], compiler: str = "cc", options: Sequence[str] = ("-O0",)) -> None:
        sources = [file.source for file in files]
        path = sources[0].with_suffix(".so")
        command = [compiler, *STRICT, *options, "-shared", "-fPIC", "-o", path, *sources, "-lm"]
        subprocess.run(command, check=True)
        self.library = ctypes.CDLL(str(path))

    def runner(self, file: CFile, outputs: int) -> Callable[[Any], Array]:
        """Return a function that runs one step of a new stream."""
        state = np.full(file.state // 4, np.nan, np.float32)
        step = getattr(self.library, f"{file.prefix}_step")
        getattr(self.library, f"{file.prefix}_reset")(_floats(state))

        def run(x: Any) -> Array:
            y = np.full(outputs, np.nan, np.float32)
            assert step(_floats(state), _floats(x) if isinstance(x, np.ndarray) else int(x), _floats(y)) is not None
            return y

        return run


def inputs_of(module: nn.Module) -> list[Any]:
    generator = np.random.default_rng(0)
    if isinstance(module, SequenceModel) and isinstance(module.encoder, Embedding):
        return list(generator.integers(module.encoder.num_embeddings, size=STEPS))
    return list(generator.standard_normal((STEPS, module.input_size)).astype(np.float32))


def assert_like_the_stream(module: nn.Module, file: CFile, compiled: Compiled, like: nn.Module | None = None) -> None:
    stream = Stream(like or module)
    xs = inputs_of(module)
    wanted = [stream.step(x.astype(stream.dtype) if isinstance(x, np.ndarray) else int(x)) for x in xs]
    run = compiled.runner(file, len(wanted[0]))
    for x, y in zip(xs, wanted, strict=True):
        np.testing.assert_allclose(run(x), y, rtol=TOLERANCE, atol=TOLERANCE, err_msg=file.prefix)


@pytest.mark.slow
def test_every_named_cell_matches_its_stream(tmp_path: Path) -> None:
    modules = {name: Recurrent(name, 5, 9) for name in cells.names()}
    files = {name: to_c(module, tmp_path / f"{name}.c") for name, module in modules.items()}
    compiled = Compiled(files.values())
    for name, module in modules.items():
        assert_like_the_stream(module, files[name], compiled)


def stacks() -> dict[str, nn.Module]:
    def model(encoder: Any, output: Output, **words: Any) -> SequenceModel:
        return SequenceModel(encoder, Recurrent("lstm", encoder.features, 7, num_layers=2), output, **words)

    swapped = throughtime.cell(_swapped)
    learned = Recurrent("lstm", 3, 4, num_layers=2, learn_initial=True)
    for parameter in learned.parameters():
        nn.init.normal_(parameter, std=0.5)
    return {
        "tied": LanguageModel(11, Recurrent("gru", 6, 6), tie=True),
        "untied": LanguageModel(11, Recurrent("gru", 6, 5, num_layers=2)),
        "bernoulli": model(Numeric(4), Bernoulli(4)),
        "point": model(Numeric(4), Point(2, "mae")),
        "skip": model(Numeric(4), Point(2, "mae"), skip=True),
        "embedded": model(Projection(4, 5), Point(2, "mae"), skip=True),
        "quantiles": model(Numeric(4), Quantiles(2, (0.1, 0.5, 0.9))),
        "normal": model(Numeric(4), Normal(3)),
        "student_t": model(Embedding(5, 4), StudentT(3)),
        "last": SequenceModel(Embedding(9, 3), Recurrent("gru", 3, 4, returns="last"), Categorical(3)),
        "residual": Recurrent("lstm_layer_norm", 6, 6, num_layers=3, skip="residual"),
        "dense": Recurrent("ran", 3, 5, num_layers=3, skip="dense"),
        "zoneout": Recurrent("lstm", 3, 5, zoneout=0.3).eval(),
        "learned": learned,
        "float64": Recurrent("lstm", 3, 5, dtype=torch.float64),
        "projection": nn.LSTM(3, 6, proj_size=4, num_layers=2),
        "relu": nn.RNN(3, 6, nonlinearity="relu"),
        "drop-in": throughtime.GRU(3, 6, bias=False),
        "delayed": Recurrent(swapped, 4, 4),
        "int": Recurrent("lstm", 3, 1),  # the file name is a C keyword
        "3 layers ünusual": Recurrent("gru", 1, 3),
    }


def _swapped(x: Any, h: Any, c: Any) -> Any:
    """A cell that swaps its states and outputs an old state."""
    return h, c, h + 0.5 * x


PAIRS = [*zip((*COMPILERS, *COMPILERS[:1]), (None, "int8"), strict=False)]


@pytest.mark.slow
@pytest.mark.parametrize(("compiler", "quantize"), PAIRS)
def test_encoders_heads_and_layer_options_match_the_stream(compiler: str, quantize: str | None, tmp_path: Path) -> None:
    modules = stacks()
    files = {name: to_c(module, tmp_path / f"{name}.c", quantize=quantize) for name, module in modules.items()}
    compiled = Compiled(files.values(), compiler, ["-O1", "-Wshadow", "-Wconversion"])
    for name, module in modules.items():
        like = module
        if quantize is not None:
            like = stacks()[name]
            like.load_state_dict({k: rounded(v) for k, v in module.state_dict().items()})
        assert_like_the_stream(module, files[name], compiled, like)


def rounded(weight: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(dequantized(weight.numpy())) if weight.dim() == 2 else weight


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # from programs that compute infinity
def test_random_programs_match_the_stream(tmp_path: Path) -> None:
    made: list[tuple[Recurrent, CFile]] = []

    @settings(max_examples=80, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(program=programs(reductions=False))
    def collect(program: Program) -> None:
        if len(program.inputs) == 1 and program.outputs and program.parameters and not program.reverse:
            module = Recurrent.from_programs([program], 4)
            made.append((module, to_c(module, tmp_path / f"p{len(made)}.c")))

    collect()
    compiled = Compiled(file for _, file in made)
    for module, file in made:
        stream, xs = Stream(module), inputs_of(module)[:4]
        run = compiled.runner(file, stream.step(xs[0]).shape[0])
        stream.reset()
        for x in xs:
            # These grow without bound, and so does the error of a step.
            np.testing.assert_allclose(run(x), stream.step(x), rtol=2e-4, atol=1e-4, err_msg=file.prefix)


def test_every_operation_is_supported() -> None:
    assert {name for name, row in OPERATIONS.items() if row.c} == {n for n, row in OPERATIONS.items() if row.pointwise}


def test_streams_are_independent_and_can_be_reset(tmp_path: Path) -> None:
    module = Recurrent("lstm", 3, 4)
    file = to_c(module, tmp_path / "net.c")
    compiled, xs = Compiled([file]), inputs_of(module)
    first, second = compiled.runner(file, 4), compiled.runner(file, 4)
    wanted = [first(x) for x in xs]
    third = compiled.runner(file, 4)
    mixed = [(second(x), third(x)) for x in xs]
    assert np.array_equal([a for a, _ in mixed], wanted)
    assert np.array_equal([b for _, b in mixed], wanted)


def test_a_token_out_of_range_changes_nothing(tmp_path: Path) -> None:
    file = to_c(LanguageModel(5, Recurrent("gru", 3, 4)), tmp_path / "net.c")
    library = Compiled([file]).library
    for token in (-1, 5, 2**31 - 1):
        state, y = np.ones(4, np.float32), np.ones(5, np.float32)
        assert library.net_step(_floats(state), token, _floats(y)) == -1
        assert (state == 1).all()
        assert (y == 1).all()


def test_approximations_are_as_accurate_as_documented(tmp_path: Path) -> None:
    names = ("exp", "sigmoid", "tanh")
    calls = "".join(
        f"void all_{name}(const float *x, float *y, int n) {{ for (int i = 0; i < n; i++) y[i] = tt_{name}(x[i]); }}\n"
        for name in names
    )
    source = tmp_path / "net.c"
    source.write_text("#include <math.h>\n#include <stdint.h>\n" + functions(calls, "net") + calls)
    library = Compiled([CFile(source, source, "net", 0, 0, 0)]).library

    def of(name: str, x: Array) -> Array:
        y = np.empty_like(x)
        getattr(library, f"all_{name}")(_floats(x), _floats(y), len(x))
        return y

    small = np.logspace(-30, 0, 100_000)
    x = np.concatenate([np.linspace(-86.8, 88.7, 1_000_000), small, -small]).astype(np.float32)
    wide = x.astype(np.float64)
    for name, wanted, stated in [
        ("exp", np.exp(wide), 2e-7),
        ("sigmoid", 1 / (1 + np.exp(-wide)), 2.5e-7),
        ("tanh", np.tanh(wide), 4e-7),
    ]:
        assert np.abs(of(name, x) / wanted - 1).max() < stated
    special = np.array([np.inf, -np.inf, 200, -200, 0, np.nan], np.float32)
    np.testing.assert_array_equal(of("exp", special), [np.inf, 0, np.inf, 0, 1, np.nan])
    np.testing.assert_array_equal(of("sigmoid", special), [1, 0, 1, 0, 0.5, np.nan])
    np.testing.assert_array_equal(of("tanh", special), [1, -1, 1, -1, 0, np.nan])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return train_tiny(tmp_path_factory.mktemp("export"), cell="lstm")


@pytest.mark.parametrize("options", [[], ["-DNET_LIBM"]])
def test_the_exported_program_matches_the_run(
    run: Any, options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "net.c"
    assert main(["export", str(run.path), str(path)]) == 0
    printed = capsys.readouterr().out
    for words in ("net.h", "bytes of constants", "192 bytes of state per stream", "on the stack", "-Os"):
        assert words in printed
    program = tmp_path / "net"
    subprocess.run(["cc", *STRICT, "-DNET_MAIN", *options, path, "-o", program, "-lm"], check=True)
    tokens = [1, 4, 2, 3]
    given = " ".join(map(str, tokens))
    lines = subprocess.run([program], input=given, capture_output=True, text=True, check=True).stdout.splitlines()
    stream = Stream(run)
    wanted = [stream.step(token) for token in tokens]
    np.testing.assert_allclose(
        [list(map(float, line.split())) for line in lines], wanted, rtol=TOLERANCE, atol=TOLERANCE
    )


def test_int8_is_smaller_and_reports_its_error(run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole, small = to_c(run, tmp_path / "whole.c"), to_c(run, tmp_path / "small.c", quantize="int8")
    assert small.weights < 0.4 * whole.weights
    assert whole.error is None
    assert small.error is not None
    difference, largest = small.error
    assert 0 < difference < 0.05 * largest
    stream, compiled = Stream(run), Compiled([small])
    step = compiled.runner(small, stream.step(0).shape[0])
    stream.reset()
    for token in range(8):  # different tokens from the measurement's, so the error may be slightly larger
        assert np.abs(step(token) - stream.step(token)).max() < 2 * difference
    assert main(["export", str(run.path), str(tmp_path / "net.c"), "--quantize", "int8"]) == 0
    assert f"up to {difference:.2g} on outputs" in capsys.readouterr().out


def test_invalid_arguments_are_reported(run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    there = tmp_path / "there.h"
    there.write_text("mine")
    for arguments, words in [
        ([run.path, tmp_path / "there.c"], "there.h already exists"),
        ([run.path, tmp_path / "net.onnx", "--quantize", "int8"], "--quantize applies only to .c files"),
        ([run.path, tmp_path / "net.c", "--quantize", "int4"], "quantize must be None or 'int8', got 'int4'"),
        ([run.path, tmp_path / "net.cpp"], ".c"),
    ]:
        assert main(["export", *map(str, arguments)]) == 2
        assert words in capsys.readouterr().err
    assert there.read_text() == "mine"
    assert main(["export", str(run.path), str(tmp_path / "there.c"), "--overwrite"]) == 0
    assert "there_step" in there.read_text()


def test_unsupported_models_and_names_are_rejected(tmp_path: Path) -> None:
    infinite = Recurrent("gru", 2, 3)
    nn.init.constant_(infinite.get_parameter("weight_x_l0"), float("inf"))
    for module, name, words in [
        (Recurrent("gru", 2, 3, bidirectional=True), "net.c", "bidirectional"),
        (Recurrent("gru", 2, 3, reverse=True), "net.c", "from the last step to the first"),
        (nn.GRU(2, 3, bidirectional=True), "net.c", "bidirectional"),
        (infinite, "net.c", "must be finite"),
        (nn.Linear(2, 3), "net.c", "Linear is not a recurrent layer"),
        (Recurrent("gru", 2, 3), "net.h", "must end in .c"),
        (Recurrent("gru", 2, 3), 'a"b.c', "may contain only"),
    ]:
        with pytest.raises(UserError, match=words):
            to_c(module, tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(
    not shutil.which("arm-none-eabi-gcc"), reason="the Debian package gcc-arm-none-eabi is not installed"
)
@pytest.mark.parametrize("core", ["-mcpu=cortex-m0", "-mcpu=cortex-m4 -mfloat-abi=hard -mfpu=fpv4-sp-d16"])
def test_the_code_compiles_for_cortex_m(core: str, tmp_path: Path) -> None:
    for quantize in (None, "int8"):
        file = to_c(LanguageModel(11, Recurrent("gru", 6, 5)), tmp_path / "net.c", quantize=quantize)
        for level in ("-Os", "-O3"):
            command = ["arm-none-eabi-gcc", "-mthumb", *core.split(), *STRICT, level, "-c", file.source]
            subprocess.run([*command, "-o", tmp_path / "net.o"], check=True)


@pytest.mark.skipif(
    not (shutil.which("arm-linux-gnueabihf-gcc") and shutil.which("qemu-arm-static")),
    reason="the Debian packages gcc-arm-linux-gnueabihf and qemu-user-static are not installed",
)
def test_results_are_equal_on_an_emulated_arm(tmp_path: Path) -> None:
    module = Recurrent("lstm", 3, 5)
    file, program = to_c(module, tmp_path / "net.c"), tmp_path / "net"
    command = ["arm-linux-gnueabihf-gcc", *STRICT, "-O2", "-static", "-DNET_MAIN", file.source]
    subprocess.run([*command, "-o", program, "-lm"], check=True)
    xs = inputs_of(module)
    given = " ".join(f"{value:.9g}" for x in xs for value in x)
    asked = subprocess.run(["qemu-arm-static", program], input=given, capture_output=True, text=True, check=True)
    stream = Stream(module)
    found = [list(map(float, line.split())) for line in asked.stdout.splitlines()]
    np.testing.assert_allclose(found, [stream.step(x) for x in xs], rtol=TOLERANCE, atol=TOLERANCE)


COLUMNS = ("höhe ??/ a\\*/b", "weight")  # in hundreds and in thousandths
CLASSES = ("down", 'up "*/')


def write_rides(path: Path) -> Array:
    """Write a table of labeled sequences, and return the first one."""
    draw = np.random.default_rng(0)
    sequences = []
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["ride", "t", *COLUMNS, "kind"])
        for ride in range(20):
            up = ride % 2
            height = 300 + 40 * draw.standard_normal(6) + (2 * up - 1) * 20 * np.arange(6)
            values = np.column_stack([height, 0.004 + 0.001 * draw.standard_normal(6)]).round(6)
            sequences.append(values)
            writer.writerows([ride, t, *row, CLASSES[up]] for t, row in enumerate(values.tolist()))
    return sequences[0]


def test_the_code_of_a_table_takes_raw_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "rides.csv"
    rows = write_rides(table)
    columns = {"label": "kind", "group": "ride", "time": "t"}
    run = train_tiny(tmp_path, data=table, task="classify", cell="gru", window=None, **columns)
    assert main(["export", str(run.path), str(tmp_path / "net.c")]) == 0
    printed = capsys.readouterr().out
    assert f"inputs   raw values of the columns {', '.join(COLUMNS)}\n" in printed
    assert f"outputs  logits of the classes {', '.join(CLASSES)}\n" in printed
    (tmp_path / "names.c").write_text(
        '#include "net.h"\n#include <stdio.h>\n'
        "int main(void)\n{\n"
        "    const char *const names[] = NET_COLUMNS, *const classes[] = NET_CLASSES;\n"
        '    return printf("%s\\n%s\\n%s\\n%s\\n", names[0], names[1], classes[0], classes[1]) < 0;\n}\n'
    )
    subprocess.run(["cc", *STRICT, "names.c", "-o", "names"], cwd=tmp_path, check=True)
    names = subprocess.run([tmp_path / "names"], capture_output=True, encoding="utf-8", check=True).stdout
    assert names.splitlines() == [*COLUMNS, *CLASSES]
    subprocess.run(["cc", *STRICT, "-DNET_MAIN", "net.c", "-o", "net", "-lm"], cwd=tmp_path, check=True)
    given = "\n".join(" ".join(map(str, row)) for row in rows.tolist())
    out = subprocess.run([tmp_path / "net"], input=given, capture_output=True, text=True, check=True).stdout
    logits = np.array([line.split() for line in out.splitlines()], float)[-1]
    _, _, *expected = next(iter(run.predict(table).rows))
    # Rounding of the raw values to float32 adds less to the error than the tolerance of a standardized input.
    np.testing.assert_allclose(Categorical(2).probabilities(logits), expected, rtol=TOLERANCE, atol=TOLERANCE)


def test_the_code_of_a_regressor_returns_values_in_the_units_of_the_targets(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(200, 30, (30, 4, 2)).astype(np.float32)
    y = 1000 + x.sum((1, 2))
    regressor = throughtime.SequenceRegressor(cell="gru", hidden_size=4, epochs=2, random_state=0).fit(x, y)
    regressor.save(tmp_path / "model.safetensors")
    exact = to_c(tmp_path / "model.safetensors", tmp_path / "net.c")
    small = to_c(tmp_path / "model.safetensors", tmp_path / "small.c", quantize="int8")
    compiled = Compiled([exact, small])
    runs = [compiled.runner(file, 1) for file in (exact, small)]
    for step in x[0]:
        found, rounded = (run(step) for run in runs)
    expected = regressor.predict(x[:1])
    # TOLERANCE of a standardized output, times the targets' relative deviation of about 3%, and float32 rounding.
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert small.error is not None
    assert small.error[1] > 500  # in the units of the targets
    assert abs(rounded - found) < 2 * small.error[0]


def test_the_header_says_what_a_step_takes_and_returns(tmp_path: Path) -> None:
    def header(model: SequenceModel, codecs: Codecs) -> str:
        model.task = TaskDescription("own", codecs)
        text = to_c(model, tmp_path / "net.c").header.read_text()
        subprocess.run(["cc", *STRICT, "-c", "net.c", "-o", "net.o"], cwd=tmp_path, check=True)
        return " ".join(text.split())

    def model(encoder: Any, output: Output) -> SequenceModel:
        return SequenceModel(encoder, Recurrent("gru", encoder.features, 4), output)

    effect = header(model(Numeric(3), Signal(1)), Codecs(DeviceInput(44100, 1, ("gain", 'to"ne'))))
    assert "one sample in [-1, 1] at 44,100 Hz, then the knobs NET_KNOBS, each from 0 to 1" in effect
    assert '#define NET_KNOBS {"gain", "to\\042ne"}' in effect
    assert "y receives NET_OUTPUTS values: the predicted samples." in effect
    audio = header(model(Embedding(64, 3), LogisticMixture(64)), Codecs(MuLaw(Waveform(8000, 2), 64)))
    assert "among 64 mu-law levels from -1 to 1, at 8,000 Hz, with the channels interleaved" in audio
    assert "the logits of all components, then their locations" in audio
    frames = header(model(Numeric(5), Categorical(2)), Codecs(RawSamples(Waveform(8000), 5, 0.25), Labels(("a", "b"))))
    assert "5 consecutive samples in [-1, 1] at 8,000 Hz, each divided by 0.25" in frames
    assert "logits of the classes NET_CLASSES, in this order" in frames
    text = header(model(Embedding(6, 3), Categorical(6)), Codecs(build_vocabulary("char", ["abcde"])))
    assert "an index in the vocabulary, which is in the run's task.json" in text
    assert "the logits of the token ids" in text
    bare = header(model(Numeric(3), Point(1, "mse")), Codecs())
    assert "x has NET_INPUTS values." in bare

    narrow = model(Numeric(2), Point(1, "mse"))
    narrow.task = TaskDescription("own", Codecs(Scaler(np.zeros(2), np.array([1, 1e-50]), ("a", "b"))))
    with pytest.raises(UserError, match="deviation of 'b' is 1e-50, which is 0 in the C code's float32"):
        to_c(narrow, tmp_path / "narrow.c")
