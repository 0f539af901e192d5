"""Standard streams that are closed, or whose reader has gone."""

from __future__ import annotations

import os
import sys

UNREAD = 141  # the exit code where a pipe's reader has gone: 128 + SIGPIPE, as of other commands under `| head`


def open_standard_streams() -> None:
    """Connect each standard stream that is closed (`>&-`, as under some daemons) to the null device.

    Otherwise the next file that is opened would take the stream's number, and anything written to the stream would end
    up in that file.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115  # for as long as the process runs


def silence_broken_pipes() -> None:
    """Send what is still to be written to a pipe without a reader to the null device.

    Python flushes the streams when it exits, and would complain once more.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, stream.fileno())
            os.close(null)
