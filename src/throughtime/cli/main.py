"""The `throughtime` command: its subcommands and how errors are reported.

A subcommand's modules are imported only when it is invoked, so that help is instant.
"""

from __future__ import annotations

import inspect
import io
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

import throughtime
from throughtime.cli.commands import ABOUT, COMMANDS
from throughtime.cli.errors import INTERRUPTED, explained, tell
from throughtime.cli.streams import UNREAD, open_standard_streams, silence_broken_pipes
from throughtime.cli.threads import sleep_when_idle
from throughtime.spelling import command_line

_HELP = {"help_option_names": ["--help", "-h"]}
_ARGUMENTS = "throughtime.arguments"
_OPTION_COLUMNS = 24  # the help of a longer option starts on the next line


class _Command(TyperCommand):
    """A command whose help groups the options under headings."""

    # Headings, help texts and placeholders by option name, for commands whose options depend on the arguments.
    describe: Callable[[Sequence[str]], dict[str, tuple[str, str, str | None] | None]] | None = None

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        ctx.meta[_ARGUMENTS] = tuple(args)
        return super().parse_args(ctx, args)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return the parts of the usage line, with required arguments without braces and without hidden arguments."""
        hidden = [p for p in self.get_params(ctx) if getattr(p, "hidden", False)]
        left_out = {piece for parameter in hidden for piece in parameter.get_usage_pieces(ctx)}
        pieces = [piece for piece in super().collect_usage_pieces(ctx) if piece not in left_out]
        return [piece.replace("{", "").replace("}", "") for piece in pieces]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        told = self.describe(ctx.meta.get(_ARGUMENTS, ())) if self.describe else {}
        for parameter in self.get_params(ctx):
            if parameter.name in told:
                entry = told[parameter.name]
                if entry is None:
                    continue
                heading, text, placeholder = entry
                vars(parameter).update(rich_help_panel=heading, help=text, metavar=placeholder)
            record = parameter.get_help_record(ctx)
            if record is not None:
                name, meaning = record
                if parameter.metavar:  # more informative than typer's type name
                    option = parameter.param_type_name == "option"
                    name = f"{', '.join(parameter.opts)} {parameter.metavar}" if option else parameter.metavar
                usual = "Arguments" if parameter.param_type_name == "argument" else "Options"
                sections.setdefault(getattr(parameter, "rich_help_panel", None) or usual, []).append((name, meaning))
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records, col_max=_OPTION_COLUMNS)


class _Commands(TyperGroup):
    """A group that imports a command only when it runs; listing the commands needs only names and summaries."""

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        return name, command if name is None else _loaded(name), rest


def _loaded(name: str) -> Any:
    function = getattr(import_module(f"throughtime.cli.{name}"), name)
    meaning = "\n\n".join(filter(None, [COMMANDS[name], inspect.getdoc(function)]))
    one = typer.Typer(add_completion=False, rich_markup_mode=None)
    describe = getattr(function, "describe", None)
    kind = type(_Command.__name__, (_Command,), {"describe": describe and staticmethod(describe)})
    one.command(name, help=meaning, cls=kind, context_settings=_HELP)(function)
    return get_command(one)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(throughtime.__version__)
        raise typer.Exit


_VERSION = typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")


def _app() -> typer.Typer:
    # Plain help renders several times faster than rich's boxes, and works in pipes and narrow terminals.
    app = typer.Typer(name="throughtime", cls=_Commands, rich_markup_mode=None, context_settings=_HELP)

    @app.callback(help=ABOUT)
    def about(version: Annotated[bool, _VERSION] = False) -> None:
        pass

    for name, meaning in COMMANDS.items():
        app.command(name, help=meaning)(lambda: None)
    return app


app = _app()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: the arguments after the command's name; defaults to `sys.argv[1:]`.

    Returns:
        The exit code: 0 for success, 1 for a system error, 2 for a user error, 130 for Ctrl-C, 141 for a broken pipe.
    """
    open_standard_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # an unprintable character must not stop a command
            stream.reconfigure(errors="backslashreplace")
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] != ["bench"]:  # which compares with torch as it is by default
        sleep_when_idle()
    try:
        # `standalone` mode would report errors in typer's words and let ours become tracebacks.
        with command_line():
            code = get_command(app).main(given or ["--help"], prog_name="throughtime", standalone_mode=False)
        sys.stdout.flush()
    except (BrokenPipeError, SystemExit) as error:  # typer and rich convert the former to the latter
        if isinstance(error, SystemExit) and not isinstance(error.__context__, BrokenPipeError):
            raise
        silence_broken_pipes()
        return UNREAD
    except KeyboardInterrupt:
        code = INTERRUPTED
    except Exception as error:
        known = explained(error)
        if known is None:
            raise
        _tell(*known)
        return known[1]
    if code == INTERRUPTED:
        _tell("interrupted.", code)
    return code if isinstance(code, int) else 0


def _tell(message: str, code: int) -> None:
    """Write an error message, unless standard error is closed."""
    try:
        tell(message, code)
    except BrokenPipeError:
        silence_broken_pipes()
