"""Handle standard streams that are closed or whose reader has exited."""

from __future__ import annotations

import os
import sys

UNREAD = 141  # the exit code on a broken pipe: 128 + SIGPIPE, as for other commands under `| head`


def open_standard_streams() -> None:
    """Connect each closed standard stream (`>&-`, as under some daemons) to the null device.

    Otherwise the next opened file would take the stream's file descriptor, and output meant for the stream would go
    to that file.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # opens the lowest free descriptor, which is this stream's
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115  # stays open until the process exits


def silence_broken_pipes() -> None:
    """Redirect the remaining output of a broken pipe to the null device.

    Python flushes the streams when it exits, which would raise the error again.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, stream.fileno())
            os.close(null)
