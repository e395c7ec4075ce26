"""Values for tests of the core: an environment, records and backups that never lay on a disk."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePosixPath
from typing import Any

from docmind_backup.core.environment import Environment
from docmind_backup.core.model import (
    Backup,
    CollectionRecord,
    CollectionState,
    Kind,
    Layout,
    Part,
    QdrantRecord,
    Record,
    Scope,
    Seal,
    Seen,
    Source,
    SourceRecord,
    Totals,
)

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
PROJECT = Path("/srv/docmind")
DATA = PROJECT / "data"
VECTORS = {"text-dense": {"size": 8, "distance": "Cosine"}}

ENVIRONMENT = Environment(
    project=PROJECT,
    data_dir=DATA,
    cache_db=PROJECT / "cache/ingestion/docmind.duckdb",
    cache_db_v1=PROJECT / "cache/docmind.duckdb",
    chat_db=DATA / "chat.db",
    sqlite_db_v1=DATA / "docmind.db",
    analytics_db=DATA / "analytics/analytics.duckdb",
    analytics_enabled=False,
    artifacts=DATA / "artifacts",
    log_file=PROJECT / "logs/docmind.log",
    telemetry=PROJECT / "logs/telemetry.jsonl",
    env_file=PROJECT / ".env",
    qdrant_url="http://127.0.0.1:6333",
    text_collection="docs",
    image_collection="images",
)
SOURCES: dict[Part, tuple[Kind, str, str]] = {
    Part.IDENTITY: (Kind.FILE, "data/.deployment-id", "data/.deployment-id"),
    Part.STORAGE: (Kind.TREE, "data/storage", "data/storage"),
    Part.UPLOADS: (Kind.TREE, "data/uploads", "data/uploads"),
    Part.ARTIFACTS: (Kind.TREE, "data/artifacts", "data/artifacts"),
    Part.CHAT: (Kind.SQLITE, "data/chat.db", "data/chat.db"),
    Part.CACHE: (Kind.DUCKDB, "cache/ingestion/docmind.duckdb", "cache/docmind.duckdb"),
    Part.ANALYTICS: (Kind.DUCKDB, "data/analytics/analytics.duckdb", "data/analytics/analytics.duckdb"),
    Part.LOGS: (Kind.TREE, "logs", "logs"),
    Part.ENV: (Kind.FILE, ".env", ".env"),
}
"""Part to (kind, where it is below the project, where it is stored)."""


def seen(part: Part, files: int = 1, size: int = 1000, **changes: Any) -> Seen:
    """A source as scan found it."""
    kind, where, stored = SOURCES[part]
    source = Source(part, kind, where, PROJECT / where, PurePosixPath(stored))
    return replace(Seen(source, files, size), **changes)


def in_flight(files: int) -> Seen:
    source = Source(
        Part.UPLOADS,
        Kind.TREE,
        "data/.pending-uploads",
        DATA / ".pending-uploads",
        PurePosixPath("data/.pending-uploads"),
    )
    return Seen(source, files, files * 100)


def absent(part: Part) -> Seen:
    return seen(part, 0, 0, exists=False)


def stored(part: Part, files: int = 1, size: int = 1000, **changes: Any) -> SourceRecord:
    """The same source as a record has it."""
    kind, where, path = SOURCES[part]
    return replace(SourceRecord(part, path, str(PROJECT / where), kind, Totals(files=files, bytes=size)), **changes)


def collection(name: str, role: str = "", points: int = 25, **changes: Any) -> CollectionState:
    """A collection as the server describes it."""
    return replace(CollectionState(name, role, points=points, vectors=VECTORS), **changes)


def captured(name: str, role: str = "", points: int = 25, size: int = 131_584, **state: Any) -> CollectionRecord:
    """The same collection as a record has it."""
    return CollectionRecord(
        name,
        role,
        "2026-11-20T12:00:00+00:00",
        points_min=points,
        points_max=points,
        path=f"qdrant/{name}/{name}.snapshot",
        size=size,
        sha256="0" * 64,
        snapshot_name=f"{name}.snapshot",
        state=collection(name, role, points, **state),
    )


def qdrant(*collections: CollectionRecord, version: str = "1.18.3", **changes: Any) -> QdrantRecord:
    return replace(QdrantRecord("http://127.0.0.1:6333", version, embedded=False, collections=collections), **changes)


def record(*sources: SourceRecord, sequence: int = 1, **changes: Any) -> Record:
    made_at = NOON - timedelta(days=30 - sequence)
    made = Record(
        id=f"{made_at:%Y%m%d_%H%M%S}_{sequence:012x}",
        sequence=sequence,
        started_at=made_at,
        finished_at=made_at,
        host="lab",
        tool_version="0.1.0",
        scope=Scope(str(DATA), "d1", frozenset(Part), frozenset({"role:text", "role:image"})),
        layout=Layout.V2,
        project=str(PROJECT),
        included=tuple(dict.fromkeys(s.part for s in sources)),
        totals=sum((s.totals for s in sources), Totals()),
        sources=sources,
    )
    return replace(made, **changes)


def backup(*sources: SourceRecord, seal: Seal | None = None, **changes: Any) -> Backup:
    made = record(*sources, **changes)
    return Backup(Path("/srv/backups") / f"backup_{made.id}", made, seal)
