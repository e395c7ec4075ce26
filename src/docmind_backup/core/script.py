"""Render a restore as a shell script for a machine without this tool: line by line, in flat memory. No I/O.

Everything is checked before anything is written, copied beside its target and verified there; collections come into
names that nobody has; then each source is renamed into place. The fixed parts are in `core.shell`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from shlex import quote

from docmind_backup.core.format import SUMS, printable, sums_line
from docmind_backup.core.model import (
    Backup,
    CollectionRecord,
    DirEntry,
    Entry,
    FileEntry,
    Kind,
    LinkEntry,
    Part,
    Record,
    SourceRecord,
)
from docmind_backup.core.qdrant_rest import collection_path
from docmind_backup.core.restore import SIDECARS, Action, Place, RestorePlan, Target, placed
from docmind_backup.core.shell import (
    BACK,
    CHECKS,
    COPIES,
    DECODED,
    GO_BACK,
    LAST_LINE,
    QDRANT,
    START,
    SWAP,
    encoded,
    moment,
)

Entries = Callable[[SourceRecord], Iterator[Entry]]
"""The inventory's entries of one source, from the first on at each call."""

_TREES = (Kind.TREE, Kind.EMBEDDED)
_END_OF_GO_BACK = "END_OF_GO_BACK"


@dataclass(frozen=True, slots=True)
class _Move:
    """One source on its way to its target."""

    number: int
    source: SourceRecord
    target: str
    place: Place | None
    """None: beside what is there (uploads in flight)."""

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Of the files that come and go together."""
        return ("", *SIDECARS.get(self.source.kind, ()))

    @property
    def folder(self) -> str:
        return self.target.rpartition("/")[0] or "/"

    def was(self, suffix: str) -> str:
        """What the plan saw at the target (with `suffix`): `folder`, `file` or `nothing`."""
        if self.place is None:
            return "nothing"
        seen = self.place.seen
        if suffix:
            return "file" if seen.source.path.name + suffix in self.place.sidecars else "nothing"
        kind = "folder" if seen.source.kind in _TREES else "file"
        return kind if seen.exists else "nothing"


@dataclass(frozen=True, slots=True)
class _Work:
    """What the script does with the sources of files."""

    moves: tuple[_Move, ...]
    by_hand: tuple[str, ...]
    """What is left to a person on purpose."""
    lacking: tuple[str, ...]
    """What it would restore if it knew where to."""


def script(backup: Backup, target: Target, plan: RestorePlan, entries: Entries) -> Iterator[str]:
    """The lines of a script that carries out `plan`; of one that only explains, when something blocks the plan.

    Raises ValueError where `entries` name what does not belong to their source.
    """
    work = _work(backup.record, target, plan)
    moves, collections = work.moves, _collections(backup.record)
    yield from _head(backup, plan, work)
    if plan.blockers:
        yield from _blocked(plan)
    else:
        yield from _fixed(backup, target, collections)
        yield from _checks(backup, target, plan, moves, collections)
        yield from _ready(moves, collections)
        for move in moves:
            yield from _copy(move, backup.record.id, entries)
        yield from _uploads(collections)
        yield from _swap(moves)
        yield from _done(plan, work)
    yield LAST_LINE


def _work(record: Record, target: Target, plan: RestorePlan) -> _Work:
    where = {step.what: step.target for step in plan.steps if step.action is Action.COPY}
    moves: list[_Move] = []
    by_hand: list[str] = []
    lacking: list[str] = []
    for source, place in placed(record, target):
        if source.part is Part.ENV:
            at = place.seen.source.path if place else source.origin
            by_hand.append(f"{source.stored}: merge it into {at} by hand, line by line; it holds secrets")
        elif place is None and source.stored in where:
            lacking.append(f"{source.stored}: this target's settings have no place for it; it was at {source.origin}")
        elif source.stored in where:
            to = where[source.stored]
            beside = place is None or to != str(place.seen.source.path)
            moves.append(_Move(len(moves) + 1, source, to, None if beside else place))
    return _Work(tuple(moves), tuple(by_hand), tuple(lacking))


def _collections(record: Record) -> tuple[CollectionRecord, ...]:
    return record.qdrant.collections if record.qdrant and not record.qdrant.embedded else ()


# -- what it says of itself ----------------------------------------------------------------------


def _head(backup: Backup, plan: RestorePlan, work: _Work) -> Iterator[str]:
    record = backup.record
    project = next(step.target for step in plan.steps if step.action is Action.STOP)
    yield "#!/bin/sh"
    yield f"# Restore the backup {record.id}, made at {record.started_at:%Y-%m-%d %H:%M} UTC"
    yield f"# on {printable(record.host)}, to {printable(project)}."
    yield "#"
    yield "#     sh FILE [BACKUP]          check everything, change nothing"
    yield "#     sh FILE --yes [BACKUP]    restore; stop DocMind first"
    yield "#"
    yield f"# BACKUP: the backup's folder, where it is not {printable(str(backup.directory))}."
    yield "# QDRANT_API_KEY in the environment: the key, where Qdrant wants one."
    yield "# Needed: a POSIX shell; cp, mv, ln, mkdir, chmod, df, sed, tail, wc, tr, cut, date, sync; touch and"
    yield "# sha256sum of GNU coreutils (nanoseconds, names with line breaks); curl where there are collections."
    yield "# It stops at the first failure (exit code not 0), says how things stand and deletes nothing that was there."
    if plan.warnings or work.by_hand or work.lacking:
        yield "#"
        yield from (f"# warning: {printable(warning)}" for warning in plan.warnings)
        yield from (f"# not restored by this script: {printable(one)}" for one in (*work.by_hand, *work.lacking))


def _blocked(plan: RestorePlan) -> Iterator[str]:
    yield ""
    yield "echo 'This restore is blocked; nothing was changed:' >&2"
    yield from (f"printf '%s\\n' {quote('- ' + printable(blocker))} >&2" for blocker in plan.blockers)
    yield "echo 'Remove what blocks, then make the script anew.' >&2"
    yield "exit 3"


def _fixed(backup: Backup, target: Target, collections: Iterable[CollectionRecord]) -> Iterator[str]:
    yield ""
    yield "set -eu"
    yield "LC_ALL=C"
    yield "export LC_ALL"
    yield f"ID={backup.record.id}"
    yield DECODED.strip("\n")
    yield f"decoded {encoded(str(backup.directory))}"
    yield "DEFAULT=$n"
    yield f"decoded {encoded(str(target.environment.data_dir))}"
    yield "DATA=$n"
    yield f"QDRANT={quote(target.qdrant.url if target.qdrant else '')}"
    yield START.rstrip("\n")
    yield CHECKS.rstrip("\n")
    if collections:
        yield QDRANT.rstrip("\n")
    yield COPIES.rstrip("\n")
    yield SWAP.rstrip("\n")


# -- before anything is written ------------------------------------------------------------------


def _checks(
    backup: Backup,
    target: Target,
    plan: RestorePlan,
    moves: Iterable[_Move],
    collections: Iterable[CollectionRecord],
) -> Iterator[str]:
    yield ""
    yield "# -- checks: nothing is changed --"
    yield ""
    yield from _expected(moves)
    for move in moves:
        yield f"unused {encoded(move.folder)} {move.number}"
    yield from (f"room {space.needed} {encoded(space.path)}" for space in plan.space)
    if collections and target.qdrant:
        yield "command -v curl >/dev/null || stop 2 'curl is needed for the collections'"
        yield f"version {quote(target.qdrant.version)}"
        for taken in collections:
            for name in (taken.name, *taken.state.aliases):
                yield _free_name(name)
    yield f"check_backup {backup.record.digests[SUMS]}"


def _free_name(name: str) -> str:
    """Its JSON is as Qdrant writes it, so that it is found in a list; `'` is not in a body for a person's shell."""
    listed = json.dumps(name, ensure_ascii=False)
    unset = json.dumps({"actions": [{"delete_alias": {"alias_name": name}}]}).replace("'", "\\u0027")
    return f"free_name {quote(printable(name))} {quote(collection_path(name))} {encoded(listed)} {quote(unset)}"


def _expected(moves: Iterable[_Move]) -> Iterator[str]:
    for move in moves:
        for suffix in move.suffixes:
            yield f"expect {move.was(suffix)} {encoded(move.target + suffix)}"


def _ready(moves: Iterable[_Move], collections: Iterable[CollectionRecord]) -> Iterator[str]:
    yield 'if [ "$yes" = no ]; then'
    yield "    say 'Everything is in order; nothing was changed.'"
    yield "    say 'Stop DocMind and all else that writes to its data (ingestion, backups), then run this with --yes.'"
    yield "    exit 0"
    yield "fi"
    yield ""
    yield "# -- the rollback folder, and the way back in it --"
    yield ""
    yield "stamp=$(date -u +%Y%m%d_%H%M%S)"
    yield "OLD=$DATA/before-restore-$stamp"
    yield '(umask "$mask" && mkdir -p "$DATA")'
    yield 'mkdir "$OLD"'
    yield f"cat >\"$OLD/go-back.sh\" <<'{_END_OF_GO_BACK}'"
    yield from (GO_BACK.rstrip("\n"), DECODED.strip("\n"), BACK.strip("\n"), "")
    for move in moves:
        for suffix in move.suffixes:
            names = f"{encoded(move.target + suffix)} {encoded(move.source.stored + suffix)}"
            yield f"back {move.number} {move.was(suffix)} {names}"
        yield f"gone_back {move.number}"
    for taken in collections:
        yield f"echo {quote(f'Made by the restore, still on the server: {printable(taken.name)}')}"
    yield _END_OF_GO_BACK
    yield "leftovers() {"
    yield from (f"    left {encoded(move.folder)} {move.number}" for move in moves)
    yield "    :"
    yield "}"
    yield "phase=copying"


# -- files ---------------------------------------------------------------------------------------


def _copy(move: _Move, backup_id: str, entries: Entries) -> Iterator[str]:
    """One source, copied beside its target and verified there. Kept in memory: the lines of its folders."""
    source = move.source
    yield ""
    yield f"# {printable(source.stored)} -> {printable(move.target)}"
    yield f"stage {move.number} {encoded(source.stored)} {encoded(move.target)}"
    folders: list[str] = []
    for entry in entries(source):
        name = encoded(_tail(source, entry.path))
        match entry:
            case DirEntry():
                yield f"d {name}"
                folders.append(f"a {entry.mode:04o} {moment(entry.mtime_ns)} {name}")
            case FileEntry():
                yield f"f {entry.mode:04o} {moment(entry.mtime_ns)} {name}"
            case LinkEntry():
                pass
    if source.totals.links:
        yield from _links(source, entries)
    yield f"same {source.totals.files} {' '.join(_renaming(move, backup_id))}"
    yield from reversed(folders)


def _links(source: SourceRecord, entries: Entries) -> Iterator[str]:
    """After all files, so that none is written through one of them."""
    for entry in entries(source):
        if isinstance(entry, LinkEntry):
            yield f"l {moment(entry.mtime_ns)} {encoded(_tail(source, entry.path))} {encoded(entry.target)}"


def _tail(source: SourceRecord, path: str) -> str:
    """What follows the source's own stored path; ValueError when `path` is not the source's."""
    root, tail = source.stored, path[len(source.stored) :]
    in_it = tail.startswith("/") if source.kind in _TREES else tail in SIDECARS.get(source.kind, ())
    if not path.startswith(root) or not (in_it or not tail):
        raise ValueError(f"{printable(path)} does not belong to {printable(root)}")
    return tail


def _renaming(move: _Move, backup_id: str) -> Iterator[str]:
    """Options for sed: the source's lines of SHA256SUMS, with the names of the copies."""
    digest = r"^\(\\\{0,1\}[0-9a-f]\{64\}  \)"
    tree = move.source.kind in _TREES
    for tail in ("/",) if tree else move.suffixes:
        stored = _pattern(move.source.stored + tail) + ("" if tree else "$")
        copied = f".restoring-{backup_id}.{move.number}{tail}".replace("/", r"\/")
        program = rf"s/{digest}{stored}/\1.\/{copied}/p"
        yield f"-e {quote(program)}"


def _pattern(path: str) -> str:
    """`path` as it stands in SHA256SUMS, as a basic regular expression for sed."""
    line = sums_line(path, "0" * 64).decode(errors="surrogateescape").removesuffix("\n")
    name = line.removeprefix("\\")[66:]
    return re.sub(r"([\\/.*\[\]^$])", r"\\\1", name)


# -- collections, and the end --------------------------------------------------------------------


def _uploads(collections: Iterable[CollectionRecord]) -> Iterator[str]:
    """Into new names: nothing that is there notices."""
    yield ""
    yield "sync"
    for taken in collections:
        escaped = taken.path.replace("\\", "\\\\").replace('"', '\\"')  # curl's own quoting within -F
        name, path = quote(printable(taken.name)), quote(collection_path(taken.name))
        yield f"upload {name} {path} {encoded(escaped)} {taken.sha256} {taken.points_min} {taken.points_max}"
    for taken in collections:
        for alias in taken.state.aliases:
            create = {"create_alias": {"collection_name": taken.name, "alias_name": alias}}
            yield f"alias_of {quote(printable(alias))} {quote(json.dumps({'actions': [create]}))}"


def _swap(moves: Iterable[_Move]) -> Iterator[str]:
    yield ""
    yield "# -- the old goes aside, the new takes its place: renames, source by source --"
    yield ""
    yield from _expected(moves)
    yield "phase=swapping"
    for move in moves:
        yield f"begin {move.number}"
        for suffix in move.suffixes:
            if move.was(suffix) != "nothing":
                yield f"aside {encoded(move.target + suffix)} {encoded(move.source.stored + suffix)}"
        for suffix in reversed(move.suffixes):  # a stale sidecar stops it before the database is beside it
            yield f"put {move.number} {encoded(move.target)} {encoded(suffix)}"
    yield "sync"
    yield "phase=over"


def _done(plan: RestorePlan, work: _Work) -> Iterator[str]:
    yield ""
    yield f"say {quote(f'Restored: {plan.backup_id}. Check, before DocMind starts:')}"
    yield from (f"say {quote(printable(f'    {check.what}: {check.expected}'))}" for check in plan.checks)
    yield from (f"say {quote(f'Not restored: {printable(one)}')}" for one in (*work.by_hand, *work.lacking))
    yield 'say "What was there before lies in $OLD; remove it when DocMind runs well."'
    yield "say \"To go back: stop DocMind, then: sh '$OLD/go-back.sh'\""
    yield f"exit {3 if work.lacking else 0}"
