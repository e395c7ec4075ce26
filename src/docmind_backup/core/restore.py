"""Decide what a restore will do. No I/O: the target's present state comes in as a value."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import PurePosixPath

from docmind_backup.core.environment import Environment
from docmind_backup.core.fitness import SECRETS, key_warnings, keys, shard_problem, version_problem, version_warning
from docmind_backup.core.model import (
    IN_FLIGHT,
    UNCOUNTED,
    Backup,
    CollectionRecord,
    CollectionState,
    Kind,
    Layout,
    Part,
    QdrantRecord,
    Record,
    Seen,
    SourceRecord,
)
from docmind_backup.core.units import size

SIDECARS: Mapping[Kind, tuple[str, ...]] = {
    Kind.SQLITE: ("-wal", "-shm", "-journal"),
    Kind.DUCKDB: (".wal", ".wal.checkpoint", ".wal.recovery"),
}
"""What must leave together with a database: an old one beside a new main file is replayed into it."""


NO_PLACE = "not restored: a DocMind environment has no place for it; `--to DIR` takes it out"
"""Of what another tool kept."""
ROOT = "it is the root of the file system: correct the settings"
"""A problem of a place that no restore goes to."""


class Action(StrEnum):
    """The kinds of steps, in the order they are done."""

    STOP = "stop"
    CHECK = "check"
    MOVE_ASIDE = "move aside"
    COPY = "copy"
    MERGE = "merge by hand"
    UPLOAD = "upload"
    ALIAS = "set alias"
    START = "start"


@dataclass(frozen=True, slots=True)
class RestoreStep:
    """One thing to do."""

    action: Action
    what: str
    """Inside the backup: a stored root or a collection; empty for the application."""
    target: str
    """Where on the target."""
    bytes: int = 0
    overwrites: str = ""
    """What is there now and leaves; empty when nothing is."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Space:
    """What one file system has to take."""

    path: str
    needed: int
    free: int


@dataclass(frozen=True, slots=True)
class Check:
    """Something to hold against the record afterwards."""

    what: str
    expected: str
    note: str = ""
    """What else is to be known of it."""


@dataclass(frozen=True, slots=True)
class RestorePlan:
    """A restore, decided and not done."""

    backup_id: str
    directory: str
    blockers: tuple[str, ...]
    warnings: tuple[str, ...]
    steps: tuple[RestoreStep, ...]
    space: tuple[Space, ...]
    checks: tuple[Check, ...]
    target: Mapping[str, str] = field(default_factory=dict[str, str])
    """What was there when this was planned: place or collection -> fingerprint; empty when it was not looked for."""
    astray: tuple[str, ...] = ()
    """Of the blockers those that say where the settings, or a link, would lead a restore."""

    @property
    def bytes(self) -> int:
        return sum(step.bytes for step in self.steps)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a source would go, as it is now."""

    seen: Seen
    sidecars: tuple[str, ...]
    """Names of the database sidecars that lie there now."""
    file_system: str
    """Tells file systems apart; the nearest existing folder's device."""
    free: int
    fingerprint: str = ""
    """Of what lies there, in words that mean the same in another process; empty when nobody asked."""
    link: str = ""
    """Where the settings put it, when that is a link now; `seen` is where it leads."""


@dataclass(frozen=True, slots=True)
class TargetQdrant:
    """The target's Qdrant as it is now."""

    url: str
    version: str = ""
    collections: tuple[CollectionState, ...] = ()
    """Those of the backup's names that exist."""
    aliases: Mapping[str, str] | None = None
    """alias -> collection."""
    peers: int = 1
    error: str = ""
    names: tuple[str, ...] = ()
    """All collections there are."""


@dataclass(frozen=True, slots=True)
class Target:
    """The environment that a restore would go to."""

    environment: Environment
    layout: Layout
    places: tuple[Place, ...]
    qdrant: TargetQdrant | None
    keys: Mapping[str, str] | None = None
    """Fingerprints of its keys with the salt of the backup's record; None: nobody looked."""


def plan_restore(backup: Backup, target: Target, *, write_env: bool = False) -> RestorePlan:
    """The ordered steps that bring `backup` back to `target`, what each overwrites, and what stands in the way.

    `write_env`: `.env` comes back as the other files do; else it is merged by hand.
    """
    record = backup.record
    pairs = placed(record, target)
    qdrant = record.qdrant if record.qdrant and not record.qdrant.embedded else None
    steps = (
        RestoreStep(Action.CHECK, "every file", str(backup.directory), notes=(_verify(backup),)),
        RestoreStep(Action.STOP, "", str(target.environment.project), notes=_to_stop(record.layout)),
        *_aside(pairs, write_env=write_env),
        *_copies(pairs, record, write_env=write_env),
        *(_collections(qdrant, target) if qdrant else ()),
        RestoreStep(Action.START, "", str(target.environment.project), notes=("then the checks below",)),
    )
    space, astray = tuple(_space(pairs)), tuple(_astray(pairs, write_env=write_env))
    return RestorePlan(
        backup_id=record.id,
        directory=str(backup.directory),
        blockers=(*astray, *_blockers(backup, target, pairs, space)),
        warnings=tuple(_warnings(backup, target, pairs)),
        steps=steps,
        space=space,
        checks=tuple(_checks(backup, target)),
        target=_fingerprints(pairs, record, target),
        astray=astray,
    )


def _verify(backup: Backup) -> str:
    """By its folder, which works wherever the command is given."""
    return shlex.join(("docmind-backup", "verify", str(backup.directory)))


def _fingerprints(pairs: Iterable[_Pair], record: Record, target: Target) -> dict[str, str]:
    """What a plan in a file is held against before it is carried out; empty when nobody asked for it."""
    qdrant, asked = target.qdrant, any(place.fingerprint for place in target.places)
    found = {str(place.seen.source.path): place.fingerprint for _, place in pairs if place and place.fingerprint}
    if not asked or not record.qdrant or record.qdrant.embedded or qdrant is None:
        return found
    there = {state.name: _collection_words(state) for state in qdrant.collections}
    aliases = {alias: f"-> {name}" for alias, name in (qdrant.aliases or {}).items()}
    collections = {taken.name: there.get(taken.name, "absent") for taken in record.qdrant.collections}
    return {**found, **{f"{qdrant.url}/{name}": what for name, what in sorted({**aliases, **collections}.items())}}


def _collection_words(state: CollectionState) -> str:
    """As far as a description tells one from another: what its points hold, it does not say."""
    described = (state.vectors, state.sparse_vectors, state.metadata, state.payload_schema)
    digest = hashlib.sha256(json.dumps(described, sort_keys=True, default=str).encode())
    return f"{state.points} points, {digest.hexdigest()[:16]}"


_Pair = tuple[SourceRecord, Place | None]


def placed(record: Record, target: Target) -> tuple[_Pair, ...]:
    """What the backup holds, each with its place on the target; None: the target's settings have none."""
    return tuple((source, _place(source, target.places)) for source in record.sources if _holds(source))


def _holds(source: SourceRecord) -> bool:
    return bool(source.totals.files or source.totals.directories or source.totals.links)


def _place(source: SourceRecord, places: Iterable[Place]) -> Place | None:
    """By its place in a backup; a database whose name differs on the target, by its part."""
    known = list(places)
    for place in known:
        if str(place.seen.source.stored) == source.stored:
            return place
    same = [p for p in known if (p.seen.source.part, p.seen.source.kind) == (source.part, source.kind)]
    return same[0] if len(same) == 1 and source.kind in SIDECARS else None


def _to_stop(layout: Layout) -> tuple[str, ...]:
    app = "DocMind (streamlit, or its container)" if layout is Layout.V2 else "DocMind"
    return (app, "and everything else that writes to its data: scheduled ingestion, backups")


# -- files ---------------------------------------------------------------------------------------


def _aside(pairs: Iterable[_Pair], *, write_env: bool) -> Iterator[RestoreStep]:
    """What is there now leaves first, databases with every sidecar in the same move."""
    for source, place in pairs:
        if place is None or source.stored in IN_FLIGHT or (source.part is Part.ENV and not write_env):
            continue
        seen = place.seen
        if seen.exists or place.sidecars:
            yield RestoreStep(
                Action.MOVE_ASIDE,
                source.stored,
                str(seen.source.path),
                overwrites=f"{seen.files:,} file{'' if seen.files == 1 else 's'}, {size(seen.bytes)}",
                notes=tuple(f"with {name}" for name in place.sidecars),
            )


def in_flight_folder(record: Record, origin: str) -> str:
    """Uploads in flight go to a folder beside, for a person to look at: their journals fit no restored state."""
    path = PurePosixPath(origin)
    return str(path.parent / f"in-flight-from-{record.id}" / path.name)


def _copies(pairs: Iterable[_Pair], record: Record, *, write_env: bool) -> Iterator[RestoreStep]:
    for source, place in pairs:
        if place is None and not source.origin:
            continue  # nobody knows where it was, and here is no place for it
        where = str(place.seen.source.path) if place else source.origin
        if source.stored in IN_FLIGHT:
            where = in_flight_folder(record, where)
        if source.part is Part.ENV and not write_env:
            overwrites = "nothing: field by field" if place and place.seen.exists else ""
            yield RestoreStep(Action.MERGE, source.stored, where, overwrites=overwrites, notes=("it holds secrets",))
        else:
            yield RestoreStep(
                Action.COPY,
                source.stored,
                where,
                source.totals.bytes,
                notes=tuple(_copy_notes(source, record.layout)),
            )


def _copy_notes(source: SourceRecord, layout: Layout) -> Iterator[str]:
    if source.kind is Kind.DUCKDB and source.totals.files > 1:
        yield "main file and .wal together, both or neither"
    if source.part is Part.UPLOADS and layout is Layout.V1:
        yield "modification times to the nanosecond: v1's corpus hash is made of them"
    if source.stored in IN_FLIGHT:
        yield "uploads in flight: beside the live ones, for a person to look at"


def _space(pairs: Iterable[_Pair]) -> Iterator[Space]:
    """The old is kept until accepted, so everything restored needs room of its own."""
    needed: dict[str, int] = {}
    free: dict[str, tuple[str, int]] = {}
    for source, place in pairs:
        if place:
            needed[place.file_system] = needed.get(place.file_system, 0) + source.totals.bytes
            free.setdefault(place.file_system, (str(place.seen.source.path.parent), place.free))
    for system, amount in needed.items():
        yield Space(free[system][0], amount, free[system][1])


# -- Qdrant --------------------------------------------------------------------------------------


def _collections(qdrant: QdrantRecord, target: Target) -> Iterator[RestoreStep]:
    there = {s.name: s for s in target.qdrant.collections} if target.qdrant else {}
    url = target.qdrant.url if target.qdrant else qdrant.url
    for taken in qdrant.collections:
        existing = there.get(taken.name)
        aliased = (target.qdrant.aliases or {}).get(taken.name) if target.qdrant else None
        yield RestoreStep(
            Action.UPLOAD,
            taken.path,
            f"{url}/collections/{taken.name}",
            taken.size,
            overwrites=f"the collection of that name, {existing.points:,} points" if existing and not aliased else "",
            notes=tuple(_upload_notes(taken.name, aliased, exists=existing is not None)),
        )
        for alias in taken.state.aliases:
            yield RestoreStep(Action.ALIAS, alias, taken.name, notes=("aliases are not in snapshots",))


def _upload_notes(name: str, aliased: str | None, *, exists: bool) -> Iterator[str]:
    if aliased:
        yield f"{name} is an alias of {aliased}: under a name of its own, then the alias is switched; {aliased} stays"
    elif exists:
        yield "the old one is saved and proved first, then deleted: an upload over it would keep its old metadata"


# -- what stands in the way ----------------------------------------------------------------------


def _astray(pairs: Iterable[_Pair], *, write_env: bool) -> Iterator[str]:
    """A link in a place that was none when the backup was made: what it leads to is somebody else's, and stays."""
    for source, place in pairs:
        if place is None or (source.part is Part.ENV and not write_env):
            continue
        path = str(place.seen.source.path)
        if _led_away(source, place):
            origin = source.origin or "a place that it does not name"
            yield (
                f"{place.link} is a link to {path}, and {source.stored} of the backup is from {origin}: "
                "remove the link, or restore with --to DIR"
            )
        elif place.seen.problem == ROOT:
            yield f"{path} (for {source.stored}): {ROOT}"


def _led_away(source: SourceRecord, place: Place) -> bool:
    """Not where the same link led when the backup was made: who keeps uploads on another disk may."""
    return bool(place.link) and str(place.seen.source.path) != source.origin


def _blockers(backup: Backup, target: Target, pairs: Iterable[_Pair], space: Iterable[Space]) -> Iterator[str]:
    if backup.damaged:
        yield f"the last verification found damage in {backup.id}: `{_verify(backup)}` names it"
    for one in space:
        if one.needed > one.free:
            yield f"{one.needed:,} bytes are needed at {one.path}, {one.free:,} are free"
    for source, place in pairs:
        if place and place.seen.problem not in ("", ROOT) and not _led_away(source, place):
            yield f"{place.seen.source.path} (for {source.stored}): {place.seen.problem}"
    record = backup.record
    if record.qdrant and not record.qdrant.embedded:
        yield from _qdrant_blockers(record.qdrant, target.qdrant)


def _qdrant_blockers(qdrant: QdrantRecord, target: TargetQdrant | None) -> Iterator[str]:
    if target is None:
        yield "the backup holds collections of a Qdrant server, and none is configured for the target"
        return
    if target.error:
        yield f"Qdrant at {target.url}: {target.error}"
        return
    yield from server_blockers(target, made_with=qdrant.version or target.version)
    for taken in qdrant.collections:
        yield from collection_blockers(taken, target.names)
        old = next((state for state in target.collections if state.name == taken.name), None)
        if old and taken.name not in (target.aliases or {}):
            yield from old_blockers(old)


def server_blockers(target: TargetQdrant, *, made_with: str) -> Iterator[str]:
    """Why no snapshot made with that version of Qdrant can go to this server."""
    if target.peers > 1:
        yield f"Qdrant at {target.url} is a cluster of {target.peers} nodes: each needs its own node's snapshot"
    if problem := version_problem(made_with, target.version):
        yield problem


def collection_blockers(taken: CollectionRecord, names: Iterable[str]) -> Iterator[str]:
    """Why this collection cannot go to a server where the collections `names` are."""
    for alias in sorted(set(taken.state.aliases) & set(names)):
        yield f"{alias} is an alias of {taken.name} in the backup and a collection on the target: Qdrant refuses it"
    if problem := shard_problem(taken):
        yield problem


def old_blockers(old: CollectionState) -> Iterator[str]:
    """Why what has the name already must not be replaced: it could not be put back."""
    if old.exists and old.sharding == "custom":
        yield f"Qdrant's {old.name} has custom sharding: once it was replaced, it could not be put back"


def _warnings(backup: Backup, target: Target, pairs: Iterable[_Pair]) -> Iterator[str]:
    record = backup.record
    for omission in record.omissions:
        yield f"the backup lacks {omission.part}: {omission.source} ({omission.reason})"
    for source, place in pairs:
        if place is None and source.origin:
            yield f"{source.stored}: the target's settings have no place for it; it would go to {source.origin}"
        elif place is None:
            yield f"{source.stored}: {NO_PLACE}"
    if record.layout is not target.layout:
        yield f"the backup is of a {record.layout} environment, the target is {target.layout}"
    if target.qdrant and record.qdrant:
        yield from _alias_warnings(record.qdrant.collections, target.qdrant.aliases or {})
        if warning := version_warning(record.qdrant.version, target.qdrant.version):
            yield warning
    yield from key_warnings(record, target.keys)
    if record.qdrant and record.qdrant.embedded:
        yield "an embedded Qdrant stores pickles: restore it only if you trust where the backup has been"
    if not backup.verified:
        yield f"never verified on this machine: `{_verify(backup)}`"


def _alias_warnings(collections: Iterable[CollectionRecord], aliases: Mapping[str, str]) -> Iterator[str]:
    for taken in collections:
        for alias in taken.state.aliases:
            now = aliases.get(alias)
            if now and now != taken.name:
                yield f"alias {alias} points to {now} now and would be switched to {taken.name}"


# -- afterwards ----------------------------------------------------------------------------------


def _checks(backup: Backup, target: Target) -> Iterator[Check]:
    record = backup.record
    yield Check("files", f"{record.totals.files:,}, each with the sha256 of SHA256SUMS")
    active = next((s for s in record.index_snapshots if s["active"]), None)
    if active and Part.STORAGE in record.included:
        yield Check("data/storage/CURRENT", str(active["name"]))
    if record.scope.deployment_id and Part.IDENTITY in record.included:
        yield Check("data/.deployment-id", record.scope.deployment_id)
    for taken in record.qdrant.collections if record.qdrant else ():
        yield _points(taken)
    for name, key in keys(record, target.keys).items():
        yield Check(SECRETS[name].words, "the one whose fingerprint is recorded", f"the target has {key}")


def _points(taken: CollectionRecord) -> Check:
    if taken.points_min == taken.points_max:
        return Check(f"points in {taken.name}", f"{taken.points_min:,}")
    if taken.points_max == UNCOUNTED:
        least = f"{taken.points_min:,} or more" if taken.points_min else "any number"
        return Check(f"points in {taken.name}", least, "nobody counted them when they were saved")
    return Check(
        f"points in {taken.name}",
        f"{taken.points_min:,} to {taken.points_max:,}",
        "points were written while it was saved: each count between these is right",
    )
