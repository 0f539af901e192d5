"""A model as one file of safetensors: its weights, and in the metadata, as plain data, all else that it is.

The metadata has one entry, `throughtime`, a JSON text:

format, version   of this, and the throughtime that wrote it
model             the kind of model, the name of a class
settings          what it is made with besides its programs
programs          each layer's program, as in a run's program.json
task              what the model was made for, as a run's task.json: the task's name, options and codecs; or null
shared            weights that are stored once: a weight's name and the name of the weight that it is

Reading runs nobody's code, and needs NumPy alone. What a file claims is held against what it holds before anything is
made of it.
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
from throughtime.errors import DataError, ModelError, ProgramError, UserError, nearest
from throughtime.program.core import Program
from throughtime.program.saving import from_data, to_data

if TYPE_CHECKING:
    from torch import nn

    from throughtime.task_description import TaskDescription

FORMAT = 2

_ENTRY = "throughtime"  # one, as safetensors writes several in any order
_SUFFIX = ".safetensors"
_TYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
# Elements that the values of all programs may have for one row, far above what anybody's have: what an engine sets
# aside for them must not exhaust the memory because a few words of a file say so.
_MAX_VALUES = 1 << 26


@dataclass(frozen=True)
class Description:
    """What a model is besides its weights.

    Attributes:
        model: its kind, the name of a class.
        settings: what it is made with besides its programs, as plain data.
        programs: each layer's program, forward in time.
        task: what it was made for, as plain data (see `throughtime.task_description`); None if that isn't known.
        shared: the names of weights that are another weight, and the name of that one.
    """

    model: str
    settings: Mapping[str, Any]
    programs: tuple[Program, ...]
    task: Mapping[str, Any] | None = None
    shared: Mapping[str, str] = field(default_factory=dict)

    @property
    def data(self) -> dict[str, Any]:
        """As what JSON can hold."""
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
        """As a file's metadata."""
        return {_ENTRY: json.dumps(self.data)}

    @classmethod
    def of(cls, metadata: Mapping[str, str]) -> Description:
        """What a file's metadata say.

        Raises:
            ModelError: if it is nothing, of a newer format, or makes no sense.
        """
        if _ENTRY not in metadata:
            raise ModelError(
                "it has weights alone, and does not say of what: throughtime.save did not write it. Make the module, "
                "and give it the weights: module.load_state_dict(safetensors.torch.load_file(...))."
            )
        try:
            content = json.loads(metadata[_ENTRY])
            found = content["format"]
            if type(found) is int and found > FORMAT:
                raise ModelError(
                    f"it is from a newer throughtime ({content.get('version', '?')}): its format is {found}, and up to "
                    f"{FORMAT} can be read; install a newer throughtime."
                )
            if type(found) is int and found < FORMAT:
                raise ModelError(
                    f"it was written by throughtime {content.get('version', '?')} in format {found}, which is no "
                    "longer read: train or save the model anew."
                )
            model, settings, task = content["model"], content["settings"], content["task"]
            shared = content.get("shared", {})
            programs = tuple(map(from_data, content["programs"]))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ModelError(f"its metadata is damaged: {type(error).__name__}: {error}.") from None
        except ProgramError as error:
            raise ModelError(f"its metadata is damaged: {error}") from None
        given = (type(found), type(model), type(settings), type(task))
        if given not in [(int, str, dict, dict), (int, str, dict, type(None))] or not programs:
            raise ModelError("its metadata is damaged: a format, a model, its settings and its programs are wanted.")
        if type(shared) is not dict or not all(type(name) is str for pair in shared.items() for name in pair):
            raise ModelError("its metadata is damaged: its shared weights must be names.")
        if sum(map(_elements, programs)) > _MAX_VALUES:
            raise ModelError(f"its programs have values of more than {_MAX_VALUES} elements together.")
        return cls(model, settings, programs, task, shared)


def _elements(program: Program) -> int:
    """The elements of all values of a program, for one row."""
    given = [program.body[output.value].width for output in program.outputs]
    widths = [i.width for i in program.body] + [s.width for s in program.states] + [i.width for i in program.inputs]
    return sum(widths) + sum(given)


@dataclass(frozen=True)
class ModelFile:
    """A file that `save` wrote, or a run's weights.

    Attributes:
        path: where it is.
        description: what the model is.
        dtype: the type of all its weights.
        shapes: each weight's shape, shared ones included.
    """

    path: Path
    description: Description
    dtype: str
    shapes: Mapping[str, tuple[int, ...]]

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> ModelFile:
        """Reads all but the weights.

        Raises:
            ModelError: if the file is missing, damaged, from a newer version, or another kind of file.
        """
        path = Path(path)
        with _reading(path, "np") as file:
            description = Description.of(file.metadata() or {})
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - it is no dictionary
            shapes = {name: tuple(one.get_shape()) for name, one in slices.items()}
            types = {one.get_dtype() for one in slices.values()}
            if len(types) != 1 or not types <= _TYPES.keys():
                raise ModelError(
                    f"its weights must all be of one of the types {', '.join(_TYPES.values())}; they are "
                    f"{', '.join(sorted(types)) or 'missing'}."
                )
            for name, stored in description.shared.items():
                if name in slices or stored not in slices:
                    raise ModelError(f"its metadata is damaged: its weight {name!r} can't be its {stored!r}.")
            shapes |= {name: shapes[stored] for name, stored in description.shared.items()}
        return cls(path, description, _TYPES[types.pop()], shapes)

    def weights(self, framework: str) -> dict[str, Any]:
        """The weights by name; those that are shared are one tensor under several names.

        Args:
            framework: "pt" for tensors of torch, "np" for arrays, which there are none of in bfloat16.

        Raises:
            ModelError: if the file has been damaged since it was opened.
        """
        with _reading(self.path, framework) as file:
            # Copied, as what is read lies in the file, which may be another when the weights are used.
            shared = self.description.shared
            tensors = {name: file.get_tensor(name) for name in self.shapes if name not in shared}
            found = {name: t.clone() if framework == "pt" else t.copy() for name, t in tensors.items()}
            return found | {name: found[stored] for name, stored in shared.items()}

    @property
    def task(self) -> TaskDescription | None:
        """What the model was made for.

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
    """The file, with all that is wrong with it told as a ModelError."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        kind = "is no file" if path.exists() else "there is no such file"
        raise ModelError(f"{path}: {kind}{nearest(path.name, siblings)}")
    try:
        with _openable(path) as name, safe_open(name, framework) as file:
            yield file
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(f"{path} is damaged, or is no file of safetensors: {error}.") from None


@contextmanager
def _openable(path: Path) -> Iterator[str]:
    """A name by which safetensors can open a file; it refuses names that are not UTF-8."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        with path.open("rb") as file:
            yield f"/dev/fd/{file.fileno()}"
    else:
        yield str(path)


def save(module: nn.Module, path: str | os.PathLike[str]) -> None:
    """Writes a model into one file of safetensors, from which `load` makes it again without its cell's Python.

    Args:
        module: a `Recurrent`, a drop-in layer or cell, or a `SequenceModel`, with its `task` if it has one.
        path: the file; what is there is replaced. Weights are called as in the module's `state_dict`; those that
            several layers share are stored once, and shared again when they are loaded.

    Raises:
        UserError: if the module is of another kind, or the file can't be written.
    """
    from throughtime.files import write
    from throughtime.nn.description import describe

    write(path, encoded(describe(module), module))


def encoded(description: Description, module: nn.Module) -> bytes:
    """What is in the file of a model.

    Raises:
        UserError: if weights overlap in memory without being the same.
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
            "make each a parameter of its own, as with nn.Parameter(weight.detach().clone())."
        ) from None


def shared_weights(tensors: Mapping[str, Any]) -> dict[str, str]:
    """The names of tensors or arrays that are another one, and the name of the first that is."""
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
    """Makes a model of what `save` wrote, or of a run. No code but throughtime's own runs for it.

    Args:
        path: the file, or the run's directory; "latest" is the newest run under `runs`.
        engine: what runs its recurrent layers. If not given, for a file it is chosen by device, and for a run it is
            the one that it was trained with.

    Returns:
        The model, in evaluation mode, on the CPU. A `SequenceModel` has its `task`.

    Raises:
        ModelError: the file is missing, damaged, from a newer version, or another kind of file.
        RunError: the run is missing, half written, damaged or from a newer version.
        UserError: what is given is no path.
    """
    if not isinstance(path, str | os.PathLike):
        raise UserError(f"a file that save wrote, or a run's directory, is wanted; given {type(path).__name__}.")
    if is_model_file(path):
        from throughtime.nn.description import build

        return build(ModelFile.open(path), engine)
    from throughtime.runs import Run

    return Run.open(Path(path)).model(engine)


def is_model_file(path: str | os.PathLike[str]) -> bool:
    """Whether a path is meant as a model's file, not as a run's directory."""
    path = Path(path)
    return path.is_file() or (path.suffix == _SUFFIX and not path.exists())
