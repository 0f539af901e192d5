"""The command line: a file a command, which parses, calls and prints."""

from __future__ import annotations

import sys


def main() -> int:
    """Runs the command `throughtime`; returns its exit status."""
    try:
        from throughtime.cli.main import main as run
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in ("typer", "rich"):
            raise
        print(f"error: the command needs {error.name}: pip install 'throughtime[train]'", file=sys.stderr)
        return 1
    return run()
