"""Progress display: bars on a terminal, lines in a pipe, and the lines that are logged."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from throughtime.spelling import duration

_REDRAWN = 5  # redraws per second
_PIPED, _PIPED_SHARE = (
    10.0,
    0.05,
)  # the minimum interval of lines in a pipe, in seconds and as a fraction of the activity


class Display:
    """Progress bars and lines on standard error.

    If standard error isn't a terminal, occasional lines replace the bars. Use it as a context manager, which removes
    the bars at the end.

    Args:
        shown: whether to show anything.
        clock: a function that returns the time in seconds.
    """

    def __init__(self, shown: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self.shown = shown
        self.console = Console(stderr=True, highlight=False, soft_wrap=True, quiet=not shown)
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[percent]:>4}"),
            TimeElapsedColumn(),
            TextColumn("elapsed,"),
            TimeRemainingColumn(compact=True),
            TextColumn("left"),
            TextColumn("{task.fields[figures]}"),
            console=self.console,
            disable=not (shown and self.console.is_terminal),
            transient=True,
            refresh_per_second=_REDRAWN,
        )
        self._tasks: dict[str, TaskID] = {}
        self._clock, self._said = clock, clock()
        self._began: dict[str, tuple[float, int]] = {}  # the time and the progress at the start of each activity
        self._handler = _ToConsole(self)

    def __enter__(self) -> Display:
        self._bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bars.stop()

    @property
    def handler(self) -> logging.Handler:
        """The handler that prints log messages above the bars."""
        return self._handler

    def progress(self, doing: str, done: int, size: int, figures: str = "") -> None:
        """Show the progress of an activity, whose time counts from the first call; its bar disappears at the end."""
        if not self.console.is_terminal:
            self._say(doing, done, size, figures)
            return
        percent = _percent(done, size)
        if doing not in self._tasks:
            new = self._bars.add_task(doing, total=size, completed=done, percent=percent, figures=figures)
            self._tasks[doing] = new
        self._bars.update(self._tasks[doing], completed=done, total=size, percent=percent, figures=figures)
        if done >= size:
            self._bars.remove_task(self._tasks.pop(doing))

    def line(self, text: str) -> None:
        """Print a line above the bars."""
        self.console.print(text, markup=False)
        self._said = self._clock()

    def _say(self, doing: str, done: int, size: int, figures: str) -> None:
        now = self._clock()
        began, first = self._began.setdefault(doing, (now, done))
        if done >= size:
            del self._began[doing]
            return
        spent = now - began
        per_unit = spent / (done - first) if done > first else 0.0
        if now - max(self._said, began) >= max(_PIPED, _PIPED_SHARE * per_unit * (size - first)):
            left = f", {duration(per_unit * (size - done))} left" if per_unit else ""
            more = f", {figures}" if figures else ""
            self.line(f"{doing}: {_percent(done, size)}, {duration(spent)} elapsed{left}{more}")


def _percent(done: int, size: int) -> str:
    """Return the progress, rounded down: 100% is complete, with no time left."""
    return f"{100 * done // size if size else 100}%"


class _ToConsole(logging.Handler):
    def __init__(self, display: Display) -> None:
        super().__init__(logging.INFO)
        self._display = display

    def emit(self, record: logging.LogRecord) -> None:
        self._display.line(record.getMessage())
