"""What the commands share: options, the settings composed, the face, JSON on stdout. Decides nothing."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from docmind_backup.cli_help import HOW, OUTPUT, WHERE
from docmind_backup.core.parts import Part
from docmind_backup.core.proposing import Where, command

if TYPE_CHECKING:
    from docmind_backup.compose import Run
    from docmind_backup.looking import Look
    from docmind_backup.render import Face


def complete_ids(ctx: typer.Context, incomplete: str) -> list[str]:
    """Ids of the catalog's backups, newest first, and `latest`; nothing at all when anything is wrong."""
    try:
        from docmind_backup.compose import look

        flags = {"root": absolute(ctx.params.get("dest"))}
        seen = look(Path(ctx.params.get("project") or "."), flags, warn=lambda _: None)
        return [name for name in ("latest", *seen.catalog.ids()) if name.startswith(incomplete)]
    except Exception:
        return []


Project = Annotated[
    Path, typer.Option("-C", "--project", metavar="DIR", help="DocMind's project folder.", rich_help_panel=WHERE)
]
Dest = Annotated[
    Path | None,
    typer.Option(
        "--dest",
        "--root",
        "--output",
        "-o",
        metavar="DIR",
        help="Where the backups are (default: DATA_DIR/backups).",
        rich_help_panel=WHERE,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.", rich_help_panel=OUTPUT)]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Only the answer and warnings.", rich_help_panel=OUTPUT)]
Verbose = Annotated[bool, typer.Option("-v", "--verbose", help="Say more.", rich_help_panel=OUTPUT)]
DryRun = Annotated[
    bool, typer.Option("-n", "--dry-run", help="Say what would be done; write nothing.", rich_help_panel=HOW)
]
LockWait = Annotated[
    float | None,
    typer.Option(
        "--lock-wait", metavar="SECONDS", help="Wait so long for another run to end.", min=0, rich_help_panel=HOW
    ),
]
BackupId = Annotated[
    str,
    typer.Argument(
        metavar="BACKUP",
        help="`latest`, an id, a unique prefix of one, or a directory.",
        autocompletion=complete_ids,
    ),
]
QdrantPath = Annotated[
    Path | None,
    typer.Option(
        "--qdrant-path", metavar="DIR", help="Folder of an embedded Qdrant instead of a server.", rich_help_panel=WHERE
    ),
]


def composed(project: Any, flags: dict[str, Any], **more: Any) -> AbstractContextManager[Run]:
    from docmind_backup.compose import compose

    return compose(Path(project or "."), flags, **more)


LOOKING: ContextVar[Where] = ContextVar("LOOKING")
"""Where the command under way was told to look: what it fails with is told when it has ended."""


def make_face(
    project: Path = Path(),
    dest: Path | None = None,
    *,
    qdrant_path: Path | None = None,
    to: Path | None = None,
    quiet: bool = False,
    verbose: bool = False,
) -> Face:
    """It repeats in the commands that it proposes where this one was told to look."""
    from docmind_backup.render import Face

    given = {"-C": project if project != Path() else None, "--dest": dest, "--qdrant-path": qdrant_path, "--to": to}
    where = Where(tuple((option, str(path)) for option, path in given.items() if path))
    LOOKING.set(where)
    return Face(quiet=quiet, verbose=verbose, where=where)


def print_json(document: Any) -> None:
    typer.echo(json.dumps(document, indent=2, ensure_ascii=False).encode(errors="backslashreplace"))


def print_json_lines(elements: Sequence[Any]) -> None:
    """A list, each element on a line of its own: a thousand backups take a tenth of the time that indenting takes."""
    lines = ",\n".join(json.dumps(element, ensure_ascii=False) for element in elements)
    typer.echo((f"[\n{lines}\n]" if lines else "[]").encode(errors="backslashreplace"))


def parse_parts(names: list[str] | None) -> tuple[Part, ...]:
    try:
        return tuple(Part(name) for chosen in names or [] for name in chosen.split(","))
    except ValueError as error:
        raise typer.BadParameter(f"{error}; parts are {', '.join(Part)}", param_hint="--only") from None


def absolute(path: Path | None) -> Path | None:
    """A path on the command line is relative to where the user stands, not to the project."""
    return Path(os.path.abspath(path.expanduser())) if path else None


def warn_of_broken(look: Look, face: Face, backup: str) -> None:
    """`latest` is not the newest folder when that one is broken: say so."""
    from docmind_backup.looking import broken_newer

    for directory in broken_newer(look) if backup == "latest" else ():
        face.warn(f"{directory.name} is newer and broken: {command('verify', directory)}")
