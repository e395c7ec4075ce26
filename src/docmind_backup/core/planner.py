"""Decide what a backup will do. No I/O."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import PurePosixPath
from typing import Any

from docmind_backup.core.consistency import ArtifactCheck, activation_notes, artifact_check
from docmind_backup.core.environment import Choices, Environment
from docmind_backup.core.model import (
    IN_FLIGHT,
    Backup,
    CollectionRecord,
    CollectionState,
    IndexSnapshot,
    Kind,
    Layout,
    Omission,
    Part,
    QdrantState,
    Reason,
    Record,
    Scope,
    Seen,
    Shrink,
    Source,
    SourceRecord,
    Totals,
)
from docmind_backup.core.sharing import EarlierCollection, EarlierSource, earlier_collection, earlier_source, usable

SHRUNK_TO = 0.4
"""A source that holds less than this share of what it held is shrunk hard (60 % of it gone)."""
SHRINK_FLOOR = {"files": 5, "bytes": 64 * 1024, "points": 5}
"""Below this a loss is everyday."""
GUARDED = frozenset({Part.CHAT, Part.UPLOADS, Part.ARTIFACTS, Part.ANALYTICS})
"""Parts whose shrinking is worth a stop; caches, logs and index generations come and go by themselves."""
ORDER = (
    Part.IDENTITY,
    Part.STORAGE,
    Part.UPLOADS,
    Part.ARTIFACTS,
    Part.QDRANT,
    Part.CHAT,
    Part.CACHE,
    Part.ANALYTICS,
    Part.LOGS,
    Part.ENV,
)
"""What belongs together (index, uploads, artifacts, collections) is captured close together."""


@dataclass(frozen=True, slots=True)
class Watch:
    """What must not move while a backup is made: equal before and after, or it is made again."""

    current: str
    deployment_id: str
    uploads: int
    """Fingerprint of names, sizes and times below data/uploads."""
    restores: tuple[tuple[str, str], ...] = ()
    """Those that have ended: name, and what came of it."""


@dataclass(frozen=True, slots=True)
class Inventory:
    """What scan saw."""

    environment: Environment
    layout: Layout
    deployment_id: str
    seen: tuple[Seen, ...]
    snapshots: tuple[IndexSnapshot, ...]
    """Index snapshots below data/storage that will be stored, active one included."""
    active: str
    """The name in CURRENT (v1 without CURRENT: the newest complete one); empty when there is none."""
    active_problem: str = ""
    qdrant: QdrantState | None = None
    """None: not asked for."""
    encrypted_artifacts: int = 0
    watch: Watch = Watch("", "", 0)
    notes: tuple[str, ...] = ()

    @property
    def active_snapshot(self) -> IndexSnapshot | None:
        return next((s for s in self.snapshots if s.name == self.active), None)


@dataclass(frozen=True, slots=True)
class FileStep:
    """Capture one source of this machine."""

    source: Source
    files: int
    bytes: int
    earlier: EarlierSource | None = None
    """Where its unchanged files are shared from; None: everything is copied."""

    @property
    def new_files(self) -> int:
        """At least so many are not in the earlier backup: the plan cannot know which of the others changed."""
        return max(0, self.files - self.earlier.source.totals.files) if self.earlier else self.files

    @property
    def new_bytes(self) -> int:
        return max(0, self.bytes - self.earlier.source.totals.bytes) if self.earlier else self.bytes


@dataclass(frozen=True, slots=True)
class CollectionStep:
    """Snapshot one collection on the server and bring it here."""

    state: CollectionState
    stored: PurePosixPath
    """The folder of its snapshot inside the backup."""
    bytes: int
    """Expected size, a guess from the last backup or the number of points."""
    earlier: EarlierCollection | None = None


Step = FileStep | CollectionStep


@dataclass(frozen=True, slots=True)
class BackupPlan:
    """Everything decided about one backup; carrying it out decides nothing more."""

    id: str
    sequence: int
    started_at: datetime
    environment: Environment
    layout: Layout
    scope: Scope
    steps: tuple[Step, ...]
    omissions: tuple[Omission, ...]
    notes: tuple[str, ...]
    shrinks: tuple[Shrink, ...]
    shrink_accepted: bool
    absent_accepted: tuple[str, ...]
    snapshots: tuple[IndexSnapshot, ...]
    active: str
    watch: Watch
    qdrant: QdrantState | None
    qdrant_required: bool
    artifact_check: ArtifactCheck | None = None
    """None: image points are not held against the artifacts."""

    @property
    def copy_bytes(self) -> int:
        return sum(step.bytes for step in self.steps if isinstance(step, FileStep))

    @property
    def download_bytes(self) -> int:
        return sum(step.bytes for step in self.steps if isinstance(step, CollectionStep))

    @property
    def bytes_needed(self) -> int:
        """Space on the destination: what is new, 2 % and a megabyte for the records, more for many files.

        What an earlier backup holds counts as shared; a run that finds it changed looks at the space as it goes
        (docs/adr/0011-sharing.md).
        """
        steps = [step for step in self.steps if isinstance(step, FileStep)]
        files, new = sum(step.files for step in steps), sum(step.new_bytes for step in steps)
        return int((new + self.download_bytes) * 1.02) + (1 << 20) + files * 600

    @property
    def files_needed(self) -> int:
        return 8 + sum(step.new_files if isinstance(step, FileStep) else 2 for step in self.steps)


def plan_backup(
    inventory: Inventory,
    choices: Choices,
    history: Sequence[Backup],
    *,
    backup_id: str,
    sequence: int,
    now: datetime,
) -> BackupPlan:
    """What the next backup will hold and lack.

    `history`: the catalog's backups, newest first; those of the same data directory tell what is missing now.
    """
    parts = choices.parts(inventory.layout, analytics_enabled=inventory.environment.analytics_enabled)
    earlier = [b.record for b in history if b.record.scope.data_dir == str(inventory.environment.data_dir)]
    good = [b.record for b in history if b.counts and b.record in earlier]
    shared = usable(history, str(inventory.environment.data_dir), now) if choices.share else ()
    seen = [s for s in inventory.seen if s.source.part in parts]
    states = _states(inventory, choices, parts)
    found = [
        *_file_findings(seen, earlier),
        *_collection_findings(inventory, choices, parts, earlier),
    ]
    accepted = [o for o in found if choices.accept_shrink and o.reason in (Reason.GONE, Reason.EMPTIED)]
    return BackupPlan(
        id=backup_id,
        sequence=sequence,
        started_at=now,
        environment=inventory.environment,
        layout=inventory.layout,
        scope=_scope(inventory, choices, parts),
        steps=tuple(_steps(seen, states, good, shared)),
        omissions=tuple(o for o in (*found, *_active_findings(inventory, parts)) if o not in accepted),
        notes=tuple(_notes(inventory, choices, parts, seen, found)),
        shrinks=tuple(_shrinks(seen, states, good)),
        shrink_accepted=choices.accept_shrink,
        absent_accepted=tuple(_accepted_key(o, inventory.qdrant) for o in accepted),
        snapshots=inventory.snapshots if Part.STORAGE in parts else (),
        active=inventory.active,
        watch=inventory.watch,
        qdrant=inventory.qdrant if Part.QDRANT in parts else None,
        qdrant_required=choices.qdrant == "required",
        artifact_check=artifact_check(inventory.active_snapshot, states, parts, earlier, accept=choices.accept_shrink),
    )


def collections_known(history: Sequence[Backup], data_dir: str) -> dict[str, str]:
    """Role to the name of the collection in the newest backup that holds one, unless its absence was accepted since."""
    known: dict[str, str] = {}
    for role in ("text", "image"):
        for record in (b.record for b in history if b.record.scope.data_dir == data_dir):
            named = [taken.name for taken in _taken(record) if taken.role == role]
            if named:
                known[role] = named[0]
            if named or role in record.absent_accepted:
                break
    return known


def _taken(record: Record) -> tuple[CollectionRecord, ...]:
    return record.qdrant.collections if record.qdrant and not record.qdrant.embedded else ()


def _scope(inventory: Inventory, choices: Choices, parts: frozenset[Part]) -> Scope:
    collections: frozenset[str] = frozenset()
    if Part.QDRANT in parts:
        named = {f"name:{name}" for name in choices.collections}
        collections = frozenset(named or {"role:text", "role:image"})
    return Scope(str(inventory.environment.data_dir), inventory.deployment_id, parts, collections)


# -- steps ---------------------------------------------------------------------------------------


def _states(inventory: Inventory, choices: Choices, parts: frozenset[Part]) -> tuple[CollectionState, ...]:
    """The collections to take from a server; none where Qdrant is off, silent, or a folder."""
    qdrant = inventory.qdrant
    if Part.QDRANT not in parts or qdrant is None or qdrant.error or qdrant.embedded:
        return ()
    if qdrant.unclaimed and choices.accept_shrink:
        return ()
    return tuple(state for state in qdrant.collections if state.exists)


def _steps(
    seen: Sequence[Seen], states: Sequence[CollectionState], good: Sequence[Record], shared: Sequence[Backup]
) -> Iterator[Step]:
    for part in ORDER:
        for one in seen:
            if one.source.part is part and one.exists:
                earlier = earlier_source(shared, str(one.source.stored), one.source.kind)
                yield FileStep(one.source, one.files, one.bytes, earlier)
        if part is Part.QDRANT:
            for state in states:
                stored = PurePosixPath("qdrant", folder_name(state.name))
                yield CollectionStep(state, stored, _guess(state, good), earlier_collection(shared, state.name))


_PLAIN = re.compile(r"[^/%\0-\x1f\ud800-\udfff]{1,200}\Z")


def folder_name(collection: str) -> str:
    """A folder for a collection: its own name where that is a plain file name, else a percent-escaped one.

    Names come from the server: `..`, control characters and more than 200 bytes are possible (seen on Qdrant 1.18).
    Different names get different folders: only escaped ones hold a `%`, only shortened ones `%%`.
    """
    raw = collection.encode(errors="surrogatepass")
    if _PLAIN.match(collection) and collection not in (".", "..") and len(raw) <= 200:
        return collection
    escaped = "".join(chr(b) if chr(b).isalnum() and b < 128 else f"%{b:02x}" for b in raw)
    if len(escaped) <= 200:
        return escaped or "%"
    return f"{escaped[:120]}%%{hashlib.sha256(raw).hexdigest()[:16]}"


def _guess(state: CollectionState, good: Sequence[Record]) -> int:
    """Bytes of the snapshot to come: as last time, scaled by points; else from the vectors' dimensions."""
    for record in good:
        for taken in record.qdrant.collections if record.qdrant else ():
            if (taken.role or taken.name) == (state.role or state.name) and taken.points_max:
                return int(taken.size * max(1.0, state.points / taken.points_max) * 1.1)
    return 256 * 1024 + state.points * (2048 + 8 * sum(_dimensions(state.vectors)))


def _dimensions(vectors: Mapping[str, Any]) -> Iterator[int]:
    """Sizes of one unnamed or several named dense vectors."""
    for config in [vectors] if "size" in vectors else vectors.values():
        if isinstance(config, Mapping) and isinstance(config.get("size"), int):
            yield config["size"]


# -- what is missing, and whether that matters ---------------------------------------------------


def _file_findings(seen: Sequence[Seen], earlier: Sequence[Record]) -> Iterator[Omission]:
    for one in seen:
        source = one.source
        if one.problem:
            yield Omission(source.part, source.name, Reason.UNREADABLE, one.problem)
        elif not one.exists and source.kind is Kind.EMBEDDED and not _held_before(source, earlier):
            yield Omission(source.part, source.name, Reason.MISSING, "there is no such folder")
        elif one.empty and (held := _held_before(source, earlier)):
            reason = Reason.EMPTIED if one.exists else Reason.GONE
            yield Omission(source.part, source.name, reason, f"the last backup that holds it has {_amount(held)}")


def _held_before(source: Source, earlier: Sequence[Record]) -> Totals | None:
    """What the newest backup that holds this source has of it; None when none, or its absence was accepted since."""
    if str(source.stored) in IN_FLIGHT:
        return None
    for record in earlier:
        if source.name in record.absent_accepted:
            return None
        for held in record.sources:
            if _same_source(held, source) and (held.totals.bytes or held.totals.files > 1):
                return held.totals
    return None


def _same_source(held: SourceRecord, source: Source) -> bool:
    """By its place in a backup; a database by what it is: its file's name is only a setting."""
    database = source.kind in (Kind.SQLITE, Kind.DUCKDB)
    return held.stored == str(source.stored) or (database and (held.part, held.kind) == (source.part, source.kind))


def _amount(totals: Totals) -> str:
    return f"{totals.files:,} file{'' if totals.files == 1 else 's'}, {totals.bytes:,} bytes"


def _collection_findings(
    inventory: Inventory,
    choices: Choices,
    parts: frozenset[Part],
    earlier: Sequence[Record],
) -> Iterator[Omission]:
    qdrant = inventory.qdrant
    if Part.QDRANT not in parts or qdrant is None:
        return
    if qdrant.error:
        detail = f"{qdrant.error}; {qdrant.hint}" if qdrant.hint else qdrant.error
        yield Omission(Part.QDRANT, qdrant.url, qdrant.reason or Reason.UNREACHABLE, detail)
        return
    named = {state.role or state.name: state for state in qdrant.collections}
    for key, state in named.items():
        held = _points_before(key, earlier)
        if qdrant.unclaimed:
            yield _unclaimed(state, held)
        elif state.problem:
            reason = Reason.REFUSED if state.refused else Reason.UNREACHABLE
            yield Omission(Part.QDRANT, state.name, reason, state.problem)
        elif not state.exists and held:
            yield Omission(Part.QDRANT, state.name, Reason.GONE, f"the last backup has {held:,} points of it")
        elif not state.exists and _required(state, inventory, choices):
            yield Omission(Part.QDRANT, state.name, Reason.MISSING, "Qdrant has no collection of that name")
        elif state.exists and not state.points and held:
            yield Omission(Part.QDRANT, state.name, Reason.EMPTIED, f"the last backup has {held:,} points of it")
    if not choices.collections:
        for role in ("text", "image"):
            held = _points_before(role, earlier)
            if role not in named and held:
                detail = f"no index snapshot names it now; the last backup has {held:,} points of it"
                yield Omission(Part.QDRANT, f"{role} collection", Reason.GONE, detail)


def _unclaimed(state: CollectionState, held: int) -> Omission:
    """The application no longer knows it, whether it is there or not."""
    there = f"{state.name}, which has it in the last backup, is still on the server and saved"
    lost = f"the last backup has {held:,} points of it"
    detail = f"no index snapshot names it now; {there if state.exists else lost}"
    return Omission(Part.QDRANT, f"{state.role} collection", Reason.GONE, detail)


def _required(state: CollectionState, inventory: Inventory, choices: Choices) -> bool:
    """Asked for by name (or alias), or named by CURRENT: such a collection is never 'never made'."""
    active = inventory.active_snapshot
    return bool(choices.collections) or (active is not None and state.role in active.collections)


def _points_before(key: str, earlier: Sequence[Record]) -> int:
    """Points of the collection of this role (or name) in the newest backup that holds it; 0 when none does."""
    for record in earlier:
        for taken in record.qdrant.collections if record.qdrant else ():
            if key in (taken.role, taken.name):
                return taken.points_max
        if key in record.absent_accepted:
            return 0
    return 0


def _accepted_key(omission: Omission, qdrant: QdrantState | None) -> str:
    """What stays the same from run to run: a source's name, a collection's role where it has one."""
    if omission.part is not Part.QDRANT or qdrant is None:
        return omission.source
    roles = {state.name: state.role or state.name for state in qdrant.collections}
    return roles.get(omission.source, omission.source.removesuffix(" collection"))


def _active_findings(inventory: Inventory, parts: frozenset[Part]) -> Iterator[Omission]:
    if Part.STORAGE in parts and inventory.active_problem:
        yield Omission(Part.STORAGE, "data/storage/CURRENT", Reason.DAMAGED, inventory.active_problem)


def _shrinks(seen: Sequence[Seen], states: Sequence[CollectionState], good: Sequence[Record]) -> Iterator[Shrink]:
    for one in seen:
        if one.source.part in GUARDED and not one.empty and str(one.source.stored) not in IN_FLIGHT:
            before = next((s.totals for r in good for s in r.sources if s.stored == str(one.source.stored)), None)
            if before:
                yield from _shrink(one.source.part, "files", before.files, one.files)
                yield from _shrink(one.source.part, "bytes", before.bytes, one.bytes)
    for state in states:
        if state.points:
            yield from _shrink(Part.QDRANT, "points", _points_before(state.role or state.name, good), state.points)


def _shrink(part: Part, what: str, before: int, now: int) -> Iterator[Shrink]:
    if before >= SHRINK_FLOOR[what] and now < before * SHRUNK_TO:
        yield Shrink(part, what, before, now)


# -- notes ---------------------------------------------------------------------------------------


def _notes(
    inventory: Inventory,
    choices: Choices,
    parts: frozenset[Part],
    seen: Iterable[Seen],
    found: Iterable[Omission],
) -> Iterator[str]:
    yield from inventory.environment.notes
    yield from inventory.notes
    gone = {omission.source for omission in found}
    for one in seen:
        if not one.exists and one.source.name not in gone:
            yield f"{one.source.name} does not exist (never made, as far as any backup here knows)"
    if inventory.encrypted_artifacts and Part.ENV not in parts and Part.ARTIFACTS in parts:
        yield (
            f"{inventory.encrypted_artifacts:,} artifacts are encrypted: without DOCMIND_IMG_AES_KEY_BASE64 they "
            "cannot be read after a restore. Keep the key elsewhere, or give --include-env"
        )
    if Part.QDRANT in parts:
        yield from inventory.qdrant.notes if inventory.qdrant else ()
        if inventory.qdrant:
            yield from activation_notes(
                inventory.active_snapshot, inventory.qdrant.collections, inventory.deployment_id
            )
        unclaimed = inventory.qdrant is not None and inventory.qdrant.unclaimed
        if not inventory.active and inventory.layout is Layout.V2 and not choices.collections and not unclaimed:
            yield "no index snapshot is active: no collection belongs to it; --collection NAME saves one by name"
