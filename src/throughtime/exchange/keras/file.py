"""Open Keras files. Damaged, malicious or unreadable files raise KerasError."""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from throughtime.exchange.keras.config import Found, read_model
from throughtime.exchange.keras.hdf5 import Hdf5, Hdf5Error
from throughtime.exchange.keras.layers import Direction, KerasError
from throughtime.exchange.keras.weights import Named, Structured, WeightSource
from throughtime.paths import missing

_CONFIG, _WEIGHTS = "config.json", "model.weights.h5"
_ALWAYS_UNPACKED = 1 << 24  # size in bytes up to which files are unpacked regardless of their compression ratio
_MAX_RATIO = 100  # maximum compression ratio of a real file


def read_keras(path: Path) -> Found:
    """Find the recurrent layers of a file.

    Args:
        path: a `.keras` file or a whole model's `.h5`, which both store the layers' arguments, or a `.weights.h5`,
            which does not.

    Raises:
        KerasError: if the file is missing or damaged, or its configuration doesn't list the model's layers.
    """
    if not path.is_file():
        raise KerasError(f"{path} is not a file" if path.exists() else missing(path))
    found = Found()
    with _keras_errors(path):
        content = path.read_bytes()
        config = None
        if content[:2] == b"PK":
            config, content = _unzipped(content)
        root = Hdf5(content).root
        source: WeightSource = Structured(root)
        weights = root.at("model_weights")
        if weights is not None and config is None:
            if not (root.attributes.get("keras_version") or "").startswith("3."):
                raise KerasError(
                    "written by Keras before version 3: load the model there and save it as .keras or .weights.h5"
                )
            config, source = json.loads(root.attributes["model_config"] or ""), Named(weights)
        elif "layer_names" in root.attributes:
            raise KerasError(
                "written by Keras before version 3: load the model there and save it as .keras or .weights.h5"
            )
        if config is None:
            _unconfigured(Structured(root), found)
            return found
        read_model(config, source, found)
        for cell in source.cells():
            if not any(source.is_part(cell, claimed) for claimed in found.claimed):
                found.unread[cell] = "the configuration doesn't say which layer uses these weights"
    return found


def _unconfigured(root: Structured, found: Found) -> None:
    """Find the groups that look like recurrent layers in a weights-only file, and add them to `found`."""
    backwards: list[dict[str, Any]] = [{}, {"go_backwards": True}]
    for path, name, sources in root.layers():

        def directions(sources: list[Structured] = sources) -> list[list[Direction]]:
            return [
                [Direction(cell.arrays, arguments) for cell in source.directions()]
                for source, arguments in zip(sources, backwards, strict=False)
            ]

        found.add(name, Structured(root.root, path), directions)


@contextmanager
def _keras_errors(path: Path) -> Iterator[None]:
    """Convert any error from reading the file into a KerasError."""
    try:
        yield
    except (KerasError, Hdf5Error) as error:
        raise KerasError(f"{path}: {error}") from None
    except (
        OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, RecursionError, OverflowError, EOFError,
        IndexError, zipfile.BadZipFile, zlib.error,
    ) as error:  # fmt: skip
        # A zip file reports damage in many ways, and a configuration can contain anything.
        raise KerasError(f"{path} is damaged or not a Keras file: {error}") from None


def _unzipped(content: bytes) -> tuple[Any, bytes]:
    """Return the model's configuration and the content of its weights file from a `.keras` archive."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        names = archive.namelist()
        for name in (_CONFIG, _WEIGHTS):
            if name not in names:
                raise KerasError(f"not a .keras file: {name} is missing")
            size, packed = archive.getinfo(name).file_size, archive.getinfo(name).compress_size
            if size > max(_ALWAYS_UNPACKED, _MAX_RATIO * packed):
                raise KerasError(f"{name} would expand from {packed} to {size} bytes, far more than a real model file")
        return json.loads(archive.read(_CONFIG)), archive.read(_WEIGHTS)
