"""Model files: a safetensors file with the weights, and in its metadata a description of the model as plain data.

The metadata has one entry, `throughtime`, which is a JSON object with these keys:

format, version   the file format, and the version of throughtime that wrote it
model             the kind of model, as a class name
settings          the constructor's arguments besides the programs
programs          each layer's program, as in a run's program.json
task              the task's name, options and codecs, as in a run's task.json; or null
shared            tied weights, which are stored once: maps each weight's name to the name of the stored weight

Reading runs no code from the file and needs only NumPy. The description is checked against the weights before a model
is built from it.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from throughtime import __version__
from throughtime.errors import DataError, ModelError, ProgramError, UserError, VersionError
from throughtime.paths import display_path, missing
from throughtime.program.core import Program
from throughtime.program.saving import from_data, to_data

if TYPE_CHECKING:
    from torch import nn

    from throughtime.task_description import TaskDescription

FORMAT = 2

_ENTRY = "throughtime"  # a single entry, because safetensors doesn't write several in a fixed order
_SUFFIX = ".safetensors"
_TYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
# Limit on the elements of all programs' values per sequence, far above real models, so that a small hostile file can't
# make an engine exhaust memory.
_MAX_VALUES = 1 << 26


@dataclass(frozen=True)
class Description:
    """The description of a model without its weights.

    Attributes:
        model: the kind of model, as a class name.
        settings: the constructor's arguments besides the programs, as plain data.
        programs: the program of each layer, forward in time.
        task: the task's description as plain data (see `throughtime.task_description`); None if unknown.
        shared: for each tied weight, the name of the weight that is stored.
    """

    model: str
    settings: Mapping[str, Any]
    programs: tuple[Program, ...]
    task: Mapping[str, Any] | None = None
    shared: Mapping[str, str] = field(default_factory=dict)

    @property
    def data(self) -> dict[str, Any]:
        """The description as JSON-compatible data."""
        return {
            "format": FORMAT,
            "version": __version__,
            "model": self.model,
            "settings": dict(self.settings),
            "programs": list(map(to_data, self.programs)),
            "task": self.task,
            "shared": dict(self.shared),
        }

    @property
    def metadata(self) -> dict[str, str]:
        """The description as safetensors metadata."""
        return {_ENTRY: json.dumps(self.data)}

    @classmethod
    def of(cls, metadata: Mapping[str, str]) -> Description:
        """Parse a file's metadata.

        Raises:
            ModelError: if the description is missing, of another format version, or malformed.
        """
        if _ENTRY not in metadata:
            raise ModelError(
                "it has only weights and no description of the model, so throughtime.save did not write it. Create the "
                "module and load the weights: module.load_state_dict(safetensors.torch.load_file(...))"
            )
        try:
            content = json.loads(metadata[_ENTRY])
            found = content["format"]
            if type(found) is int and found > FORMAT:
                raise VersionError(
                    f"it is from a newer throughtime ({content.get('version', '?')}): its format is {found}, but this "
                    f"version supports up to {FORMAT}; install a newer throughtime"
                )
            if type(found) is int and found < FORMAT:
                raise VersionError(
                    f"it was written by throughtime {content.get('version', '?')} in format {found}, which is no "
                    "longer supported; train or save the model again"
                )
            model, settings, task = content["model"], content["settings"], content["task"]
            shared = content.get("shared", {})
            programs = tuple(map(from_data, content["programs"]))
        except VersionError:
            raise
        except ProgramError as error:
            raise ModelError(f"its metadata is damaged: {error}") from None
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ModelError(f"its metadata is damaged: {type(error).__name__}: {error}") from None
        given = (type(found), type(model), type(settings), type(task))
        if given not in [(int, str, dict, dict), (int, str, dict, type(None))] or not programs:
            raise ModelError("its metadata is damaged: it must have a format, a model, settings and programs")
        if type(shared) is not dict or not all(type(name) is str for pair in shared.items() for name in pair):
            raise ModelError("its metadata is damaged: shared weights must be given by name")
        if sum(map(_elements, programs)) > _MAX_VALUES:
            raise ModelError(f"the values of its programs have more than {_MAX_VALUES} elements in total")
        return cls(model, settings, programs, task, shared)


def _elements(program: Program) -> int:
    """Return the number of elements of all values of a program, for one sequence."""
    given = [program.body[output.value].width for output in program.outputs]
    widths = [i.width for i in program.body] + [s.width for s in program.states] + [i.width for i in program.inputs]
    return sum(widths) + sum(given)


@dataclass(frozen=True)
class ModelFile:
    """An opened model file, written by `save` or from a run.

    Attributes:
        path: the path of the file.
        description: the description of the model.
        dtype: the data type of all weights.
        shapes: the shape of each weight, including tied ones.
    """

    path: Path
    description: Description
    dtype: str
    shapes: Mapping[str, tuple[int, ...]]

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> ModelFile:
        """Read everything except the weights.

        Raises:
            ModelError: if the file is missing, damaged, from a newer version, or another kind of file.
        """
        path = Path(path)
        with _reading(path, "np") as file:
            description = Description.of(file.metadata() or {})
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - not a dictionary
            shapes = {name: tuple(one.get_shape()) for name, one in slices.items()}
            types = {one.get_dtype() for one in slices.values()}
            if len(types) != 1 or not types <= _TYPES.keys():
                raise ModelError(
                    f"its weights must all have the same type, one of {', '.join(_TYPES.values())}; they are "
                    f"{', '.join(sorted(types)) or 'missing'}"
                )
            for name, stored in description.shared.items():
                if name in slices or stored not in slices:
                    raise ModelError(f"its metadata is damaged: weight {name!r} can't be tied to {stored!r}")
            shapes |= {name: shapes[stored] for name, stored in description.shared.items()}
        return cls(path, description, _TYPES[types.pop()], shapes)

    @property
    def parameters(self) -> int:
        """The number of weights; tied ones count once."""
        return sum(math.prod(shape) for name, shape in self.shapes.items() if name not in self.description.shared)

    def weights(self, framework: str) -> dict[str, Any]:
        """Read the weights by name; tied weights are one tensor under several names.

        Args:
            framework: "pt" for torch tensors, "np" for NumPy arrays (which don't support bfloat16).

        Raises:
            ModelError: if the file has been damaged since it was opened.
        """
        with _reading(self.path, framework) as file:
            # Copied, because the tensors map the file, which may change before the weights are used.
            shared = self.description.shared
            tensors = {name: file.get_tensor(name) for name in self.shapes if name not in shared}
            found = {name: t.clone() if framework == "pt" else t.copy() for name, t in tensors.items()}
            return found | {name: found[stored] for name, stored in shared.items()}

    @property
    def task(self) -> TaskDescription | None:
        """The task that the model was made for, or None.

        Raises:
            ModelError: if its description is damaged.
        """
        if self.description.task is None:
            return None
        from throughtime.task_description import TaskDescription

        try:
            return TaskDescription.of_data(self.description.task)
        except DataError as error:
            raise ModelError(f"{self.path}: its metadata is damaged: {error}") from None


@contextmanager
def _reading(path: Path, framework: str) -> Iterator[Any]:
    """Open a safetensors file and convert errors in reading it to `ModelError`."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise ModelError(f"{display_path(path)} is not a file" if path.exists() else missing(path))
    with path.open("rb"):  # safetensors would report a file without read permission as missing
        pass
    try:
        with _openable(path) as name, safe_open(name, framework) as file:
            yield file
    except ModelError as error:
        raise type(error)(f"{path}: {error}") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(f"{path} is damaged or not a safetensors file: {error}") from None


@contextmanager
def _openable(path: Path) -> Iterator[str]:
    """Provide a path that safetensors can open, because it rejects paths that are not UTF-8."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        with path.open("rb") as file:
            yield f"/dev/fd/{file.fileno()}"
    else:
        yield str(path)


def save(module: nn.Module, path: str | os.PathLike[str]) -> None:
    """Save a model to one safetensors file, from which `load` rebuilds it without its cell's Python code.

    Args:
        module: a `Recurrent`, a drop-in layer or cell, or a `SequenceModel`, with its `task` if it has one.
        path: the path of the file; an existing file is replaced. Weights have the names of the module's `state_dict`.
            Tied weights are stored once and tied again on loading.

    Raises:
        UserError: if the module is of an unsupported kind, or the file can't be written.
    """
    from throughtime.files import write
    from throughtime.nn.description import describe

    write(path, encoded(describe(module), module))


def encoded(description: Description, module: nn.Module) -> bytes:
    """Encode a model as the bytes of a model file.

    Raises:
        UserError: if weights overlap in memory without being the same tensor.
    """
    from safetensors.torch import save

    tensors = module.state_dict()
    shared = shared_weights(tensors)
    weights = {name: t.detach().cpu().contiguous() for name, t in tensors.items() if name not in shared}
    try:
        return save(weights, replace(description, shared=shared).metadata)
    except (RuntimeError, ValueError):
        names = ", ".join(sorted(weights))
        raise UserError(
            f"some weights of this {type(module).__name__} ({names}) overlap in memory without being the same tensor: "
            "make each a separate parameter, for example with nn.Parameter(weight.detach().clone())"
        ) from None


def shared_weights(tensors: Mapping[str, Any]) -> dict[str, str]:
    """Map the name of each repeated tensor or array to the name of its first occurrence."""
    first: dict[Any, str] = {}
    found = {}
    for name, tensor in tensors.items():
        key: Any = id(tensor)
        if not isinstance(tensor, np.ndarray):
            key = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype, tensor.device)
        if math.prod(tensor.shape) and first.setdefault(key, name) != name:
            found[name] = first[key]
    return found


def load(path: str | os.PathLike[str], engine: str | None = None) -> Any:
    """Load a model from a file written by `save` or from a run, without running any code from it.

    Args:
        path: the file or the run's directory; "latest" is the newest run under `runs`.
        engine: the engine of its recurrent layers. Default: chosen by device for a file, and the engine of training for
            a run.

    Returns:
        The model, in evaluation mode, on the CPU. A `SequenceModel` has its `task`.

    Raises:
        ModelError: if the file is missing, damaged, from another version, or another kind of file.
        RunError: if the run is missing, incomplete, damaged, or from another version.
        UserError: if `path` is not a path.
    """
    if not isinstance(path, str | os.PathLike):
        raise UserError(f"path must be a file written by save or a run's directory, got {type(path).__name__}")
    if is_model_file(path):
        from throughtime.nn.description import build

        return build(ModelFile.open(path), engine)
    from throughtime.runs import Run

    return Run.open(Path(path)).model(engine)


def is_model_file(path: str | os.PathLike[str]) -> bool:
    """Return whether a path refers to a model file rather than a run's directory."""
    path = Path(path)
    return path.is_file() or (path.suffix == _SUFFIX and not path.exists())
