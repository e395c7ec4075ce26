"""The commands that bring back: parse, show, ask, do, tell. Decides nothing itself.

As in `cli`, everything slow is imported inside the commands.
"""

from __future__ import annotations

import shlex
import signal
import sys
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from docmind_backup.cli_help import EARLIER, HOW, OUTPUT, WHAT, WHERE
from docmind_backup.cli_shared import (
    BackupId,
    Dest,
    DryRun,
    Json,
    LockWait,
    Project,
    QdrantPath,
    Quiet,
    absolute,
    complete_ids,
    composed,
    make_face,
    parse_parts,
    print_json,
    warn_of_broken,
)
from docmind_backup.core.parts import Part
from docmind_backup.errors import BackupError, Interrupted, UsageError

if TYPE_CHECKING:
    from docmind_backup.core.selection import Selection
    from docmind_backup.operations import Job
    from docmind_backup.render import Face
    from docmind_backup.restores import PlannedRestore, Restored

Only = Annotated[
    list[str] | None,
    typer.Option(
        "--only", metavar="PART", help=f"Only these parts (repeatable): {', '.join(Part)}.", rich_help_panel=WHAT
    ),
]
OnlyCollection = Annotated[
    list[str] | None,
    typer.Option(
        "--collection",
        metavar="NAME",
        help="Only this collection (repeatable; more with --only).",
        rich_help_panel=WHAT,
    ),
]
RestoreEnv = Annotated[
    bool, typer.Option("--include-env", help="The .env file too, where there is none.", rich_help_panel=WHAT)
]
ForceEnv = Annotated[
    bool,
    typer.Option("--force", help="With --include-env: replace the .env that is there.", rich_help_panel=WHAT),
]
SkipDamaged = Annotated[
    bool, typer.Option("--skip-damaged", help="Leave damaged files out, name them, exit 3.", rich_help_panel=WHAT)
]
To = Annotated[
    Path | None,
    typer.Option("--to", metavar="DIR", help="To a new folder, beside the live environment.", rich_help_panel=WHERE),
]
ReadBack = Annotated[
    bool,
    typer.Option(
        "--read-back/--no-read-back",
        help="Read everything again where it lies, before it is done.",
        rich_help_panel=HOW,
    ),
]
AsScript = Annotated[
    bool, typer.Option("--script", help="A shell script that restores without this tool.", rich_help_panel=OUTPUT)
]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out", metavar="FILE", help="Write the plan, for `restore --plan`, or the script.", rich_help_panel=OUTPUT
    ),
]
BackupToRestore = Annotated[
    str | None,
    typer.Argument(
        metavar="BACKUP",
        help="`latest`, an id, a unique prefix of one, or a directory.",
        autocompletion=complete_ids,
    ),
]
PlanFile = Annotated[
    Path | None,
    typer.Option(
        "--plan",
        metavar="FILE",
        help="Carry out this plan of `restore-plan --out`, if nothing changed since.",
        rich_help_panel=HOW,
    ),
]
Yes = Annotated[bool, typer.Option("-y", "--yes", help="Do not ask.", rich_help_panel=HOW)]
Resume = Annotated[bool, typer.Option("--resume", help="Finish one that was interrupted.", rich_help_panel=EARLIER)]
Rollback = Annotated[
    bool, typer.Option("--rollback", help="Take it back: what was there before returns.", rich_help_panel=EARLIER)
]
DiscardRollback = Annotated[
    bool,
    typer.Option("--discard-rollback", help="Accept it: delete what was there before.", rich_help_panel=EARLIER),
]


def restore_plan(
    backup: BackupId = "latest",
    only: Only = None,
    collection: OnlyCollection = None,
    include_env: RestoreEnv = False,
    force: ForceEnv = False,
    skip_damaged: SkipDamaged = False,
    project: Project = Path(),
    dest: Dest = None,
    to: To = None,
    qdrant_path: QdrantPath = None,
    read_back: ReadBack = True,
    as_script: AsScript = False,
    out: Out = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show the steps that would restore a backup to this environment; exit 3 when something blocks it."""
    from docmind_backup import restores

    face = make_face(project, dest, qdrant_path=qdrant_path, quiet=quiet or as_json)
    more = {"include_env": include_env, "force": force, "skip_damaged": skip_damaged, "read_back": read_back}
    wanted = _selection(only, collection, to, **more)
    if as_script:
        _refuse_with_script(wanted, as_json=as_json)
    flags = {"root": absolute(dest), "qdrant_path": absolute(qdrant_path)}
    with composed(project, flags, warn=face.warn, ask_qdrant=True) as run:
        warn_of_broken(run.job.look, face, backup)
        planned = restores.plan(run.job, backup, wanted, fingerprints=out is not None)
        if as_script:
            raise typer.Exit(_give_script(face, planned, absolute(out)))
        raise typer.Exit(_give_plan(run.job, face, planned, absolute(out), as_json=as_json))


def _selection(only: list[str] | None, collection: list[str] | None, to: Path | None, **more: bool) -> Selection:
    from docmind_backup.core.selection import Selection

    wanted = Selection(frozenset(parse_parts(only)), tuple(collection or ()), to=str(absolute(to) or ""), **more)
    if wanted.force and not wanted.wants_env:
        raise UsageError("--force replaces a .env, and none is asked for", hint="--include-env --force")
    return wanted


def _refuse_with_script(wanted: Selection, *, as_json: bool) -> None:
    if as_json:
        raise typer.BadParameter("a script is no JSON: leave one of them out", param_hint="--script")
    if wanted != replace(wanted, to="", include_env=False, force=False, skip_damaged=False, read_back=True):
        raise typer.BadParameter("of what `restore` has to choose with, a script takes --only and --collection")


def _give_plan(job: Job, face: Face, planned: PlannedRestore, out: Path | None, *, as_json: bool) -> int:
    """On the terminal, and in a file if that is wanted; the exit code."""
    from docmind_backup import documents, render, restores

    document = documents.planned_restore(planned)
    if out:
        restores.write_plan(out, document)
    if as_json:
        print_json(document)
    else:
        render.restore_plan(face, planned.plan)
        _propose(job, face, planned, out)
    return 3 if planned.plan.blockers else 0


def _propose(job: Job, face: Face, planned: PlannedRestore, out: Path | None) -> None:
    """What carries it out, unless that would refuse."""
    from docmind_backup import render, restores

    try:
        if not planned.plan.blockers:
            restores.refuse(job, planned, later=True)
    except BackupError as error:
        face.warn(f"`docmind-backup restore` would refuse this: {error}")
        if error.hint:
            face.next_step(error.hint)
    else:
        render.restore_plan_next(face, planned.plan, _command(planned, out))


def _command(planned: PlannedRestore, plan: Path | None) -> str:
    """What carries it out, but for where to look."""
    words = ("--plan", str(plan)) if plan else (planned.word, *planned.wanted.options())
    return shlex.join(("restore", *words))


def _give_script(face: Face, planned: PlannedRestore, out: Path | None) -> int:
    """In a file, or on stdout; the exit code."""
    from docmind_backup import render, restores, scripting

    script = restores.script(planned)
    if out:
        scripting.write(out, script.lines)
    else:
        for block in scripting.blocks(script.lines):
            typer.echo(block, nl=False)
    render.restore_script(face, script.plan, out)
    return 3 if script.plan.blockers else 0


def restore(
    backup: BackupToRestore = None,
    files: Annotated[
        list[str] | None,
        typer.Argument(metavar="FILE", help="Only these, by their path in the backup; with --to."),
    ] = None,
    only: Only = None,
    collection: OnlyCollection = None,
    include_env: RestoreEnv = False,
    force: ForceEnv = False,
    skip_damaged: SkipDamaged = False,
    project: Project = Path(),
    dest: Dest = None,
    to: To = None,
    qdrant_path: QdrantPath = None,
    plan: PlanFile = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    read_back: ReadBack = True,
    lock_wait: LockWait = None,
    resume: Resume = False,
    rollback: Rollback = False,
    discard_rollback: DiscardRollback = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Bring a backup back: staged, verified, swapped in; what was there is kept until you say otherwise."""
    face = make_face(project, dest, qdrant_path=qdrant_path, to=to, quiet=quiet or as_json)
    more = {"include_env": include_env, "force": force, "skip_damaged": skip_damaged, "read_back": read_back}
    wanted = _selection(only, collection, to, **more)
    flags = {"root": absolute(dest), "qdrant_path": absolute(qdrant_path), "lock_wait": lock_wait}
    ways = {"--plan": plan is not None, "--resume": resume, "--rollback": rollback}
    ways |= {"--discard-rollback": discard_rollback, "BACKUP": backup is not None}
    chosen = [way for way, given in ways.items() if given]
    if len(chosen) != 1:
        raise UsageError(
            f"one of these is needed: {', '.join(ways)}" + (f"; given: {', '.join(chosen)}" if chosen else ""),
            hint="`docmind-backup restore latest`",
        )
    _refuse_choices(chosen[0], wanted, files)
    with composed(project, flags, warn=face.warn, ask_qdrant=not files, only=tuple(wanted.parts)) as run:
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


def _refuse_choices(way: str, wanted: Selection, files: list[str] | None) -> None:
    """What is chosen otherwise already, or is no matter of choice, is not passed over in silence."""
    if way == "BACKUP" and not files:
        return
    if files:
        meant = replace(wanted, only=frozenset(), collections=(), include_env=False, force=False, read_back=True)
    else:
        meant = type(wanted)(to=wanted.to if way in ("--resume", "--rollback") else "")
    given = [word for word in wanted.options() if word.startswith("--") and word not in meant.options()]
    if given:
        raise UsageError(
            f"{', '.join(given)} cannot be given with {'FILE' if files else way}",
            hint="the plan has its choices in it" if way == "--plan" else "leave it out",
        )


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
            print_json(documents.planned_restore(planned))
        elif self.dry_run or not (self.as_json or self.yes):
            render.restore_plan(face, planned.plan)
            if planned.wanted.wants_env:
                render_restore.env_keys(face, planned)
        else:
            for warning in planned.plan.warnings:
                face.warn(warning)
        if self.dry_run and planned.plan.blockers:
            render.restore_plan_next(face, planned.plan, "")
            return 3
        restores.refuse(self.job, planned)
        if self.dry_run:
            render.restore_plan_next(face, planned.plan, _command(planned, plan))
            return 0
        self._ask(render_restore.question(planned))
        with face.progress("looking at the target") as on_event:
            on_event.verb = "restored"
            again = partial(self._planned, None, plan) if plan else None
            done = restores.restore(self.job, planned, on_event=on_event, again=again)
        return self._told(done)

    def _planned(self, backup: str | None, plan: Path | None) -> PlannedRestore:
        from docmind_backup import documents, restores

        if plan is None:
            warn_of_broken(self.job.look, self.face, backup or "")
            return restores.plan(self.job, backup or "latest", self.wanted)
        directory, wanted, document = restores.read_plan(plan)
        planned = restores.plan(self.job, directory, wanted, fingerprints=True)
        now = documents.planned_restore(planned)
        restores.refuse_outdated(document, now)
        return planned

    def _told(self, done: Restored) -> int:
        from docmind_backup import documents, render_restore

        if self.as_json:
            print_json(documents.restored(done))
        else:
            render_restore.restored(self.face, done)
        return done.exit_code

    def pick(self, backup: str, files: list[str]) -> int:
        from docmind_backup import documents, opening, picking, render_restore, restores

        if not self.wanted.to:
            raise UsageError("single files go to a folder of their own", hint="give --to DIR, and move them yourself")
        found = opening.open_backup(self.job.look, backup)
        to, in_use = Path(self.wanted.to), restores.in_use(self.job, found.backup.directory)
        skip_damaged, dry_run = self.wanted.skip_damaged, self.dry_run
        done = picking.pick(found, files, to, in_use=in_use, skip_damaged=skip_damaged, dry_run=dry_run)
        if self.as_json:
            print_json(documents.picked(done))
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
        folders = [folder for journal in kept for folder in journal.folders]
        if self.dry_run and self.as_json:
            print_json([documents.kept(journal) for journal in kept])
        elif self.dry_run:
            for folder in folders:
                self.face.answer(folder)
        if self.dry_run:
            return 0
        self._ask(f"Delete for good what is kept in {', '.join(folders)}?")
        done = restores.accept(self.job, kept)
        if self.as_json:
            print_json([documents.restored(one) for one in done])
        else:
            render_restore.discarded(self.face, done)
        return 0

    def _ask(self, question: str) -> None:
        """UsageError when nobody is there to answer."""
        if self.yes:
            return
        if not sys.stdin.isatty():
            raise UsageError("nobody is there to ask: this is not a terminal", hint="give --yes to mean it")
        number: int = signal.SIGINT
        try:
            if typer.confirm(question, err=True):
                return
        except typer.Abort:
            pass
        except Interrupted as asked:
            number = asked.exit_code - 128
        raise Interrupted(number, "nothing was changed")
