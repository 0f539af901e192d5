"""The registry of tasks. Imports nothing, so that the command's help appears at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from throughtime.tasks.base import Task

registered: dict[str, type[Task[Any]]] = {}
"""The task classes by name; each registers itself when it is defined."""
