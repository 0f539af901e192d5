"""The command `throughtime`: its list of commands, and how mistakes are told.

What a command needs is imported when that command is run, so that the help answers at once.
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
from throughtime.spelling import command_line

_HELP = {"help_option_names": ["--help", "-h"]}
_ARGUMENTS = "throughtime.arguments"
_OPTION_COLUMNS = 24  # a longer option has its meaning on the next line


class _Command(TyperCommand):
    """A command whose help groups the options under headings."""

    # Heading and help of options, by name, for a command line's arguments; of a command whose options depend on them.
    describe: Callable[[Sequence[str]], dict[str, tuple[str, str] | None]] | None = None

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        ctx.meta[_ARGUMENTS] = tuple(args)
        return super().parse_args(ctx, args)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        told = self.describe(ctx.meta.get(_ARGUMENTS, ())) if self.describe else {}
        for parameter in self.get_params(ctx):
            if parameter.name in told:
                entry = told[parameter.name]
                if entry is None:
                    continue
                vars(parameter).update(rich_help_panel=entry[0], help=entry[1])
            record = parameter.get_help_record(ctx)
            if record is not None:
                name, meaning = record
                if parameter.metavar:  # says more than the type, which typer would show
                    option = parameter.param_type_name == "option"
                    name = f"{', '.join(parameter.opts)} {parameter.metavar}" if option else parameter.metavar
                usual = "Arguments" if parameter.param_type_name == "argument" else "Options"
                sections.setdefault(getattr(parameter, "rich_help_panel", None) or usual, []).append((name, meaning))
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records, col_max=_OPTION_COLUMNS)


class _Commands(TyperGroup):
    """Loads a command when it is run; for the list it is enough to know its name and meaning."""

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
    # Plain help: it is several times quicker than boxes, and survives pipes and narrow terminals.
    app = typer.Typer(name="throughtime", cls=_Commands, rich_markup_mode=None, context_settings=_HELP)

    @app.callback(help=ABOUT)
    def about(version: Annotated[bool, _VERSION] = False) -> None:
        pass

    for name, meaning in COMMANDS.items():
        app.command(name, help=meaning)(lambda: None)
    return app


app = _app()


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
        arguments: what follows the command's name; the process's own if not given.

    Returns:
        The exit code: 0, 1 for what the machine refused, 2 for what was asked wrongly, 130 for Ctrl-C, 141 if the
        reader of a pipe has gone.
    """
    open_standard_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a character that the terminal cannot show must not stop a command
            stream.reconfigure(errors="backslashreplace")
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        # Not `standalone`, as that would tell the errors in typer's words and leave ours to a traceback.
        with command_line():
            code = get_command(app).main(given or ["--help"], prog_name="throughtime", standalone_mode=False)
        sys.stdout.flush()
    except (BrokenPipeError, SystemExit) as error:  # typer and rich turn the one into the other
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
        _tell(known[0])
        return known[1]
    if code == INTERRUPTED:
        _tell("interrupted.")
    return code if isinstance(code, int) else 0


def _tell(message: str) -> None:
    """Write an error message, unless nobody reads standard error any more."""
    try:
        tell(message)
    except BrokenPipeError:
        silence_broken_pipes()
