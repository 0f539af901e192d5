"""Export a network as a C source file and its header."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from throughtime.errors import UserError, nearest
from throughtime.exchange.c.interface import Interface
from throughtime.exchange.c.layer import transposed_matrices
from throughtime.exchange.c.source import Source
from throughtime.exchange.c.weights import dequantized
from throughtime.files import write
from throughtime.streaming import Stream
from throughtime.streaming.network import Network, network_of
from throughtime.task_description import TaskDescription

Array = NDArray[Any]

QUANTIZATIONS = ("int8",)

_STEPS = 200  # for measuring the error of a rounded network


@dataclass(frozen=True)
class CFile:
    """The result of `to_c`.

    Attributes:
        source, header: the written files.
        prefix: the prefix of functions and macros.
        weights: the size of the constant data in bytes.
        state: the RAM of each stream in bytes.
        scratch: the stack space of a step's buffers in bytes.
        error: with `quantize`, a pair: the largest difference between the outputs of the rounded and the float32
            network, and the largest output, over 200 steps of random input; None otherwise.
        inputs, outputs: what a step takes and returns; empty if unknown.
    """

    source: Path
    header: Path
    prefix: str
    weights: int
    state: int
    scratch: int
    error: tuple[float, float] | None = None
    inputs: str = ""
    outputs: str = ""

    def code_size(self) -> tuple[int, str] | None:
        """Compile the source on this machine and measure its machine code.

        Returns:
            The code size in bytes, without the weights, and the compiler command; None without a working C compiler.
        """
        compiler, size = shutil.which("cc"), shutil.which("size")
        if compiler is None or size is None:
            return None
        command = ["cc", "-Os", "-std=c99", "-c"]
        with tempfile.TemporaryDirectory() as directory:
            compiled = Path(directory) / "net.o"
            done = subprocess.run([*command, self.source.resolve(), "-o", compiled], capture_output=True, check=False)
            if done.returncode != 0:
                return None
            listed = subprocess.run([size, "-A", compiled], capture_output=True, text=True, check=False).stdout
        rows = [line.split() for line in listed.splitlines() if line.startswith(".text")]
        return sum(int(row[1]) for row in rows), f"{' '.join(command)}, {platform.machine()}"


def to_c(model: Any, path: str | os.PathLike[str], *, quantize: str | None = None) -> CFile:
    """Export a model as C99 code that runs it one step at a time, without allocations or libraries other than math.h.

    Compile the source into your program. The header declares the struct `PREFIX_state`, which holds one stream's state,
    `PREFIX_reset(&state)` and `PREFIX_step(&state, x, y)`, where PREFIX is the file's name. All numbers are float32,
    whatever the model's dtype. exp and tanh are approximations (see the docs) unless the macro `PREFIX_LIBM` is
    defined.

    The header says what a step takes and returns. If the model was trained on the columns of a table or on arrays, the
    step takes their raw values and standardizes them itself.

    Args:
        model: the directory of a run (or a `Run`), a file written by `throughtime.save`, or a module: a
            `SequenceModel`, a `Recurrent`, a drop-in `RNN`, `LSTM` or `GRU`, or one of torch's own.
        path: the source file to write; must end in `.c`. The header ends in `.h`.
        quantize: "int8" to round each matrix to int8 with a scale per row. Vectors and arithmetic remain float32.

    Returns:
        The written files and their sizes.

    Raises:
        UserError: if the model can't run one step at a time, its weights are not finite, or a file can't be written.
        RunError, ModelError: if the run or the file can't be read.
    """
    source, header = _paths(path)
    if quantize is not None and quantize not in QUANTIZATIONS:
        raise UserError(f"quantize must be None or 'int8', got {quantize!r}{nearest(str(quantize), QUANTIZATIONS)}")
    network = network_of(model)
    if any(given.one_hot for program, _ in network.layers for given in program.inputs):
        raise UserError("a program with a one-hot input can't be exported to C; use an embedding before it")
    task = getattr(network.source or model, "task", None)
    interface = Interface(network, task if isinstance(task, TaskDescription) else None)
    made = Source(network, interface, source.stem, int8=quantize == "int8")
    error = _error(network, interface) if quantize == "int8" else None
    write(header, made.header.encode())
    write(source, made.source.encode())
    words = interface.inputs.summary, interface.outputs.summary
    return CFile(source, header, made.prefix, made.weights, made.state, made.scratch, error, *words)


def _paths(path: str | os.PathLike[str]) -> tuple[Path, Path]:
    source = Path(path)
    if source.suffix != ".c":
        raise UserError(f"{source}: the name of a C source must end in .c")
    if not re.fullmatch(r"[\w.+ -]+", source.name):
        raise UserError(f"{source.name!r}: the name of a C source may contain only letters, digits, spaces and . _ + -")
    return source, source.with_suffix(".h")


def _error(network: Network, interface: Interface) -> tuple[float, float]:
    """Measure the largest change of an output due to rounding, and the largest output."""
    layers = [
        (
            program,
            [
                dequantized(p) if p.ndim == 2 and k not in transposed_matrices(program) else p
                for k, p in enumerate(parameters)
            ],
        )
        for program, parameters in network.layers
    ]
    embedding = None if network.embedding is None else dequantized(network.embedding)
    head = None if network.head is None else (dequantized(network.head[0]), network.head[1])
    streams = [_stream(network), _stream(replace(network, layers=layers, embedding=embedding, head=head))]
    generator = np.random.default_rng(0)
    width = sum(given.width for given in network.layers[0][0].inputs)
    largest = difference = 0.0
    for _ in range(_STEPS):
        if embedding is None:
            x: Any = generator.standard_normal(width).astype(network.dtype)
        else:
            x = int(generator.integers(len(embedding)))
        exact, rounded = (stream._step(x, None) for stream in streams)  # x holds all inputs
        if interface.target_scaler is not None:
            exact, rounded = map(interface.target_scaler.decode, (exact, rounded))
        largest = max(largest, float(np.abs(exact).max()))
        difference = max(difference, float(np.abs(exact - rounded).max()))
    return difference, largest


def _stream(network: Network) -> Stream:
    stream = Stream.__new__(Stream)
    stream._make(network, 1, "")
    stream.reset()
    return stream
