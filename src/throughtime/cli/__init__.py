"""The command line. Each command has its own file, which parses arguments, calls the library and prints the result."""

from __future__ import annotations

import gc
import sys
from collections.abc import Sequence

_NEEDED = ("typer", "rich", "pydantic")


def main() -> int:
    """Run the `throughtime` command and return its exit status."""
    try:
        from throughtime.cli.main import main as run
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in _NEEDED:
            raise
        return _without_packages(sys.argv[1:], error.name.partition(".")[0])
    try:
        return run()
    finally:
        gc.freeze()  # collecting garbage among torch's objects at exit takes longer than some commands


def _without_packages(arguments: Sequence[str], missing: str) -> int:
    """Handle --help and --version when the commands' packages are missing; report an error for everything else."""
    import throughtime
    from throughtime.cli.commands import ABOUT, COMMANDS
    from throughtime.cli.streams import UNREAD, open_standard_streams, silence_broken_pipes
    from throughtime.packages import installing

    open_standard_streams()
    needs = f"the command needs {missing}, {installing('train')}"
    try:
        if arguments and arguments[0] == "--version":
            print(throughtime.__version__)
        elif not arguments or "--help" in arguments or "-h" in arguments:
            width = max(map(len, COMMANDS)) + 2
            rows = [f"  {name:<{width}}{meaning}" for name, meaning in COMMANDS.items()]
            print("\n".join(["Usage: throughtime COMMAND", "", f"  {ABOUT}", "", "Commands:", *rows, "", needs]))
        else:
            print(f"error: {needs}", file=sys.stderr)
            return 2
        sys.stdout.flush()
    except BrokenPipeError:
        silence_broken_pipes()
        return UNREAD
    return 0
