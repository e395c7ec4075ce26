"""The command line: parse, one operation, render; `main` maps errors to exit codes. Decides nothing itself.

Settings, httpx and everything below are imported inside the commands, so that `--help` and completion stay quick;
for the same reason help is plain text (Typer's own loads Rich's Markdown) and common values are read without pydantic.
"""

from __future__ import annotations

import gc
import json
import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from docmind_backup import __version__
from docmind_backup.core.parts import Part
from docmind_backup.errors import BackupError, Interrupted, UsageError

if TYPE_CHECKING:
    from docmind_backup.compose import Run
    from docmind_backup.core.selection import Selection
    from docmind_backup.core.verifier import Unread, Verification
    from docmind_backup.looking import Look
    from docmind_backup.operations import Job
    from docmind_backup.render import Face
    from docmind_backup.restores import PlannedRestore, Restored
    from docmind_backup.rounds import Rehearse as Rehearsing
    from docmind_backup.rounds import Verifier
    from docmind_backup.scripting import Script

PROG = "docmind-backup"
BACK_UP, LOOK, RESTORE, KEEP, TOOL = "Back up", "Look", "Restore", "Keep", "The tool itself"


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


def _quick_parameters(of: Callable[[Any], list[Any]], ctx: Any) -> list[Any]:
    parameters = of(ctx)
    for parameter in parameters:
        if "process_value" not in vars(parameter):
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


app = typer.Typer(
    name=PROG,
    cls=Commands,
    rich_markup_mode=None,
    help="Make, list, verify, prune and restore local backups of a DocMind environment.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


# -- options every command shares ----------------------------------------------------------------


def _complete_ids(ctx: typer.Context, incomplete: str) -> list[str]:
    """Ids of the catalog's backups, newest first, and `latest`; nothing at all when anything is wrong."""
    try:
        from docmind_backup.compose import look

        flags = {"root": _absolute(ctx.params.get("dest"))}
        seen = look(Path(ctx.params.get("project") or "."), flags, warn=lambda _: None)
        return [name for name in ("latest", *seen.catalog.ids()) if name.startswith(incomplete)]
    except Exception:
        return []


Project = Annotated[Path, typer.Option("-C", "--project", metavar="DIR", help="DocMind's project folder.")]
Dest = Annotated[
    Path | None,
    typer.Option(
        "--dest",
        "--root",
        "--output",
        "-o",
        metavar="DIR",
        help="Where the backups are (default: DATA_DIR/backups).",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Only the answer and warnings.")]
Verbose = Annotated[bool, typer.Option("-v", "--verbose", help="Say more.")]
DryRun = Annotated[bool, typer.Option("-n", "--dry-run", help="Say what would be done; write nothing.")]
LockWait = Annotated[
    float | None,
    typer.Option("--lock-wait", metavar="SECONDS", help="Wait so long for another run to end.", min=0),
]
BackupId = Annotated[
    str,
    typer.Argument(
        metavar="BACKUP",
        help="`latest`, an id, a unique prefix of one, or a directory.",
        autocompletion=_complete_ids,
    ),
]
QdrantPath = Annotated[
    Path | None,
    typer.Option("--qdrant-path", metavar="DIR", help="Folder of an embedded Qdrant instead of a server."),
]
KeepLast = Annotated[int | None, typer.Option("--keep-last", metavar="N", help="Keep the N newest.", min=0)]
KeepHourly = Annotated[int | None, typer.Option("--keep-hourly", metavar="N", help="Newest of N hours.", min=0)]
KeepDaily = Annotated[int | None, typer.Option("--keep-daily", metavar="N", help="Newest of N days.", min=0)]
KeepWeekly = Annotated[int | None, typer.Option("--keep-weekly", metavar="N", help="Newest of N weeks.", min=0)]
KeepMonthly = Annotated[int | None, typer.Option("--keep-monthly", metavar="N", help="Newest of N months.", min=0)]
KeepYearly = Annotated[int | None, typer.Option("--keep-yearly", metavar="N", help="Newest of N years.", min=0)]
KeepWithin = Annotated[
    str | None,
    typer.Option("--keep-within", metavar="SPAN", help="All younger than SPAN, as in 7d or 1m15d."),
]
KeepIncomplete = Annotated[
    int | None,
    typer.Option("--keep-incomplete", metavar="N", help="Incomplete ones older than a good one.", min=0),
]
Deep = Annotated[bool, typer.Option("--deep", help="Also open databases and snapshots with their own engines.")]
Rehearse = Annotated[
    bool, typer.Option("--rehearse", help="Also restore into a scratch folder and scratch collections, and check.")
]
Sample = Annotated[
    str | None,
    typer.Option("--sample", metavar="PERCENT", help="Read a share, as in 10%; the next run goes on."),
]
MaxAge = Annotated[
    str | None,
    typer.Option("--max-age", metavar="SPAN", help="Skip what was read since, as in 30d, untouched."),
]
TimeBudget = Annotated[
    str | None,
    typer.Option("--time-budget", metavar="SPAN", help="Begin no file after so long, as in 5m or 1h30m."),
]


def _compose(project: Any, flags: dict[str, Any], **more: Any) -> AbstractContextManager[Run]:
    from docmind_backup.compose import compose

    return compose(Path(project or "."), flags, **more)


def _face(project: Path = Path(), dest: Path | None = None, *, quiet: bool = False, verbose: bool = False) -> Face:
    from docmind_backup.render import Face

    words = [*(["-C", str(project)] if project != Path() else []), *(["--dest", str(dest)] if dest else [])]
    return Face(quiet=quiet, verbose=verbose, where="".join(f" {shlex.quote(word)}" for word in words))


def _print_json(document: Any) -> None:
    typer.echo(json.dumps(document, indent=2, ensure_ascii=False).encode(errors="backslashreplace"))


def _print_json_lines(elements: Sequence[Any]) -> None:
    """A list, each element on a line of its own: a thousand backups take a tenth of the time that indenting takes."""
    lines = ",\n".join(json.dumps(element, ensure_ascii=False) for element in elements)
    typer.echo((f"[\n{lines}\n]" if lines else "[]").encode(errors="backslashreplace"))


def _parts(names: list[str] | None) -> tuple[Part, ...]:
    try:
        return tuple(Part(name) for chosen in names or [] for name in chosen.split(","))
    except ValueError as error:
        raise typer.BadParameter(f"{error}; parts are {', '.join(Part)}", param_hint="--only") from None


def _version(value: bool) -> None:
    if value:
        typer.echo(f"{PROG} {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    del version


# -- back up -------------------------------------------------------------------------------------


@app.command("create", rich_help_panel=BACK_UP)
@app.command("create-backup", hidden=True)
def create(
    project: Project = Path(),
    dest: Dest = None,
    include_uploads: Annotated[
        bool | None,
        typer.Option(
            "--include-uploads/--no-include-uploads",
            " /--diagnostic-no-uploads",
            help="Uploads (default: v2 yes, v1 no).",
        ),
    ] = None,
    include_analytics: Annotated[
        bool | None,
        typer.Option("--include-analytics/--no-include-analytics", help="Analytics (default: if enabled)."),
    ] = None,
    include_logs: Annotated[bool | None, typer.Option("--include-logs/--no-include-logs", help="Log files.")] = None,
    include_env: Annotated[
        bool | None, typer.Option("--include-env/--no-include-env", help="The .env file; it holds secrets.")
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", metavar="PART", help=f"Only these parts (repeatable): {', '.join(Part)}."),
    ] = None,
    qdrant: Annotated[
        bool | None,
        typer.Option(
            "--qdrant-snapshot/--no-qdrant-snapshot",
            help="Collections: must succeed / leave out (default: if reachable).",
        ),
    ] = None,
    qdrant_path: QdrantPath = None,
    collection: Annotated[
        list[str] | None,
        typer.Option("--collection", metavar="NAME", help="Only these collections (repeatable)."),
    ] = None,
    keep_last: KeepLast = None,
    keep_hourly: KeepHourly = None,
    keep_daily: KeepDaily = None,
    keep_weekly: KeepWeekly = None,
    keep_monthly: KeepMonthly = None,
    keep_yearly: KeepYearly = None,
    keep_within: KeepWithin = None,
    keep_incomplete: KeepIncomplete = None,
    prune_after: Annotated[
        bool, typer.Option("--prune/--no-prune", " /--no-cleanup", help="Prune after a backup that counts.")
    ] = True,
    accept_shrink: Annotated[
        bool,
        typer.Option("--accept-shrink", help="What is gone or shrunk since the last backup is meant to be."),
    ] = False,
    share: Annotated[
        bool | None,
        typer.Option("--share/--no-share", help="Unchanged files: share with the last backup / copy all."),
    ] = None,
    lock_wait: LockWait = None,
    events: Annotated[Path | None, typer.Option("--events", metavar="FILE", help="Append JSONL events here.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Although DOCMIND_BACKUP_ENABLED=false.")] = False,
    dry_run: DryRun = False,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Make a backup, then remove what the keep rules no longer keep."""
    from docmind_backup import documents, operations, render
    from docmind_backup.compose import refuse_disabled

    face = _face(project, dest, quiet=quiet or as_json, verbose=verbose)
    flags = {
        "root": _absolute(dest),
        "include_uploads": include_uploads,
        "include_analytics": include_analytics,
        "include_logs": include_logs,
        "include_env": include_env,
        "qdrant": {True: "required", False: "off", None: None}[qdrant],
        "qdrant_path": _absolute(qdrant_path),
        "collections": collection or None,
        "share": share,
        "lock_wait": lock_wait,
        "events": _absolute(events),
        **_keep(
            keep_last,
            keep_hourly,
            keep_daily,
            keep_weekly,
            keep_monthly,
            keep_yearly,
            keep_within,
            keep_incomplete,
        ),
    }
    with _compose(
        project, flags, warn=face.warn, only=_parts(only), accept_shrink=accept_shrink, ask_qdrant=True
    ) as run:
        if not force:
            refuse_disabled(run.settings)
        if dry_run:
            planned = operations.plan(run.job)
            if as_json:
                _print_json(documents.plan(planned.plan))
            else:
                render.plan(face, planned.plan, run.job.catalog.root)
            raise typer.Exit(planned.exit_code)
        with face.progress("looking at the sources") as on_event:
            result = operations.create(run.job, on_event=on_event, prune_after=prune_after)
        if as_json:
            _print_json(documents.created(result))
        else:
            render.created(face, result)
        raise typer.Exit(result.exit_code)


def _absolute(path: Path | None) -> Path | None:
    """A path on the command line is relative to where the user stands, not to the project."""
    return Path(os.path.abspath(path.expanduser())) if path else None


def _keep(
    last: int | None,
    hourly: int | None,
    daily: int | None,
    weekly: int | None,
    monthly: int | None,
    yearly: int | None,
    within: str | None,
    incomplete: int | None,
) -> dict[str, Any]:
    return {
        "keep_last": last,
        "keep_hourly": hourly,
        "keep_daily": daily,
        "keep_weekly": weekly,
        "keep_monthly": monthly,
        "keep_yearly": yearly,
        "keep_within": within,
        "keep_incomplete": incomplete,
    }


@app.command("prune", rich_help_panel=BACK_UP)
@app.command("prune-backups", hidden=True)
def prune(
    project: Project = Path(),
    dest: Dest = None,
    keep_last: KeepLast = None,
    keep_hourly: KeepHourly = None,
    keep_daily: KeepDaily = None,
    keep_weekly: KeepWeekly = None,
    keep_monthly: KeepMonthly = None,
    keep_yearly: KeepYearly = None,
    keep_within: KeepWithin = None,
    keep_incomplete: KeepIncomplete = None,
    lock_wait: LockWait = None,
    dry_run: DryRun = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Remove the backups that no keep rule keeps. Any --keep-* replaces all configured ones."""
    from docmind_backup import documents, operations, render

    face = _face(project, dest, quiet=quiet or as_json)
    keep = _keep(
        keep_last,
        keep_hourly,
        keep_daily,
        keep_weekly,
        keep_monthly,
        keep_yearly,
        keep_within,
        keep_incomplete,
    )
    with _compose(project, {"root": _absolute(dest), "lock_wait": lock_wait, **keep}, warn=face.warn) as run:
        result = operations.prune(run.job, dry_run=dry_run)
        if as_json:
            _print_json(documents.pruned(result))
        else:
            render.pruned(face, result, dry_run=dry_run)
        raise typer.Exit(3 if result.refused else 0)


# -- look ----------------------------------------------------------------------------------------


@app.command("list", rich_help_panel=LOOK)
def list_(
    project: Project = Path(),
    dest: Dest = None,
    everything: Annotated[bool, typer.Option("--all", "-a", help="Also more than the newest 50.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show the backups, newest first, with what they hold and lack."""
    from docmind_backup.compose import look

    def warn(text: str) -> None:
        _face(project, dest).warn(text)

    seen = look(project, {"root": _absolute(dest)}, warn=warn)
    items = seen.catalog.items(brief=True)
    if as_json:
        from docmind_backup import documents

        _print_json_lines(documents.listing(items))
    else:
        from docmind_backup import render

        face = _face(project, dest, quiet=quiet)
        render.listing(face, items, seen.catalog.root, seen.clock(), everything=everything)


@app.command("show", rich_help_panel=LOOK)
def show(
    backup: BackupId = "latest",
    project: Project = Path(),
    dest: Dest = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show everything one backup says of itself."""
    from docmind_backup import documents, looking, render
    from docmind_backup.compose import look

    face = _face(project, dest, quiet=quiet or as_json)
    seen = look(project, {"root": _absolute(dest)}, warn=face.warn)
    _warn_of_broken(seen, face, backup)
    found = looking.show(seen, backup)
    if as_json:
        _print_json(documents.shown(found, looking.left_by(seen, found)))
    else:
        render.show(face, found, seen.clock(), looking.left_by(seen, found))


@app.command("leftovers", rich_help_panel=LOOK)
def leftovers(
    project: Project = Path(),
    dest: Dest = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show the snapshots on the Qdrant server: ours, perhaps ours, others'; exit 5 when it cannot be asked."""
    from docmind_backup import documents, operations, render

    face = _face(project, dest, quiet=quiet or as_json)
    with _compose(project, {"root": _absolute(dest)}, warn=face.warn, ask_qdrant=True) as run:
        found = operations.leftovers(run.job)
        if as_json:
            _print_json(documents.leftovers(found))
        else:
            render.leftovers(face, found)
        raise typer.Exit(found.exit_code)


@app.command("verify", rich_help_panel=LOOK)
def verify(
    backup: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="BACKUP",
            help="`latest`, ids, unique prefixes or directories (default: latest).",
            autocompletion=_complete_ids,
        ),
    ] = None,
    project: Project = Path(),
    dest: Dest = None,
    everything: Annotated[bool, typer.Option("--all", "-a", help="Every backup of the catalog.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="Names and sizes only; contents are not read.")] = False,
    deep: Deep = False,
    rehearse: Rehearse = False,
    sample: Sample = None,
    max_age: MaxAge = None,
    time_budget: TimeBudget = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Read backups back: exit 0 intact, 4 damaged, 5 could not check everything."""
    from docmind_backup import documents, render, rounds

    extent = rounds.parse_extent(
        quick=quick, deep=deep, sample=sample, max_age=max_age, time_budget=time_budget, rehearse=rehearse
    )
    face = _face(project, dest, quiet=quiet or as_json)
    with _verifying(project, dest, face, rehearse=rehearse) as (seen, rehearsing):
        verifier = rounds.Verifier(seen, _to_verify(seen, backup, everything=everything), extent, rehearsing)
        results, failed = _verify_each(verifier, face, as_json=as_json)
    if as_json and (results or not failed):
        _print_json([documents.verification(found) for found in results])
    elif results:
        render.verified_next(face, results)
    codes = {found.exit_code for found in results} | {error.exit_code for error in failed}
    raise typer.Exit(next((code for code in (4, 16, 5) if code in codes), 0))


@contextmanager
def _verifying(
    project: Path, dest: Path | None, face: Face, *, rehearse: bool
) -> Iterator[tuple[Look, Rehearsing | None]]:
    """What verifying looks at; only a rehearsal asks for the settings and a server."""
    from docmind_backup.compose import look

    flags = {"root": _absolute(dest)}
    if not rehearse:
        yield look(project, flags, warn=face.warn), None
        return
    from docmind_backup.rehearsal import Stage, clean_up
    from docmind_backup.rehearsal import rehearse as restore_into_scratch

    with _compose(project, flags, warn=face.warn, ask_qdrant=True) as run:
        stage = Stage(run.job.server, run.job.catalog.scratch_collections)
        clean_up(stage)
        yield run.job.look, lambda found, backup, on_event: restore_into_scratch(found, backup, stage, on_event)


def _to_verify(seen: Look, backup: list[str] | None, *, everything: bool) -> tuple[Path, ...]:
    from docmind_backup import looking

    if everything:
        return looking.find_all(seen)
    return tuple(found for one in backup or ["latest"] for found in looking.find_to_verify(seen, one))


def _warn_of_broken(look: Look, face: Face, backup: str) -> None:
    """`latest` is not the newest folder when that one is broken: say so."""
    from docmind_backup.looking import broken_newer

    for directory in broken_newer(look) if backup == "latest" else ():
        face.warn(f"{directory.name} is newer and broken: docmind-backup verify {directory}")


def _verify_each(
    verifier: Verifier, face: Face, *, as_json: bool
) -> tuple[list[Verification | Unread], list[BackupError]]:
    """(verified, those of which nothing can be said): one of a newer format does not stop the others."""
    from docmind_backup.errors import FormatTooNew
    from docmind_backup.verify import CannotCheck

    results: list[Verification | Unread] = []
    failed: list[BackupError] = []
    for directory in verifier.order:
        try:
            results.append(_verify_one(verifier, face, directory, say=not as_json))
        except (FormatTooNew, CannotCheck) as error:
            failed.append(error)
            _report(error, as_json=as_json)
    return results, failed


def _verify_one(verifier: Verifier, face: Face, directory: Path, *, say: bool) -> Verification | Unread:
    from docmind_backup import render

    with face.progress() as on_event:
        on_event.verb = "read"
        found = verifier.verify(directory, on_event)
    if say:
        render.verification(face, found)
    return found


@app.command("show-config", rich_help_panel=LOOK)
def show_config(project: Project = Path(), as_json: Json = False) -> None:
    """Show every setting with where its value comes from; secrets masked."""
    from docmind_backup import render

    face = _face(project)
    with _compose(project, {}, warn=face.warn) as run:
        rows = [(s.name, s.value, s.origin) for s in run.settings.values]
        rows.append(("(backups are in)", str(run.job.catalog.root), "resolved"))
        if as_json:
            _print_json([{"name": name, "value": value, "origin": origin} for name, value, origin in rows])
        else:
            render.settings(face, rows)


# -- restore, keep, demo -------------------------------------------------------------------------


Only = Annotated[
    list[str] | None,
    typer.Option("--only", metavar="PART", help=f"Only these parts (repeatable): {', '.join(Part)}."),
]
OnlyCollection = Annotated[
    list[str] | None,
    typer.Option("--collection", metavar="NAME", help="Only this collection (repeatable; more with --only)."),
]
To = Annotated[
    Path | None,
    typer.Option("--to", metavar="DIR", help="To a new folder, beside the live environment."),
]
RestoreEnv = Annotated[bool, typer.Option("--include-env", help="The .env file too, where there is none.")]
ForceEnv = Annotated[bool, typer.Option("--force", help="With --include-env: replace the .env that is there.")]
SkipDamaged = Annotated[bool, typer.Option("--skip-damaged", help="Leave damaged files out, name them, exit 3.")]
ReadBack = Annotated[
    bool, typer.Option("--read-back/--no-read-back", help="Read everything again where it lies, before it is done.")
]


@app.command("restore-plan", rich_help_panel=RESTORE)
def restore_plan(
    backup: BackupId = "latest",
    project: Project = Path(),
    dest: Dest = None,
    only: Only = None,
    collection: OnlyCollection = None,
    to: To = None,
    include_env: RestoreEnv = False,
    force: ForceEnv = False,
    skip_damaged: SkipDamaged = False,
    read_back: ReadBack = True,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Write the plan, for `restore --plan`, or the script.")
    ] = None,
    as_script: Annotated[
        bool, typer.Option("--script", help="A shell script that restores without this tool.")
    ] = False,
    qdrant_path: QdrantPath = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show the steps that would restore a backup to this environment; exit 3 when something blocks it."""
    from docmind_backup import documents, render, restores

    if as_script and as_json:
        raise typer.BadParameter("a script is no JSON: leave one of them out", param_hint="--script")
    if as_script and (to or include_env or force or skip_damaged or not read_back):
        raise typer.BadParameter("of what `restore` has to choose with, a script takes --only and --collection")
    face = _face(project, dest, quiet=quiet or as_json)
    more = {"include_env": include_env, "force": force, "skip_damaged": skip_damaged, "read_back": read_back}
    wanted = _selection(only, collection, to, **more)
    flags = {"root": _absolute(dest), "qdrant_path": _absolute(qdrant_path)}
    with _compose(project, flags, warn=face.warn, ask_qdrant=True) as run:
        _warn_of_broken(run.job.look, face, backup)
        planned = restores.plan(run.job, backup, wanted, fingerprints=out is not None)
        if as_script:
            script = restores.script(planned)
            _give_script(script, _absolute(out))
            render.restore_script(face, script.plan, out)
            raise typer.Exit(3 if script.plan.blockers else 0)
        document = documents.planned_restore(planned)
        if out:
            restores.write_plan(out, document)
        if as_json:
            _print_json(document)
        else:
            render.restore_plan(face, planned.plan)
        raise typer.Exit(3 if planned.plan.blockers else 0)


def _selection(only: list[str] | None, collection: list[str] | None, to: Path | None, **more: bool) -> Selection:
    from docmind_backup.core.selection import Selection

    return Selection(frozenset(_parts(only)), tuple(collection or ()), to=str(_absolute(to) or ""), **more)


@app.command("restore", rich_help_panel=RESTORE)
def restore(
    backup: Annotated[
        str | None,
        typer.Argument(
            metavar="BACKUP",
            help="`latest`, an id, a unique prefix of one, or a directory.",
            autocompletion=_complete_ids,
        ),
    ] = None,
    files: Annotated[
        list[str] | None,
        typer.Argument(metavar="FILE", help="Only these, by their path in the backup; with --to."),
    ] = None,
    project: Project = Path(),
    dest: Dest = None,
    plan: Annotated[
        Path | None,
        typer.Option("--plan", metavar="FILE", help="Carry out this plan, if nothing changed since."),
    ] = None,
    only: Only = None,
    collection: OnlyCollection = None,
    to: To = None,
    include_env: RestoreEnv = False,
    force: ForceEnv = False,
    skip_damaged: SkipDamaged = False,
    read_back: ReadBack = True,
    resume: Annotated[bool, typer.Option("--resume", help="Finish a restore that was interrupted.")] = False,
    rollback: Annotated[bool, typer.Option("--rollback", help="Bring back what was there before.")] = False,
    discard_rollback: Annotated[bool, typer.Option("--discard-rollback", help="Delete what was there before.")] = False,
    qdrant_path: QdrantPath = None,
    lock_wait: LockWait = None,
    yes: Annotated[bool, typer.Option("-y", "--yes", help="Do not ask.")] = False,
    dry_run: DryRun = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Bring a backup back: staged, verified, swapped in; what was there is kept until you say otherwise."""
    face = _face(project, dest, quiet=quiet or as_json)
    more = {"include_env": include_env, "force": force, "skip_damaged": skip_damaged, "read_back": read_back}
    wanted = _selection(only, collection, to, **more)
    flags = {"root": _absolute(dest), "qdrant_path": _absolute(qdrant_path), "lock_wait": lock_wait}
    ways = {"--plan": plan is not None, "--resume": resume, "--rollback": rollback}
    ways |= {"--discard-rollback": discard_rollback, "BACKUP": backup is not None}
    chosen = [way for way, given in ways.items() if given]
    if len(chosen) != 1:
        raise UsageError(
            f"one of these is needed: {', '.join(ways)}" + (f"; given: {', '.join(chosen)}" if chosen else ""),
            hint="`docmind-backup restore latest`",
        )
    with _compose(project, flags, warn=face.warn, ask_qdrant=not files, only=tuple(wanted.parts)) as run:
        asked = _Asked(run.job, face, wanted, yes=yes, dry_run=dry_run, as_json=as_json)
        match chosen[0]:
            case "BACKUP" if files:
                code = asked.pick(backup or "", files)
            case "BACKUP" | "--plan":
                code = asked.restore(backup, plan)
            case "--discard-rollback":
                code = asked.discard()
            case way:
                code = asked.go_on(resume=way == "--resume")
        raise typer.Exit(code)


@dataclass(frozen=True, slots=True)
class _Asked:
    """One `restore`: show, ask, do, tell. Each method returns the exit code."""

    job: Job
    face: Face
    wanted: Selection
    yes: bool
    dry_run: bool
    as_json: bool

    def restore(self, backup: str | None, plan: Path | None) -> int:
        from docmind_backup import documents, render, render_restore, restores

        face, planned = self.face, self._planned(backup, plan)
        if self.dry_run and self.as_json:
            _print_json(documents.planned_restore(planned))
        elif self.dry_run or not (self.as_json or self.yes):
            render.restore_plan(face, planned.plan, last=self.dry_run)
            if planned.wanted.wants_env:
                render_restore.env_keys(face, planned)
        else:
            for warning in planned.plan.warnings:
                face.warn(warning)
        if self.dry_run:
            return 3 if planned.plan.blockers else 0
        restores.refuse_blocked(planned)
        self._ask(render_restore.question(planned))
        with face.progress("looking at the target") as on_event:
            on_event.verb = "restored"
            done = restores.restore(self.job, planned, on_event=on_event)
        return self._told(done)

    def _planned(self, backup: str | None, plan: Path | None) -> PlannedRestore:
        from docmind_backup import documents, restores

        if plan is None:
            _warn_of_broken(self.job.look, self.face, backup or "")
            return restores.plan(self.job, backup or "latest", self.wanted)
        directory, wanted, document = restores.read_plan(plan)
        planned = restores.plan(self.job, directory, wanted, fingerprints=True)
        now = documents.planned_restore(planned)
        restores.refuse_outdated(document, now)
        return planned

    def _told(self, done: Restored) -> int:
        from docmind_backup import documents, render_restore

        if self.as_json:
            _print_json(documents.restored(done))
        else:
            render_restore.restored(self.face, done)
        return done.exit_code

    def pick(self, backup: str, files: list[str]) -> int:
        from docmind_backup import documents, opening, picking, render_restore

        if not self.wanted.to:
            raise UsageError("single files go to a folder of their own", hint="give --to DIR, and move them yourself")
        found = opening.open_backup(self.job.look, backup)
        to = Path(self.wanted.to)
        done = picking.pick(found, files, to, skip_damaged=self.wanted.skip_damaged, dry_run=self.dry_run)
        if self.as_json:
            _print_json(documents.picked(done))
        else:
            render_restore.picked(self.face, done)
        return done.exit_code

    def go_on(self, *, resume: bool) -> int:
        from docmind_backup import restores

        to = Path(self.wanted.to) if self.wanted.to else None
        if self.dry_run:
            raise UsageError("--dry-run has nothing to show here", hint="`docmind-backup restore -h`")
        with self.face.progress("looking at the target") as on_event:
            on_event.verb = "restored"
            act = restores.resume if resume else restores.roll_back
            return self._told(act(self.job, to, on_event=on_event))

    def discard(self) -> int:
        from docmind_backup import documents, render_restore, restores

        kept = restores.kept(self.job)
        if self.dry_run:
            for folder in kept:
                self.face.answer(folder)
            return 0
        self._ask(f"Delete what was there before, and is kept in {', '.join(kept)}?")
        done = restores.accept(self.job)
        if self.as_json:
            _print_json([documents.restored(one) for one in done])
        else:
            render_restore.discarded(self.face, done)
        return 0

    def _ask(self, question: str) -> None:
        """UsageError when nobody is there to answer."""
        if self.yes:
            return
        if not sys.stdin.isatty():
            raise UsageError("nobody is there to ask: this is not a terminal", hint="give --yes to mean it")
        if not typer.confirm(question, err=True):
            raise Interrupted(signal.SIGINT)


def _give_script(script: Script, out: Path | None) -> None:
    from docmind_backup import scripting

    if out:
        scripting.write(out, script.lines)
        return
    for block in scripting.blocks(script.lines):
        typer.echo(block, nl=False)


@app.command("hold", rich_help_panel=KEEP)
def hold(
    backup: BackupId,
    reason: Annotated[str, typer.Option("--reason", help="Why, for those who wonder later.")] = "held by hand",
    project: Project = Path(),
    dest: Dest = None,
) -> None:
    """Keep a backup until it is released, whatever the keep rules say."""
    from docmind_backup import operations

    face = _face(project, dest)
    with _compose(project, {"root": _absolute(dest)}, warn=face.warn) as run:
        held = operations.hold(run.job, backup, reason)
        face.answer(f"{held.id} is held: {reason}")
        face.next(f"release {held.id}", why="when it may go")


@app.command("release", rich_help_panel=KEEP)
def release(backup: BackupId, project: Project = Path(), dest: Dest = None) -> None:
    """Let the keep rules decide about a backup again."""
    from docmind_backup import operations

    face = _face(project, dest)
    with _compose(project, {"root": _absolute(dest)}, warn=face.warn) as run:
        found, was_held = operations.release(run.job, backup)
        face.answer(f"{found.id} is {'released' if was_held else 'not held'}")
        face.next("prune --dry-run")


@app.command("demo", rich_help_panel=TOOL)
def demo(
    keep: Annotated[
        Path | None,
        typer.Option("--keep", metavar="DIR", help="Make the sample environment here, and leave it."),
    ] = None,
) -> None:
    """Make a small sample environment and back it up, list, verify and plan its restore."""
    from docmind_backup import demo as demos

    demos.run(_face(), keep, lambda argv: main(argv))


# -- the way out ---------------------------------------------------------------------------------


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code; the console entry point exits with it."""
    arguments = sys.argv[1:] if argv is None else argv
    try:
        code = _run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        return _broken_pipe()
    except OSError as error:
        if not _of_the_output(error):
            raise
        _close_output()
        with suppress(OSError):  # stderr may be as full
            _report(BackupError(f"the answer cannot be written: {error.strerror}"), as_json="--json" in arguments)
        return 1
    return code


def _run(arguments: list[str]) -> int:
    try:
        with _signals():
            app(args=arguments, prog_name=PROG)
    except BackupError as error:
        _report(error, as_json="--json" in arguments)
        return error.exit_code
    except SystemExit as done:
        if isinstance(done.__context__, BrokenPipeError):
            return _broken_pipe()
        return done.code if isinstance(done.code, int) else (1 if done.code else 0)
    return 0


def console() -> NoReturn:
    """The `docmind-backup` command."""
    from docmind_backup.surroundings import make_harmless

    make_harmless()
    gc.set_threshold(100_000, 20, 20)  # objects here live long or die at once: looking for cycles is lost time
    sys.exit(main())


def _report(error: BackupError, *, as_json: bool) -> None:
    """`error:` and `hint:` on stderr, or one JSON object there."""
    if as_json:
        document = {"error": str(error), "hint": error.hint, "exit_code": error.exit_code}
        typer.echo(json.dumps(document, ensure_ascii=False).encode(errors="backslashreplace"), err=True)
        return
    _face().problem(str(error), error.hint)


def _broken_pipe() -> int:
    """The reader of our output went away (Typer catches it): what was done is done, and 1 would say it was not."""
    _close_output()
    return 141


def _close_output() -> None:
    """What is still in the buffer goes nowhere, instead of failing again when the process ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _of_the_output(error: OSError) -> bool:
    """Whether it was a write to stdout or stderr that failed: only the face and its libraries write there."""
    last = error.__traceback__
    while last and last.tb_next:
        last = last.tb_next
    where = str(last.tb_frame.f_globals.get("__name__", "")) if last else ""
    return where.split(".")[0] in ("typer", "rich") or where in (__name__, "docmind_backup.render")


@contextmanager
def _signals() -> Iterator[None]:
    """Ctrl-C, SIGTERM and SIGHUP end a run cleanly with 128 + their number; a second one ends it at once."""
    wanted = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [(number, signal.getsignal(number)) for number in wanted]

    def stop(number: int, _frame: FrameType | None) -> None:
        for each in wanted:
            signal.signal(each, lambda again, _f: os._exit(128 + again))
        raise Interrupted(number)

    for number in wanted:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)
