"""Option groups as pydantic models, the source of the command line, the typed Python interface and config files.

Imports neither torch nor Lightning, so that the command line starts quickly.
"""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from throughtime.errors import nearest
from throughtime.spelling import option

Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, lt=1)]


def _path(value: Any) -> str | None:
    if value is None or isinstance(value, str | os.PathLike):
        if value is not None and not os.fspath(value):
            raise ValueError("the path is empty")
        return value if value is None else os.fspath(value)
    raise ValueError("expected a path")


def _paths(value: Any) -> tuple[str | None, ...] | None:
    if value is None:
        return None
    paths = tuple(map(_path, value)) if isinstance(value, list | tuple) else (_path(value),)
    if not paths:
        raise ValueError("the list is empty; omit the option instead")
    return paths


PathText = Annotated[str | None, BeforeValidator(_path)]
Paths = Annotated[tuple[str, ...] | None, BeforeValidator(_paths)]


class Options(BaseModel):
    """A group of options. On the command line, each field is an option, with `-` instead of `_`.

    The docstring of each subclass describes its own fields under "Attributes:".
    """

    # Validators are built on first use, because a command validates only some of the options.
    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    @classmethod
    def meanings(cls) -> dict[str, str]:
        """Return the description of each field, from the docstrings."""
        found: dict[str, str] = {}
        for base in reversed(cls.__mro__):
            text = inspect.cleandoc(base.__doc__ or "").partition("Attributes:\n")[2]
            for names, meaning in re.findall(r"^ {4}(\w+(?:, \w+)*): (.*(?:\n {8}.*)*)", text, re.MULTILINE):
                found |= dict.fromkeys(names.split(", "), " ".join(meaning.split()))
        return {name: found[name] for name in cls.model_fields if name in found}

    @classmethod
    def choices(cls, name: str) -> tuple[str, ...]:
        """Return the allowed values of a field of type `Literal` or `Literal | None`; empty for other fields."""
        annotation = cls.model_fields[name].annotation
        kinds = [annotation] if get_origin(annotation) is Literal else get_args(annotation)
        return tuple(str(value) for kind in kinds if get_origin(kind) is Literal for value in get_args(kind))


def explained(error: Mapping[str, Any], known: Iterable[str]) -> str:
    """Turn a pydantic error into a readable message.

    Args:
        error: one entry of `ValidationError.errors()`.
        known: the names of all options.
    """
    name = str(error["loc"][-1]) if error["loc"] else ""
    spelled = option(name)
    given, limits = error["input"], error.get("ctx", {})
    wanted: str
    match error["type"]:
        case "extra_forbidden":
            return f"no option named {name!r}{nearest(name, known)}"
        case "literal_error":
            names = str(limits["expected"]).replace("'", "").replace(" or ", ", ")
            return f"{spelled} must be one of {names}, got {given!r}{nearest(str(given), names.split(', '))}"
        case "value_error":
            wanted = str(limits["error"])
        case "greater_than_equal":
            return f"{spelled} must be at least {_bound(limits['ge'])}, got {given}"
        case "greater_than":
            return f"{spelled} must be greater than {_bound(limits['gt'])}, got {given}"
        case "less_than":
            return f"{spelled} must be less than {_bound(limits['lt'])}, got {given}"
        case "less_than_equal":
            return f"{spelled} must be at most {_bound(limits['le'])}, got {given}"
        case "int_parsing" | "int_from_float":
            return f"{spelled} must be an integer, got {given!r}"
        case "float_parsing":
            return f"{spelled} must be a number, got {given!r}"
        case "finite_number":
            return f"{spelled} must be a finite number, got {given}"
        case _:
            wanted = str(error["msg"])
    shown = ", ".join(map(repr, given)) if isinstance(given, list | tuple) and given else repr(given)
    return f"{spelled} {shown}: {wanted}"


def _bound(limit: float) -> str:
    return f"{limit:,}" if isinstance(limit, int) else f"{limit:g}"
