"""What a person sees while a run is made: bars on a terminal, and a line for each validation."""

from __future__ import annotations

import logging

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

_REDRAWN = 5  # times a second


class Display:
    """Bars and lines on standard error; nothing at all if it is not shown.

    Use it as a context: the bars are gone when it ends.
    """

    def __init__(self, shown: bool) -> None:
        self.console = Console(stderr=True, highlight=False, soft_wrap=True, quiet=not shown)
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[figures]}"),
            console=self.console,
            disable=not (shown and self.console.is_terminal),
            transient=True,
            refresh_per_second=_REDRAWN,
        )
        self._tasks: dict[str, TaskID] = {}
        self._handler = _ToConsole(self.console)

    def __enter__(self) -> Display:
        self._bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bars.stop()

    @property
    def handler(self) -> logging.Handler:
        """Prints log messages above the bars."""
        return self._handler

    def progress(self, doing: str, done: int, size: int, figures: str = "") -> None:
        """Show how far something is; its bar goes when it is done."""
        if doing not in self._tasks:
            self._tasks[doing] = self._bars.add_task(doing, total=size, completed=done, figures=figures)
        self._bars.update(self._tasks[doing], completed=done, total=size, figures=figures)
        if done >= size:
            self._bars.remove_task(self._tasks.pop(doing))


class _ToConsole(logging.Handler):
    def __init__(self, console: Console) -> None:
        super().__init__(logging.INFO)
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        self._console.print(record.getMessage(), markup=False)
