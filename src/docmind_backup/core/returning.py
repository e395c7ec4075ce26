"""Decide how a collection comes back to a server, and tell whether what came is what was recorded. No I/O."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from docmind_backup.core.journal import Checked
from docmind_backup.core.model import UNCOUNTED, CollectionRecord, CollectionState
from docmind_backup.core.qdrant_rest import EMPTY
from docmind_backup.core.restore import TargetQdrant, collection_blockers, server_blockers

MAX_NAME = 255
"""Characters of a collection's name on a server (Qdrant 1.18)."""
_NOT_IN_NAMES = re.compile(r'[<>:"/\\|?*\0\x1f\ud800-\udfff]')
"""What Qdrant 1.18 makes no collection with; an alias, and a folder whose name is a backup's id, may have it."""


class Way(StrEnum):
    """How it gets under the name that the application uses."""

    NEW = "new"
    """Nothing has that name: it is uploaded there."""
    ALIAS = "alias"
    """The name is an alias: it comes under a name of its own, and the alias is switched to it."""
    EXACT = "exact"
    """A collection has that name. An upload over it would keep its metadata: it leaves first, saved and proved."""


class Stage(StrEnum):
    """How far it got; what was begun in a stage stands in the course's other fields."""

    PREPARING = "preparing"
    PREPARED = "prepared"
    APPLIED = "applied"
    GOING_BACK = "going back"
    BACK = "back"
    DISCARDED = "discarded"


@dataclass(frozen=True, slots=True)
class Saved:
    """The old collection's snapshot on this machine."""

    path: str
    """Below the folder of what is kept."""
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Course:
    """One collection's way back, as it is written down before each call that changes the server."""

    way: Way
    token: str
    """Random, in every name that is ours."""
    target: str
    """The collection that will hold the points."""
    trial: str
    """The collection that `prepare` makes."""
    points: tuple[int, int]
    """What the snapshot holds at least and at most."""
    aliases: Mapping[str, str | None]
    """Those that will lead to the target, and to which collection each led before (None: to none)."""
    old: CollectionState | None = None
    """EXACT: the collection that has to leave."""
    saved: Saved | None = None
    stage: Stage = Stage.PREPARING
    was_applied: bool = False
    tried: bool = False
    """The trial may exist, or its upload's file."""
    removed: bool = False
    """The old collection may be gone."""
    placed: bool = False
    """The target may be ours: nothing had that name when this was written."""
    switched: bool = False
    """Aliases may lead to the target."""
    put_back: bool = False
    """The target may be the saved one again: nothing had that name when this was written."""
    unanswered: tuple[str, ...] = ()
    """Files of uploads to the target whose answers have not come: the server may make of them what they hold, yet."""
    clearing: int | None = None
    """The target was found to be ours and is being removed: the points it had."""

    @property
    def counted(self) -> bool:
        """Somebody counted what it holds: without that nobody could tell ours from another collection."""
        return self.points[1] != UNCOUNTED

    @property
    def file(self) -> str:
        """What the upload is called among the server's snapshots."""
        return f"docmind-backup-{self.token}.snapshot"

    @property
    def saved_file(self) -> str:
        return f"docmind-backup-{self.token}-old.snapshot"

    @property
    def files(self) -> tuple[str, str]:
        return self.file, self.saved_file

    def as_json(self) -> dict[str, object]:
        return asdict(self)


def course(data: Mapping[str, Any]) -> Course:
    """As `as_json` gave it, through JSON. Raises LookupError, TypeError or ValueError for anything else."""
    known = dict(data)
    saved, (low, high) = known["saved"], known["points"]
    return Course(
        **known
        | {
            "way": Way(known["way"]),
            "stage": Stage(known["stage"]),
            "points": (int(low), int(high)),
            "old": _state(known["old"]) if known["old"] else None,
            "saved": Saved(**saved) if saved else None,
            "unanswered": tuple(map(str, known.get("unanswered", ()))),
        }
    )


def _state(data: Mapping[str, Any]) -> CollectionState:
    """Placement tells where a collection lies now: nothing that comes back depends on it."""
    return CollectionState(**{**data, "aliases": tuple(data["aliases"]), "placement": None})


# -- deciding ------------------------------------------------------------------------------------


def refusals(taken: CollectionRecord, target: TargetQdrant, *, made_with: str | None) -> tuple[str, ...]:
    """Why it must not go there; `made_with` is None where nobody wrote the version down."""
    version = target.version if made_with is None else made_with
    return (*server_blockers(target, made_with=version), *collection_blockers(taken, target.names))


def decide(
    taken: CollectionRecord,
    wanted: str,
    target: TargetQdrant,
    old: CollectionState,
    *,
    points: tuple[int, int],
    token: str,
    backup_id: str,
) -> Course:
    """The way for `taken` to the name `wanted`. `old` is what is there under it (or `exists=False`)."""
    now = target.aliases or {}
    scratch = f"docmind-backup-scratch-{_safe(backup_id)}-{token}"
    if wanted in now:
        fresh = f"{_safe(wanted)}-restored-{token}"
        way, place, trial = Way.ALIAS, fresh, fresh
    else:
        way, place, trial = (Way.EXACT if old.exists else Way.NEW), wanted, scratch
    leading = {*taken.state.aliases} | ({wanted} if way is Way.ALIAS else set())
    if way is Way.EXACT:
        leading |= {*old.aliases}
    leading -= {place}
    return Course(
        way,
        token,
        place,
        trial,
        points,
        aliases={alias: now.get(alias) for alias in sorted(leading)},
        old=old if way is Way.EXACT else None,
    )


def _safe(name: str) -> str:
    """As the part of a name that the server takes, with room for what makes it ours."""
    return _NOT_IN_NAMES.sub("_", name)[: MAX_NAME - 40]


# -- comparing -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Expected:
    """What a collection has to be after an upload."""

    points: tuple[int, int]
    state: CollectionState = field(default_factory=lambda: CollectionState("", ""))
    """As it was described; a backup that did not record its `config` is held to the count alone."""


def differences(expected: Expected, found: CollectionState) -> tuple[str, ...]:
    """What is not as expected, each as part of a sentence; empty when it is the collection that was recorded."""
    return tuple(_differences(expected, found))


def _differences(expected: Expected, found: CollectionState) -> Iterator[str]:
    low, high = expected.points
    if not found.exists:
        yield "it is not there"
        return
    if not low <= found.points <= high:
        most = " or more" if high == UNCOUNTED else f" to {high:,}" if high != low else ""
        yield f"{found.points:,} points instead of {low:,}{most}"
    if expected.state.config:
        yield from (f"other {what}" for what in _unlike(expected.state, found))


def checks(course: Course, wanted: str, expected: Expected, found: CollectionState) -> Iterator[Checked]:
    """What there is to say of a collection without `differences`."""
    alike = "vectors, payload indexes and metadata" if expected.state.config else "nothing else is recorded of it"
    words = f"{found.points:,} points, counted; {alike}{' as recorded' if expected.state.config else ''}"
    yield Checked(f"collection {wanted}", words)
    for alias in course.aliases:
        yield Checked(f"alias {alias}", f"leads to {course.target}")


def same_kind(one: CollectionState, other: CollectionState) -> bool:
    """Described alike, whatever they hold."""
    return one.exists and other.exists and not any(_unlike(one, other))


def is_empty_one(found: CollectionState) -> bool:
    """As `create_collection` makes it."""
    return found.exists and not found.points and found.vectors == EMPTY["vectors"]


def _unlike(one: CollectionState, other: CollectionState) -> Iterator[str]:
    yield from (
        what
        for what, here, there in (
            ("vectors", one.vectors, other.vectors),
            ("sparse vectors", one.sparse_vectors, other.sparse_vectors),
            ("metadata", one.metadata, other.metadata),
            ("payload indexes", indexes(one), indexes(other)),
            ("number of shards", one.shards, other.shards),
        )
        if here != there
    )


def indexes(state: CollectionState) -> dict[str, Any]:
    """Its payload schema, without the number of points that have each field."""
    return {
        name: {key: value for key, value in schema.items() if key != "points"} if isinstance(schema, dict) else schema
        for name, schema in state.payload_schema.items()
    }


# -- aliases -------------------------------------------------------------------------------------


def aliases_to_set(course: Course) -> dict[str, str | None]:
    return dict.fromkeys(course.aliases, course.target)


def aliases_moved(course: Course, now: Mapping[str, str]) -> tuple[str, ...]:
    """Those that lead elsewhere than when the way was decided. The old collection's went with it."""
    return tuple(
        alias
        for alias, before in course.aliases.items()
        if now.get(alias) not in (before, course.target) and not (course.removed and alias not in now)
    )


def aliases_wrong(course: Course, now: Mapping[str, str]) -> Iterator[str]:
    """Those that do not lead to the target, once they should."""
    for alias in course.aliases:
        if now.get(alias) != course.target:
            yield f"alias {alias} leads to {now.get(alias, 'nothing')} instead of {course.target}"


def aliases_back(course: Course, now: Mapping[str, str], names: tuple[str, ...]) -> dict[str, str | None]:
    """Each as it was, unless somebody else moved it meanwhile or the collection it led to is not there (yet)."""
    return {
        alias: before
        for alias, before in course.aliases.items()
        if now.get(alias) in (course.target, None) and (before is None or before in names)
    }
