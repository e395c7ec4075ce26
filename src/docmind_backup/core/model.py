"""The nouns: what a source, a plan, a stored file, a backup and an event are. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import Any

from docmind_backup.core.parts import Part as Part

FORMAT = 1
"""Number of the on-disk format this code writes; a higher one is listed but not trusted (docs/adr/0001)."""


DOCMIND_LABEL: Mapping[Part, str] = {
    Part.CACHE: "cache_db",
    Part.STORAGE: "snapshots",
    Part.IDENTITY: "deployment_identity",
    Part.ARTIFACTS: "artifacts",
    Part.UPLOADS: "uploads",
    Part.QDRANT: "qdrant_snapshots",
    Part.CHAT: "chat_db",
    Part.ANALYTICS: "analytics",
    Part.LOGS: "logs",
    Part.ENV: "env",
}
"""DocMind's word for each part, in its manifest's `included`."""


IN_FLIGHT = ("data/.pending-uploads", "data/.upload-transactions", "data/.quarantine")
"""Where uploads on their way are stored: users' documents, but rightly empty most of the time."""


class Kind(StrEnum):
    """How a source on this machine is captured."""

    FILE = "file"
    TREE = "tree"
    SQLITE = "sqlite"
    DUCKDB = "duckdb"
    EMBEDDED = "embedded"
    """A `QdrantClient(path=...)` folder."""


class Layout(StrEnum):
    """The two generations of DocMind's data directory."""

    V1 = "v1"
    V2 = "v2"


class Reason(StrEnum):
    """Why something that was asked for is not (or not soundly) in a backup."""

    GONE = "gone"
    """There last time, not there now."""
    EMPTIED = "emptied"
    """Not empty last time, empty now."""
    MISSING = "missing"
    """Required and not found, never seen before either."""
    DAMAGED = "damaged"
    """Captured as it is; it was already broken in the source."""
    BUSY = "busy"
    """Another process held it locked."""
    CHANGING = "changing"
    """It changed each time it was read."""
    UNREADABLE = "unreadable"
    """The operating system refused to read it."""
    UNREACHABLE = "unreachable"
    REFUSED = "refused"
    DISTRIBUTED = "distributed"
    """Qdrant runs as a cluster: one node's snapshot is not the collection."""
    MISMATCH = "mismatch"
    """What arrived is not what the server said it sent."""
    MOVED = "moved"
    """Index snapshot, deployment id, uploads, artifacts or a collection changed during the run, twice."""


@dataclass(frozen=True, slots=True)
class Omission:
    """One thing that was asked for and is not soundly in the backup."""

    part: Part
    source: str
    """What it is called: a path relative to the project, or a collection."""
    reason: Reason
    detail: str = ""
    """One sentence for people."""
    rebuildable: bool = False
    """The application makes it again by itself ("recoverable, cold cache")."""


# -- what is there -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Source:
    """A thing to keep that lies on this machine."""

    part: Part
    kind: Kind
    name: str
    """As people know it, relative to the project where it lies there."""
    path: Path
    """Where it is, links in the root resolved."""
    stored: PurePosixPath
    """Where it goes inside a backup."""
    skip: tuple[str, ...] = ()
    """Top-level names inside a tree that are left out (locks, workspaces), as fnmatch patterns."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A source as scan found it."""

    source: Source
    files: int
    """Regular files; 0 when nothing is there."""
    bytes: int
    exists: bool = True
    problem: str = ""
    """What the operating system said when it could not be looked at."""
    fingerprint: int = 0
    """Of a tree: another one, within a process, when a file in it was added, removed, replaced or written to."""
    encrypted: int = 0
    """Of a tree: files called `*.enc`."""

    @property
    def empty(self) -> bool:
        return not self.exists or (self.files == 0 if self.source.kind is Kind.TREE else self.bytes == 0)


@dataclass(frozen=True, slots=True)
class IndexSnapshot:
    """One folder below `data/storage`, as its manifest describes it."""

    name: str
    schema_version: str = ""
    app_version: str = ""
    collections: Mapping[str, str] = field(default_factory=dict[str, str])
    """Role (text, image) to the exact collection name."""
    collection_metadata: Mapping[str, Mapping[str, Any]] = field(default_factory=dict[str, Mapping[str, Any]])
    corpus_hash: str = ""
    graph_store_type: str = ""
    problem: str = ""
    """Why it cannot be relied on; empty when its own manifest could be read."""


@dataclass(frozen=True, slots=True)
class Placement:
    """On which nodes the shards of a collection lie, seen from the one that was asked."""

    local: tuple[int, ...]
    """Their numbers; a snapshot of this node holds the points of these."""
    remote: tuple[int, ...] = ()
    """Those of which another node has a copy."""
    keys: tuple[str, ...] = ()
    """Shard keys, of custom sharding; sorted."""

    @property
    def elsewhere(self) -> tuple[int, ...]:
        """Shards that only other nodes have: no snapshot of this node brings their points."""
        return tuple(sorted(set(self.remote) - set(self.local)))


@dataclass(frozen=True, slots=True)
class CollectionState:
    """A collection as the server (or the embedded folder) describes it."""

    name: str
    role: str
    """`text`, `image`, or `` for one that was asked for by name."""
    exists: bool = True
    points: int = 0
    """Exact count at the time of the scan."""
    vectors: Mapping[str, Any] = field(default_factory=dict[str, Any])
    sparse_vectors: Mapping[str, Any] = field(default_factory=dict[str, Any])
    payload_schema: Mapping[str, Any] = field(default_factory=dict[str, Any])
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])
    aliases: tuple[str, ...] = ()
    shards: int = 1
    sharding: str = "auto"
    config: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """The whole config as the server gave it, for a restore that has to make the collection itself."""
    placement: Placement | None = None
    """None where nobody said: an embedded storage, a backup of an earlier version."""
    problem: str = ""
    """Why it could not be described: nothing else is known then, and `exists` is False."""
    refused: bool = False
    """The problem is the key."""


@dataclass(frozen=True, slots=True)
class QdrantState:
    """What Qdrant said of itself during the scan."""

    url: str
    """Without credentials; `path:<folder>` for an embedded storage."""
    version: str = ""
    peers: int = 1
    collections: tuple[CollectionState, ...] = ()
    embedded: bool = False
    error: str = ""
    """Why it could not be asked; empty when it answered."""
    reason: Reason | None = None
    hint: str = ""
    notes: tuple[str, ...] = ()
    unclaimed: bool = False
    """No index snapshot is active that would name the collections: they are those of the last backup."""


# -- what a backup says of itself ----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Scope:
    """What a backup was asked to hold, and of which environment: the unit of retention."""

    data_dir: str
    deployment_id: str
    """Empty where there is none (v1)."""
    parts: frozenset[Part]
    collections: frozenset[str]
    """`role:text`, `role:image`, or `name:<collection>` when asked for by name."""

    def covers(self, other: Scope) -> bool:
        """Everything `other` asked for was asked for here too."""
        same = (self.data_dir, self.deployment_id) == (other.data_dir, other.deployment_id)
        return same and self.parts >= other.parts and self.collections >= other.collections


@dataclass(frozen=True, slots=True)
class Origin:
    """The source file as it was read: what tells whether it changed since."""

    dev: int
    ino: int
    size: int
    mtime_ns: int
    ctime_ns: int
    sidecars: Mapping[str, tuple[int, int, int, int] | None] = field(
        default_factory=dict[str, tuple[int, int, int, int] | None]
    )
    """Of a database: suffix to (ino, size, mtime_ns, ctime_ns), None where absent."""


@dataclass(frozen=True, slots=True)
class Stored:
    """The stored file's own stat: what tells whether it is still the one that was hashed."""

    ino: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class FileEntry:
    """A stored regular file: one line of the inventory."""

    path: str
    """POSIX, relative to the backup; bytes that are not UTF-8 as surrogate escapes."""
    size: int
    sha256: str
    mtime_ns: int
    mode: int
    """Permission bits in the source (the stored file itself is 0400)."""
    uid: int = 0
    gid: int = 0
    origin: Origin | None = None
    """None for files this tool made (a collection snapshot)."""
    stored: Stored | None = None
    shared: bool = False
    """An earlier backup holds the same bytes on the disk; not written: the totals say how much is a backup's own."""


@dataclass(frozen=True, slots=True)
class LinkEntry:
    """A stored symbolic link, never followed."""

    path: str
    target: str
    mtime_ns: int = 0
    uid: int = 0
    gid: int = 0


@dataclass(frozen=True, slots=True)
class DirEntry:
    """A stored folder (itself 0700); `mode` and `mtime_ns` are the source's."""

    path: str
    mtime_ns: int
    mode: int
    uid: int = 0
    gid: int = 0


Entry = FileEntry | LinkEntry | DirEntry


@dataclass(frozen=True, slots=True)
class Totals:
    files: int = 0
    bytes: int = 0
    links: int = 0
    directories: int = 0
    own_bytes: int = 0
    """Bytes that were copied for this backup (the rest is shared with an earlier one)."""

    def __add__(self, other: Totals) -> Totals:
        return Totals(
            self.files + other.files,
            self.bytes + other.bytes,
            self.links + other.links,
            self.directories + other.directories,
            self.own_bytes + other.own_bytes,
        )


@dataclass(frozen=True, slots=True)
class SourceRecord:
    """One captured source of files: what of it is in the backup, and where it came from."""

    part: Part
    stored: str
    """Its root inside the backup."""
    origin: str
    """Where it was on the host; a restore puts it where the target's own settings say."""
    kind: Kind
    totals: Totals
    lines: tuple[int, int] = (0, 0)
    """Where its entries stand in inventory.jsonl: offset and length in bytes."""


UNCOUNTED = 2**63 - 1
"""As the most points of a collection: nobody counted them."""


@dataclass(frozen=True, slots=True)
class CollectionRecord:
    """One collection as it was captured."""

    name: str
    role: str
    taken_at: str
    """UTC, ISO 8601."""
    points_min: int
    points_max: int
    """Exact counts before and after, the smaller first; equal: the snapshot's count is exact."""
    path: str
    """The stored file: a server snapshot, or an embedded collection's `storage.sqlite`."""
    size: int
    sha256: str
    snapshot_name: str = ""
    """The server's name for it; empty for an embedded collection."""
    server_checksum: str = ""
    """As the server said, empty when it gave none."""
    state: CollectionState = field(default_factory=lambda: CollectionState("", ""))


@dataclass(frozen=True, slots=True)
class QdrantRecord:
    url: str
    version: str
    embedded: bool
    collections: tuple[CollectionRecord, ...] = ()


@dataclass(frozen=True, slots=True)
class ArtifactProof:
    """The files that image points name, held against the artifacts of a backup (docs/adr/0018)."""

    index_snapshot: str
    """The active one."""
    collection: str
    points: int
    references: int
    """Names of files in the payloads of all points."""
    broken: int
    """Those of which the backup holds no file."""
    examples: tuple[str, ...]
    """The first broken ones, in words."""
    names: str
    """sha256 of the broken names; empty when none is broken. Another one: not what was accepted."""
    artifacts: str
    """sha256 of the list of captured artifacts, content and all: an added, removed or altered one changes it."""
    proved_by: str
    """Id of the backup whose run asked for all points."""
    accepted: bool = False
    """The broken ones are known and meant to be (`--accept-shrink`)."""


@dataclass(frozen=True, slots=True)
class Shrink:
    """A part that lost most of what it held since the last good backup (design.md, C11)."""

    part: Part
    what: str
    """`files`, `bytes` or `points`."""
    before: int
    now: int


@dataclass(frozen=True, slots=True)
class Record:
    """What a backup says of itself: all that list, prune and completion ever read (docs/manifest.md)."""

    id: str
    sequence: int
    started_at: datetime
    finished_at: datetime
    host: str
    tool_version: str
    scope: Scope
    layout: Layout
    project: str
    included: tuple[Part, ...]
    """The parts that really are in the backup."""
    totals: Totals
    sources: tuple[SourceRecord, ...]
    omissions: tuple[Omission, ...] = ()
    notes: tuple[str, ...] = ()
    shrinks: tuple[Shrink, ...] = ()
    shrink_accepted: bool = False
    absent_accepted: tuple[str, ...] = ()
    """Names of sources whose absence or emptiness was accepted by `--accept-shrink`."""
    ineligible: tuple[str, ...] = ()
    """Why DocMind's own checker would not take it for a recovery point; empty when it does."""
    index_snapshots: tuple[Mapping[str, Any], ...] = ()
    """`{name, active, collections, collections_captured}` for each one stored."""
    qdrant: QdrantRecord | None = None
    artifact_proof: ArtifactProof | None = None
    """None when points or artifacts were not asked for, or could not be held against each other."""
    key_fingerprints: Mapping[str, str] = field(default_factory=dict[str, str])
    """Salted fingerprints of the image key and the HMAC secret, and the key id."""
    digests: Mapping[str, str] = field(default_factory=dict[str, str])
    """sha256 of inventory.jsonl, manifest.json, SHA256SUMS and README.md."""
    format: int = FORMAT
    requires: tuple[str, ...] = ()
    """Names of features a reader has to know to use this backup; an unknown one is exit 16."""

    @property
    def complete(self) -> bool:
        return not self.omissions

    @property
    def lacks_only_rebuildable(self) -> bool:
        return all(omission.rebuildable for omission in self.omissions)


@dataclass(frozen=True, slots=True)
class Round:
    """A verification in parts that is not through yet."""

    started_at: datetime
    """When its first part began: the date of its oldest byte."""
    files: int
    """Files of the inventory, from its first line on, whose content was found to be right."""
    bytes: int
    """In these."""
    fingerprint: str
    """What was read is known only as long as the stored files look the same: `Fingerprint`."""


@dataclass(frozen=True, slots=True)
class Deep:
    """The last time when all that an engine can open was opened and found to be as recorded."""

    proved_at: datetime
    """When that verification began."""
    collections: Mapping[str, tuple[int, str]] = field(default_factory=dict[str, tuple[int, str]])
    """Name to exact points, and the digest of ids and payloads (empty for an embedded collection)."""


@dataclass(frozen=True, slots=True)
class Seal:
    """The remembered outcome of the last verification."""

    record_sha256: str
    verified_at: datetime | None
    """When the last one that read everything began, or found damage; None: there was none, only a round under way."""
    level: str
    """`deep` (contents read, and opened by their engines), `full` (contents read), `part` (some of them) or `quick`
    (sizes only)."""
    intact: bool
    fingerprint: str = ""
    """Of the stored files as they were read; empty in seals of earlier versions."""
    round: Round | None = None
    deep: Deep | None = None
    """Stays when the contents alone are read again: they are what the engines saw."""
    rehearsed_at: datetime | None = None
    """When the last verification began in which all of it was restored into scratch, and was right. Stays likewise."""
    unread_at: datetime | None = None
    """When the last verification began that the disk refused a file to; None once all of it could be read."""


@dataclass(frozen=True, slots=True)
class Backup:
    """A finished backup in a catalog."""

    directory: Path
    record: Record
    seal: Seal | None = None
    held: str | None = None
    """Why it is held; None when it is not."""

    @property
    def id(self) -> str:
        return self.record.id

    @property
    def damaged(self) -> bool:
        return self.seal is not None and not self.seal.intact

    @property
    def doubted(self) -> bool:
        """The disk refused a file of it when it was last verified: whether it is whole, nobody knows."""
        return self.seal is not None and self.seal.unread_at is not None

    @property
    def verified(self) -> bool:
        """Whether all of it was read once, or damage found."""
        return self.seal is not None and self.seal.verified_at is not None

    @property
    def counts(self) -> bool:
        """Good enough to stand for its scope: design.md, invariant 4."""
        record = self.record
        accepted = not record.shrinks or record.shrink_accepted
        return record.lacks_only_rebuildable and accepted and not self.damaged and not self.doubted


@dataclass(frozen=True, slots=True)
class ForeignBackup:
    """A backup DocMind's own service made: listed, never pruned."""

    directory: Path
    created_at: datetime | None
    complete: bool
    bytes: int


@dataclass(frozen=True, slots=True)
class BrokenBackup:
    """A directory with a backup's name whose record cannot be used."""

    directory: Path
    problem: str
    too_new: bool = False


@dataclass(frozen=True, slots=True)
class Unfinished:
    """What a run that died left behind."""

    directory: Path


# -- events --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RunStarted:
    copy_bytes: int
    """Bytes of files that are going to be copied, as scan saw them."""
    download_bytes: int
    """Expected bytes of collection snapshots; 0 when unknown."""
    collections: int


@dataclass(frozen=True, slots=True)
class StepStarted:
    label: str


@dataclass(frozen=True, slots=True)
class Advanced:
    bytes: int
    """Less than nothing when what came has to come again."""
    downloaded: bool = False
    """From Qdrant, not from this machine's files."""
    label: str = ""
    """Of the step that downloads."""


@dataclass(frozen=True, slots=True)
class DownloadStarted:
    """The server has made its snapshot; of each attempt to fetch one."""

    label: str
    bytes: int
    """All that is to come."""


@dataclass(frozen=True, slots=True)
class StepFinished:
    label: str
    files: int
    bytes: int
    outcome: str = ""
    """Empty when all went well, else the omission's reason."""


Event = RunStarted | StepStarted | DownloadStarted | Advanced | StepFinished
OnEvent = Callable[[Event], None]


def ignore(_event: Event) -> None:
    """An `OnEvent` for callers who do not look."""
