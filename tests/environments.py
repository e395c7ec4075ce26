"""Build DocMind environments for the tests, of both generations, and the processes that disturb them.

Processes are real and in step by pipes: a writer answers once what it was asked to write is committed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
from tests.standin import StandIn

from docmind_backup.sample import (
    IMAGE_VECTORS,
    INDEXED_AT,
    TEXT_SPARSE_VECTORS,
    TEXT_VECTORS,
    build_sample,
    image_points,
    text_points,
    write_upload,
)

NOBODY = "http://127.0.0.1:1"
"""Where no Qdrant answers: the address of an environment built without a server."""
TEXT_POINTS = 25
IMAGE_POINTS = 7
SEED = 7


@dataclass(frozen=True, slots=True)
class DocMindV2:
    """What DocMind does now: collections named by the active index snapshot, a deployment id, chats."""

    project: Path
    data_dir: Path
    env_file: Path
    uploads: Path
    artifacts: Path
    storage: Path
    chat_db: Path
    cache_db: Path
    analytics_db: Path
    """Where it would be; there only with `analytics`."""
    text_collection: str
    image_collection: str
    deployment_id: str
    index_snapshot: str
    """The active one."""
    collection_metadata: Mapping[str, Mapping[str, Any]]
    """By role, in the index snapshot and on the server alike."""
    chat_sessions: int = 5
    cache_rows: int = 12

    @property
    def backups(self) -> Path:
        return self.data_dir / "backups"


@dataclass(frozen=True, slots=True)
class DocMindV1:
    """The first generation: exact collection names, no deployment id, no chats, no artifacts."""

    project: Path
    data_dir: Path
    env_file: Path
    uploads: Path
    storage: Path
    cache_db: Path
    text_collection: str
    image_collection: str
    index_snapshot: str
    cache_rows: int = 12

    @property
    def backups(self) -> Path:
        return self.data_dir / "backups"


def build_v2(
    project: Path,
    server: StandIn | None = None,
    *,
    analytics: bool = True,
    logs: bool = True,
    in_flight: bool = False,
) -> DocMindV2:
    """Seven documents, 1 MB; on `server` 25 text and 7 image points; `in_flight`: uploads half-way in."""
    env = _sample_as_v2(project, server.url if server else NOBODY)
    if analytics:
        _add_analytics(env)
    if not logs:
        shutil.rmtree(project / "logs")
    if in_flight:
        _add_uploads_in_flight(env)
    if server:
        _add_collections(server, env, metadata=env.collection_metadata, pictures=_pictures(env.artifacts))
    return env


def _sample_as_v2(project: Path, qdrant_url: str) -> DocMindV2:
    sample = build_sample(project, embedded=False, documents=IMAGE_POINTS, seed=SEED, qdrant_url=qdrant_url)
    data = sample.data_dir
    meta = json.loads((data / "storage" / sample.index_snapshot / "manifest.meta.json").read_bytes())
    return DocMindV2(
        project=project,
        data_dir=data,
        env_file=project / ".env",
        uploads=data / "uploads",
        artifacts=data / "artifacts",
        storage=data / "storage",
        chat_db=data / "chat.db",
        cache_db=project / "cache" / "ingestion" / "docmind.duckdb",
        analytics_db=data / "analytics" / "analytics.duckdb",
        text_collection=sample.text_collection,
        image_collection=sample.image_collection,
        deployment_id=sample.deployment_id,
        index_snapshot=sample.index_snapshot,
        collection_metadata=meta["collection_metadata"],
    )


def _add_analytics(env: DocMindV2) -> None:
    env.analytics_db.parent.mkdir()
    with duckdb.connect(str(env.analytics_db)) as db:
        db.execute(
            "CREATE TABLE query_metrics(ts TIMESTAMP, query_type TEXT, latency_ms DOUBLE, result_count INT,"
            " retrieval_strategy TEXT, success BOOLEAN)"
        )
        db.execute("INSERT INTO query_metrics VALUES ('2026-07-18', 'q', 12.5, 3, 'hybrid', true)")
    with env.env_file.open("a", encoding="utf-8") as file:
        file.write("DOCMIND_ANALYTICS_ENABLED=true\n")


def _add_uploads_in_flight(env: DocMindV2) -> None:
    """A document being promoted, one being taken out, and the workspace of a running ingestion."""
    collections = {"text": env.text_collection, "image": env.image_collection}
    pending = env.data_dir / ".pending-uploads" / ("1" * 32) / "waiting.pdf"
    taken_out = env.data_dir / ".quarantine" / ("2" * 32)
    for path in (pending, taken_out / "payload" / "upload"):
        path.parent.mkdir(parents=True)
        path.write_bytes(b"%PDF-1.4\n" + path.name.encode())
    move = {"pending": f"{'1' * 32}/waiting.pdf", "destination": "waiting.pdf", "sha256": _sha256(pending)}
    promote = {"schema_version": 1, "operation": "promote", "collections": collections, "moves": [move]}
    quarantine = {
        "schema_version": 1,
        "operation": "quarantine",
        "source_name": "removed.pdf",
        "sha256": _sha256(taken_out / "payload" / "upload"),
        "collections": collections,
    }
    transactions = env.data_dir / ".upload-transactions" / ("3" * 32)
    transactions.mkdir(parents=True)
    (transactions / "transaction.json").write_text(json.dumps(promote), encoding="utf-8")
    (taken_out / "transaction.json").write_text(json.dumps(quarantine), encoding="utf-8")
    (env.storage / f"_tmp-{'4' * 32}" / "graph").mkdir(parents=True)


def _pictures(artifacts: Path) -> list[tuple[str, str]]:
    """The id of each page's picture with that of a thumbnail; pictures are the large ones."""
    ids = {path.stem: path.stat().st_size for path in sorted(artifacts.iterdir())}
    pictures = [name for name, size in ids.items() if size > 10_000]
    thumbnails = [name for name, size in ids.items() if size <= 10_000]
    return list(zip(pictures, thumbnails, strict=True))


def _add_collections(
    server: StandIn,
    env: DocMindV1 | DocMindV2,
    *,
    metadata: Mapping[str, Mapping[str, Any]],
    pictures: list[tuple[str, str]],
) -> None:
    server.create_collection(
        env.text_collection,
        text_points(TEXT_POINTS, SEED),
        vectors=TEXT_VECTORS,
        sparse_vectors=TEXT_SPARSE_VECTORS,
        metadata=metadata.get("text"),
        payload_indexes={"doc_id": "keyword"},
    )
    server.create_collection(
        env.image_collection,
        image_points(pictures, SEED),
        vectors=IMAGE_VECTORS,
        metadata=metadata.get("image"),
    )


# -- the first generation ------------------------------------------------------------------------

ENV_V1 = """\
DOCMIND_DATA_DIR=./data
DOCMIND_CACHE_DIR=./cache
DOCMIND_DATABASE__SQLITE_DB_PATH=docmind.db
DOCMIND_DATABASE__QDRANT_URL={qdrant_url}
DOCMIND_DATABASE__QDRANT_COLLECTION=docmind_docs
DOCMIND_DATABASE__QDRANT_IMAGE_COLLECTION=docmind_images
"""


def build_v1(project: Path, server: StandIn | None = None, *, current: bool = True) -> DocMindV1:
    """Three documents, two index snapshots; without `current` the newest complete one is the active one."""
    data, older, newer = project / "data", "20260101T000000-aaaaaaaa", "20260201T000000-bbbbbbbb"
    env = DocMindV1(
        project=project,
        data_dir=data,
        env_file=project / ".env",
        uploads=data / "uploads",
        storage=data / "storage",
        cache_db=project / "cache" / "docmind.duckdb",
        text_collection="docmind_docs",
        image_collection="docmind_images",
        index_snapshot=newer,
    )
    env.storage.mkdir(parents=True)
    env.env_file.write_text(ENV_V1.format(qdrant_url=server.url if server else NOBODY), encoding="utf-8")
    write_upload(env.uploads, 0, SEED)
    _write_index_snapshot_v1(env, older)
    write_upload(env.uploads, 1, SEED)
    write_upload(env.uploads, 2, SEED)
    _write_index_snapshot_v1(env, newer)
    if current:
        (env.storage / "CURRENT").write_text(newer + "\n", encoding="ascii")
    _write_cache_v1(env)
    if server:
        names = [(_digest(f"picture {n}"), _digest(f"thumbnail {n}")) for n in range(IMAGE_POINTS)]
        _add_collections(server, env, metadata={}, pictures=names)
    return env


def _write_cache_v1(env: DocMindV1) -> None:
    env.cache_db.parent.mkdir()
    with duckdb.connect(str(env.cache_db)) as db:
        db.execute("CREATE TABLE keyvalue(key VARCHAR, collection VARCHAR, value JSON, PRIMARY KEY(key, collection))")
        db.execute("CREATE INDEX collection_idx ON keyvalue(collection)")
        db.execute(
            "INSERT INTO keyvalue SELECT 'node-' || i, 'docmind_ingestion', '{}' FROM range(?) r(i)",
            [env.cache_rows],
        )


def _write_index_snapshot_v1(env: DocMindV1, name: str) -> None:
    root = env.storage / name
    for folder, stores in {"graph": ("graph_store",), "vector": ("default__vector_store",)}.items():
        (root / folder).mkdir(parents=True)
        for store in stores:
            (root / folder / f"{store}.json").write_text(json.dumps({"store": store}), encoding="utf-8")
    entries = [_entry_v1(root, path) for path in sorted(root.rglob("*.json"))]
    meta = {
        "schema_version": "1.0",
        "persist_format_version": "1.0",
        "complete": True,
        "index_id": "docmind",
        "graph_store_type": "property_graph",
        "vector_store_type": "qdrant",
        "corpus_hash": corpus_hash_v1(env.uploads),
        "config_hash": _digest("config"),
        "versions": {"app": "1.4.0", "llama_index": "0.13.0"},
        "created_at": INDEXED_AT.isoformat(),
    }
    hashed = "".join(entry["sha256"] for entry in entries) + json.dumps(meta, sort_keys=True)
    checksum = {
        "schema_version": "1.0",
        "manifest_sha256": _digest(hashed),
        "created_at": INDEXED_AT.isoformat(),
    }
    (root / "manifest.jsonl").write_text("".join(json.dumps(e) + "\n" for e in entries), encoding="utf-8")
    (root / "manifest.meta.json").write_text(json.dumps(meta), encoding="utf-8")
    (root / "manifest.checksum").write_text(json.dumps(checksum), encoding="utf-8")


def _entry_v1(root: Path, path: Path) -> dict[str, Any]:
    return {
        "path": path.relative_to(root).as_posix(),
        "sha256": _sha256(path),
        "size_bytes": path.stat().st_size,
        "content_type": "application/json",
    }


def corpus_hash_v1(uploads: Path) -> str:
    """Over name, size and time of every upload: a restore that loses `mtime_ns` changes it."""
    found = sorted((path.relative_to(uploads).as_posix(), path.stat()) for path in uploads.rglob("*.pdf"))
    return _digest("".join(f"{name}{status.st_size}{status.st_mtime_ns}" for name, status in found))


# -- what else runs while a backup is made -------------------------------------------------------

WRITE_CHATS = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("PRAGMA wal_autocheckpoint=0")
for line in sys.stdin:
    for _ in range(int(line)):
        db.execute("INSERT INTO chat_session VALUES (hex(randomblob(16)), 'live', 1, 1, NULL, NULL)")
    print(db.execute("SELECT count(*) FROM chat_session").fetchone()[0], flush=True)
db.close()
"""

WRITE_CACHE = """
import duckdb, sys
db = duckdb.connect(sys.argv[1])
for line in sys.stdin:
    for _ in range(int(line)):
        db.execute("INSERT INTO keyvalue VALUES (uuid()::VARCHAR, 'docmind_ingestion', '{}')")
    print(db.execute("SELECT count(*) FROM keyvalue").fetchone()[0], flush=True)
db.close()
"""


class Writer:
    """A process of its own that has a database open; each row it writes is a transaction of its own."""

    def __init__(self, script: str, database: Path) -> None:
        command = [sys.executable, "-c", script, str(database)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def write(self, rows: int = 1) -> int:
        """How many rows there are, once `rows` more are committed."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(f"{rows}\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def close(self) -> None:
        """Let it close its database as a program does that ends well."""
        with self.process:
            pass

    def kill(self) -> None:
        self.process.kill()
        self.close()


@contextmanager
def live(env: DocMindV2) -> Iterator[Writer]:
    """The application runs: committed rows of chat.db are only in its `-wal`; the cache is not open."""
    with _writer(WRITE_CHATS, env.chat_db, rows=3) as writer:
        yield writer


@contextmanager
def holding_duckdb(env: DocMindV1 | DocMindV2) -> Iterator[Writer]:
    """The application ingests: another process has the cache open for writing, and no `.wal` yet."""
    with _writer(WRITE_CACHE, env.cache_db, rows=0) as writer:
        yield writer


@contextmanager
def _writer(script: str, database: Path, *, rows: int) -> Iterator[Writer]:
    writer = Writer(script, database)
    try:
        writer.write(rows)
        yield writer
    finally:
        writer.close()


@dataclass(frozen=True, slots=True)
class Crashed:
    """What is in the databases after a crash, counting what is only in their logs."""

    chat_sessions: int
    cache_rows: int


def crash(env: DocMindV2) -> Crashed:
    """The application was killed: chat.db left `-wal` and `-shm`, the cache `.wal`, with rows only there."""
    chats, cache = Writer(WRITE_CHATS, env.chat_db), Writer(WRITE_CACHE, env.cache_db)
    try:
        return Crashed(chat_sessions=chats.write(3), cache_rows=cache.write(3))
    finally:
        chats.kill()
        cache.kill()


# -- that nothing was touched --------------------------------------------------------------------


def snapshot_of_sources(env: DocMindV1 | DocMindV2, *, backups: Path | None = None) -> dict[str, tuple[Any, ...]]:
    """Every path below the project and what it is, for a comparison of before and after.

    Left out: `backups` (`data/backups` unless given), SQLite's `-shm` (a lock table that readers may write),
    the times of the folders that hold these, and all access times.
    """
    left_out = backups or env.backups
    seen: dict[str, tuple[Any, ...]] = {}
    for folder, subfolders, files in os.walk(env.project):
        here = Path(folder)
        subfolders[:] = [name for name in subfolders if here / name != left_out]
        for path in (here, *(here / name for name in (*subfolders, *files))):
            if not path.name.endswith("-shm"):
                timed = path not in (env.data_dir, left_out.parent)
                seen[path.relative_to(env.project).as_posix()] = _look(path, timed=timed)
    return seen


def _look(path: Path, *, timed: bool) -> tuple[Any, ...]:
    status = path.lstat()
    mode = stat.filemode(status.st_mode)
    if stat.S_ISLNK(status.st_mode):
        return (mode, status.st_mtime_ns, os.readlink(path))
    if stat.S_ISREG(status.st_mode):
        return (mode, status.st_size, status.st_mtime_ns, _sha256(path))
    return (mode, status.st_mtime_ns) if timed else (mode,)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
