"""The command line: parse, one operation, render; `main` maps errors to exit codes. Decides nothing itself.

Settings, httpx and everything below are imported inside the commands, so that `--help` and completion stay quick;
for the same reason help is plain text (Typer's own loads Rich's Markdown).
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from docmind_backup import __version__
from docmind_backup.cli_help import HOW, OUTPUT, STAYS, WHAT, Commands, Grouped
from docmind_backup.cli_restore import restore, restore_plan
from docmind_backup.cli_shared import (
    LOOKING,
    BackupId,
    Dest,
    DryRun,
    Json,
    LockWait,
    Project,
    QdrantPath,
    Quiet,
    Verbose,
    absolute,
    complete_ids,
    composed,
    make_face,
    parse_parts,
    print_json,
    print_json_lines,
    warn_of_broken,
)
from docmind_backup.core.parts import Part
from docmind_backup.core.proposing import PROG, Where
from docmind_backup.errors import BackupError, Interrupted, NoSuchBackup

if TYPE_CHECKING:
    from docmind_backup.core.verifier import Unread, Verification
    from docmind_backup.looking import Look
    from docmind_backup.render import Face
    from docmind_backup.rounds import Rehearse as Rehearsing
    from docmind_backup.rounds import Verifier

BACK_UP, LOOK, RESTORE, KEEP, TOOL = "Back up", "Look", "Restore", "Keep", "The tool itself"


app = typer.Typer(
    name=PROG,
    cls=Commands,
    rich_markup_mode=None,
    help="Make, list, verify, prune and restore local backups of a DocMind environment.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


# -- options --------------------------------------------------------------------------------------


def _keep_rule(name: str, words: str) -> Any:
    return typer.Option(f"--keep-{name}", metavar="N", help=words, min=0, rich_help_panel=STAYS)


KeepLast = Annotated[int | None, _keep_rule("last", "Keep the N newest.")]
KeepHourly = Annotated[int | None, _keep_rule("hourly", "Newest of N hours.")]
KeepDaily = Annotated[int | None, _keep_rule("daily", "Newest of N days.")]
KeepWeekly = Annotated[int | None, _keep_rule("weekly", "Newest of N weeks.")]
KeepMonthly = Annotated[int | None, _keep_rule("monthly", "Newest of N months.")]
KeepYearly = Annotated[int | None, _keep_rule("yearly", "Newest of N years.")]
KeepIncomplete = Annotated[int | None, _keep_rule("incomplete", "Incomplete ones older than a good one.")]
KeepWithin = Annotated[
    str | None,
    typer.Option(
        "--keep-within", metavar="SPAN", help="All younger than SPAN, as in 7d or 1m15d.", rich_help_panel=STAYS
    ),
]
Everything = Annotated[bool, typer.Option("--all", "-a", help="Every backup of the catalog.", rich_help_panel=WHAT)]
Quick = Annotated[
    bool, typer.Option("--quick", help="Names and sizes only; contents are not read.", rich_help_panel=HOW)
]
Deep = Annotated[
    bool, typer.Option("--deep", help="Also open databases and snapshots with their own engines.", rich_help_panel=HOW)
]
Rehearse = Annotated[
    bool,
    typer.Option(
        "--rehearse", help="Also restore into a scratch folder and scratch collections, and check.", rich_help_panel=HOW
    ),
]
Sample = Annotated[
    str | None,
    typer.Option(
        "--sample", metavar="PERCENT", help="Read a share, as in 10%; the next run goes on.", rich_help_panel=HOW
    ),
]
MaxAge = Annotated[
    str | None,
    typer.Option(
        "--max-age", metavar="SPAN", help="Skip what was read since, as in 30d, untouched.", rich_help_panel=HOW
    ),
]
TimeBudget = Annotated[
    str | None,
    typer.Option(
        "--time-budget", metavar="SPAN", help="Begin no file after so long, as in 5m or 1h30m.", rich_help_panel=HOW
    ),
]


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


@app.command("create", cls=Grouped, rich_help_panel=BACK_UP)
@app.command("create-backup", cls=Grouped, hidden=True)
def create(
    project: Project = Path(),
    dest: Dest = None,
    include_uploads: Annotated[
        bool | None,
        typer.Option(
            "--include-uploads/--no-include-uploads",
            " /--diagnostic-no-uploads",
            help="Uploads (default: v2 yes, v1 no).",
            rich_help_panel=WHAT,
        ),
    ] = None,
    include_analytics: Annotated[
        bool | None,
        typer.Option(
            "--include-analytics/--no-include-analytics", help="Analytics (default: if enabled).", rich_help_panel=WHAT
        ),
    ] = None,
    include_logs: Annotated[
        bool | None, typer.Option("--include-logs/--no-include-logs", help="Log files.", rich_help_panel=WHAT)
    ] = None,
    include_env: Annotated[
        bool | None,
        typer.Option("--include-env/--no-include-env", help="The .env file; it holds secrets.", rich_help_panel=WHAT),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            "--only", metavar="PART", help=f"Only these parts (repeatable): {', '.join(Part)}.", rich_help_panel=WHAT
        ),
    ] = None,
    qdrant: Annotated[
        bool | None,
        typer.Option(
            "--qdrant-snapshot/--no-qdrant-snapshot",
            help="Collections: must succeed / leave out (default: if reachable).",
            rich_help_panel=WHAT,
        ),
    ] = None,
    qdrant_path: QdrantPath = None,
    collection: Annotated[
        list[str] | None,
        typer.Option("--collection", metavar="NAME", help="Only these collections (repeatable).", rich_help_panel=WHAT),
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
        bool,
        typer.Option(
            "--prune/--no-prune", " /--no-cleanup", help="Prune after a backup that counts.", rich_help_panel=STAYS
        ),
    ] = True,
    accept_shrink: Annotated[
        bool,
        typer.Option(
            "--accept-shrink", help="What is gone or shrunk since the last backup is meant to be.", rich_help_panel=HOW
        ),
    ] = False,
    share: Annotated[
        bool | None,
        typer.Option(
            "--share/--no-share", help="Unchanged files: share with the last backup / copy all.", rich_help_panel=HOW
        ),
    ] = None,
    lock_wait: LockWait = None,
    events: Annotated[
        Path | None, typer.Option("--events", metavar="FILE", help="Append JSONL events here.", rich_help_panel=OUTPUT)
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Although DOCMIND_BACKUP_ENABLED=false.", rich_help_panel=HOW)
    ] = False,
    dry_run: DryRun = False,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Make a backup, then remove what the keep rules no longer keep."""
    from docmind_backup import documents, operations, render
    from docmind_backup.compose import refuse_disabled

    face = make_face(project, dest, quiet=quiet or as_json, verbose=verbose)
    flags = {
        "root": absolute(dest),
        "include_uploads": include_uploads,
        "include_analytics": include_analytics,
        "include_logs": include_logs,
        "include_env": include_env,
        "qdrant": {True: "required", False: "off", None: None}[qdrant],
        "qdrant_path": absolute(qdrant_path),
        "collections": collection or None,
        "share": share,
        "lock_wait": lock_wait,
        "events": absolute(events),
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
    with composed(
        project, flags, warn=face.warn, only=parse_parts(only), accept_shrink=accept_shrink, ask_qdrant=True
    ) as run:
        if not force:
            refuse_disabled(run.settings)
        if dry_run:
            planned = operations.plan(run.job)
            if as_json:
                print_json(documents.plan(planned.plan))
            else:
                render.plan(face, planned.plan, run.job.catalog.root)
            raise typer.Exit(planned.exit_code)
        with face.progress("looking at the sources") as on_event:
            result = operations.create(run.job, on_event=on_event, prune_after=prune_after)
        if as_json:
            print_json(documents.created(result))
        else:
            render.created(face, result)
        raise typer.Exit(result.exit_code)


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


@app.command("prune", cls=Grouped, rich_help_panel=BACK_UP)
@app.command("prune-backups", cls=Grouped, hidden=True)
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

    face = make_face(project, dest, quiet=quiet or as_json)
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
    with composed(project, {"root": absolute(dest), "lock_wait": lock_wait, **keep}, warn=face.warn) as run:
        result = operations.prune(run.job, dry_run=dry_run)
        if as_json:
            print_json(documents.pruned(result))
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
        make_face(project, dest).warn(text)

    seen = look(project, {"root": absolute(dest)}, warn=warn)
    items = seen.catalog.items(brief=True)
    if as_json:
        from docmind_backup import documents

        print_json_lines(documents.listing(items))
    else:
        from docmind_backup import render

        face = make_face(project, dest, quiet=quiet)
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

    face = make_face(project, dest, quiet=quiet or as_json)
    seen = look(project, {"root": absolute(dest)}, warn=face.warn)
    warn_of_broken(seen, face, backup)
    found = looking.show(seen, backup)
    if as_json:
        print_json(documents.shown(found, looking.left_by(seen, found)))
    else:
        word = looking.word_for(seen, found.directory, found.id)
        render.show(face, found, seen.clock(), looking.left_by(seen, found), word)


@app.command("leftovers", rich_help_panel=LOOK)
def leftovers(
    project: Project = Path(),
    dest: Dest = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show the snapshots on the Qdrant server: ours, perhaps ours, others'; exit 5 when it cannot be asked."""
    from docmind_backup import documents, operations, render

    face = make_face(project, dest, quiet=quiet or as_json)
    with composed(project, {"root": absolute(dest)}, warn=face.warn, ask_qdrant=True) as run:
        found = operations.leftovers(run.job)
        if as_json:
            print_json(documents.leftovers(found))
        else:
            render.leftovers(face, found)
        raise typer.Exit(found.exit_code)


@app.command("verify", cls=Grouped, rich_help_panel=LOOK)
def verify(
    backup: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="BACKUP",
            help="`latest`, ids, unique prefixes or directories (default: latest).",
            autocompletion=complete_ids,
        ),
    ] = None,
    project: Project = Path(),
    dest: Dest = None,
    everything: Everything = False,
    quick: Quick = False,
    deep: Deep = False,
    rehearse: Rehearse = False,
    sample: Sample = None,
    max_age: MaxAge = None,
    time_budget: TimeBudget = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Read backups back: exit 0 intact, 4 damaged, 5 could not check everything."""
    from docmind_backup import documents, looking, render, rounds

    extent = rounds.parse_extent(
        quick=quick, deep=deep, sample=sample, max_age=max_age, time_budget=time_budget, rehearse=rehearse
    )
    face = make_face(project, dest, quiet=quiet or as_json)
    with _verifying(project, dest, face, rehearse=rehearse) as (seen, rehearsing):
        verifier = rounds.Verifier(seen, _to_verify(seen, backup, everything=everything), extent, rehearsing)
        results, failed = _verify_each(verifier, face, as_json=as_json, everything=everything)
    if as_json and (results or not failed):
        print_json([documents.verification(found) for found in results])
    elif results:
        word = looking.word_for(seen, results[0].directory, results[0].id) if len(results) == 1 else "latest"
        render.verified_next(face, results, word)
    codes = {found.exit_code for found in results} | {error.exit_code for error in failed}
    raise typer.Exit(next((code for code in (4, 16, 10, 5) if code in codes), 0))


@contextmanager
def _verifying(
    project: Path, dest: Path | None, face: Face, *, rehearse: bool
) -> Iterator[tuple[Look, Rehearsing | None]]:
    """What verifying looks at; only a rehearsal asks for the settings and a server."""
    from docmind_backup.compose import look

    flags = {"root": absolute(dest)}
    if not rehearse:
        yield look(project, flags, warn=face.warn), None
        return
    from docmind_backup.rehearsal import Stage, clean_up
    from docmind_backup.rehearsal import rehearse as restore_into_scratch

    with composed(project, flags, warn=face.warn, ask_qdrant=True) as run:
        stage = Stage(run.job.server, run.job.catalog.scratch_collections)
        clean_up(stage)
        yield run.job.look, lambda found, backup, on_event: restore_into_scratch(found, backup, stage, on_event)


def _to_verify(seen: Look, backup: list[str] | None, *, everything: bool) -> tuple[Path, ...]:
    from docmind_backup import looking

    if everything:
        return looking.find_all(seen)
    return tuple(found for one in backup or ["latest"] for found in looking.find_to_verify(seen, one))


def _verify_each(
    verifier: Verifier, face: Face, *, as_json: bool, everything: bool
) -> tuple[list[Verification | Unread], list[BackupError]]:
    """(verified, those of which nothing can be said): one of a newer format does not stop the others.

    Of `everything` one that was pruned before its turn is nothing to fail for, unless nothing else was there.
    """
    from docmind_backup.errors import FormatTooNew
    from docmind_backup.verify import CannotCheck

    results: list[Verification | Unread] = []
    failed: list[BackupError] = []
    gone: list[NoSuchBackup] = []
    for directory in verifier.order:
        try:
            results.append(_verify_one(verifier, face, directory, say=not as_json))
        except NoSuchBackup as error:
            gone.append(error)
        except (FormatTooNew, CannotCheck) as error:
            failed.append(error)
            _report(error, as_json=as_json)
    for one in gone:
        if everything and (results or failed):
            face.warn(str(one))
        else:
            failed.append(one)
            _report(one, as_json=as_json)
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

    face = make_face(project)
    with composed(project, {}, warn=face.warn) as run:
        rows = [(s.name, s.value, s.origin) for s in run.settings.values]
        rows.append(("(backups are in)", str(run.job.catalog.root), "resolved"))
        if as_json:
            print_json([{"name": name, "value": value, "origin": origin} for name, value, origin in rows])
        else:
            render.settings(face, rows)


# -- restore, keep, demo -------------------------------------------------------------------------


app.command("restore-plan", cls=Grouped, rich_help_panel=RESTORE)(restore_plan)
app.command("restore", cls=Grouped, rich_help_panel=RESTORE)(restore)


@app.command("hold", rich_help_panel=KEEP)
def hold(
    backup: BackupId,
    reason: Annotated[str, typer.Option("--reason", help="Why, for those who wonder later.")] = "held by hand",
    project: Project = Path(),
    dest: Dest = None,
) -> None:
    """Keep a backup until it is released, whatever the keep rules say."""
    from docmind_backup import operations

    face = make_face(project, dest)
    with composed(project, {"root": absolute(dest)}, warn=face.warn) as run:
        held = operations.hold(run.job, backup, reason)
        face.answer(f"{held.id} is held: {reason}")
        face.next(f"release {held.id}", why="when it may go")


@app.command("release", rich_help_panel=KEEP)
def release(backup: BackupId, project: Project = Path(), dest: Dest = None) -> None:
    """Let the keep rules decide about a backup again."""
    from docmind_backup import operations

    face = make_face(project, dest)
    with composed(project, {"root": absolute(dest)}, warn=face.warn) as run:
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

    demos.run(make_face(), keep, lambda argv: main(argv))


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
    before = LOOKING.set(Where())
    try:
        with _signals():
            app(args=arguments, prog_name=PROG)
    except (BackupError, Interrupted) as error:
        _report(error, as_json="--json" in arguments)
        return error.exit_code
    except SystemExit as done:
        if isinstance(done.__context__, BrokenPipeError):
            return _broken_pipe()
        return done.code if isinstance(done.code, int) else (1 if done.code else 0)
    finally:
        LOOKING.reset(before)
    return 0


def console() -> NoReturn:
    """The `docmind-backup` command."""
    from docmind_backup.surroundings import make_harmless

    make_harmless()
    gc.set_threshold(100_000, 20, 20)  # objects here live long or die at once: looking for cycles is lost time
    sys.exit(main())


def _report(error: BackupError | Interrupted, *, as_json: bool) -> None:
    """`error:` and `hint:` on stderr, or one JSON object there; commands in them look where this one did."""
    where = LOOKING.get(Where())
    if as_json:
        document = {"error": where.told(str(error)), "hint": where.told(error.hint), "exit_code": error.exit_code}
        typer.echo(json.dumps(document, ensure_ascii=False).encode(errors="backslashreplace"), err=True)
        return
    from docmind_backup.render import Face

    Face(where=where).problem(str(error), error.hint)


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
    """Ctrl-C, SIGTERM and SIGHUP end a run cleanly with 128 + their number; a second one ends it at once.

    What the caller ignores stays ignored, as by `nohup`.
    """
    known = [(number, signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    before = [(number, handler) for number, handler in known if handler is not signal.SIG_IGN]
    wanted = [number for number, _ in before]

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
