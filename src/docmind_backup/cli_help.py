"""The command line's help, by what things are for; and common values read without pydantic. Decides nothing."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from typer.core import TyperCommand, TyperGroup

ARGUMENTS, WHAT, WHERE, STAYS, HOW = "Arguments", "What", "Where", "What stays", "How"
EARLIER, OUTPUT = "An earlier restore", "Output"
HEADINGS = (ARGUMENTS, WHAT, WHERE, STAYS, HOW, EARLIER, OUTPUT)
"""What options are about, in the order of a long help."""
NAMES = 24
"""Columns for names, in a long help; what is longer has a line of its own."""


class Commands(TyperGroup):
    """All commands, by what they are for."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        for command in (self, *self.commands.values()):
            command.get_params = partial(_quick_parameters, command.get_params)  # type: ignore[method-assign]

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Headings in the order of the commands; a line of help each."""
        known = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        seen = [(name, command) for name, command in known if command is not None and not command.hidden]
        panels: dict[str, list[tuple[str, str]]] = {}
        for name, command in seen:
            panel = str(getattr(command, "rich_help_panel", None) or "Commands")
            panels.setdefault(panel, []).append((name, command.get_short_help_str(200)))
        for panel, rows in panels.items():
            with formatter.section(panel):
                formatter.write_dl(rows, col_max=20)


class Grouped(TyperCommand):
    """A command of many options: a heading for each thing that they are about, and one column for all names."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        panels: dict[str, list[tuple[str, str]]] = {heading: [] for heading in HEADINGS}
        for parameter in self.get_params(ctx):
            if record := parameter.get_help_record(ctx):
                usual = ARGUMENTS if parameter.param_type_name == "argument" else OUTPUT
                panels[str(getattr(parameter, "rich_help_panel", None) or usual)].append(record)
        for panel, rows in panels.items():
            if rows:
                with formatter.section(panel):
                    formatter.write_dl([(name.ljust(NAMES), words) for name, words in rows], col_max=NAMES)


def _quick_parameters(of: Callable[[Any], list[Any]], ctx: Any) -> list[Any]:
    parameters = of(ctx)
    for parameter in parameters:
        if "process_value" not in vars(parameter):
            if parameter.param_type_name == "argument":
                parameter.display_type_rich = lambda **_: None  # in the help, `<str>` says nothing
            parameter.process_value = _quickly(parameter, parameter.process_value)
    return parameters


def _quickly(parameter: Any, slowly: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """Read nothing, a text, a plain number and a path; anything else, and all that is wrong, is Typer's business.

    Typer reads every value by pydantic, which takes longer to load than Typer itself.
    """

    def read(ctx: Any, value: Any) -> Any:
        kind = getattr(parameter.type_descriptor, "annotation", None)
        if value is None and not parameter.required:
            nothing = () if parameter.multiple or parameter.nargs != 1 else None
            return parameter.callback(ctx, parameter, nothing) if parameter.callback else nothing
        if parameter.callback or parameter.nargs != 1:
            return slowly(ctx, value)
        if not parameter.multiple and kind in (str, Path):
            if isinstance(value, kind):
                return value
            if kind is Path and isinstance(value, str):
                return Path(value)
        if kind is int and isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10:
            return int(value)
        return slowly(ctx, value)

    return read
