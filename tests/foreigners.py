"""Backups that other tools made, to be verified and restored: DocMind's of both generations and ai-memory's."""

from __future__ import annotations

import hashlib
import json
import lzma
import shutil
import sqlite3
import tarfile
from pathlib import Path

from tests.environments import build_v1
from tests.snapshots import RECORDINGS, recorded
from tests.unpacking import unpack

DOCMIND = "backup_20261121_033425_6b8165a35cb0"
AI_MEMORY = "2026-11-21_033158"
V1 = "backup_20260214_030000"


def docmind_at(top: Path) -> Path:
    """As DocMind 2.0.1 wrote it."""
    with tarfile.open(RECORDINGS / "docmind-v2-backup.tar.xz") as tar:
        unpack(tar, top / "root")
    return top / "root" / DOCMIND


def ai_memory_at(top: Path) -> Path:
    """As ai-memory 2.0.6 wrote it; config/.env and the logs are made up: they were not recorded."""
    folder = top / "root" / AI_MEMORY
    for name in ("qdrant", "config", "logs"):
        (folder / name).mkdir(parents=True)
    for path in (RECORDINGS / "ai-memory").glob("*.xz"):
        (folder / "qdrant" / path.stem).write_bytes(lzma.decompress(path.read_bytes()))
    shutil.copy(RECORDINGS / "ai-memory/manifest.json", folder)
    shutil.copy(RECORDINGS / "ai-memory/settings.json", folder / "config")
    (folder / "config/.env").write_text("QDRANT_API_KEY=secret\n")
    (folder / "logs/hook.log").write_text("a line\n")
    return folder


def v1_at(top: Path) -> Path:
    """All of data/storage, raw copies of the databases, a snapshot with its checksum, and a manifest without counts."""
    env = build_v1(top / "docmind")
    folder = top / "root" / V1
    shutil.copytree(env.storage, folder / "data/storage")
    shutil.copytree(env.uploads, folder / "data/uploads")
    (folder / "cache").mkdir()
    shutil.copy2(env.cache_db, folder / "cache")
    with sqlite3.connect(folder / "data/docmind.db") as database:
        database.execute("CREATE TABLE message(id INTEGER PRIMARY KEY)")
    database.close()
    (folder / "qdrant/docmind_docs").mkdir(parents=True)
    (folder / "qdrant/docmind_docs/d.snapshot").write_bytes(recorded("text"))
    taken = {
        "collection": "docmind_docs",
        "snapshot_name": "d.snapshot",
        "filename": "qdrant/docmind_docs/d.snapshot",
        "size_bytes": len(recorded("text")),
        "checksum": hashlib.sha256(recorded("text")).hexdigest(),
    }
    manifest = {
        "created_at": "2026-02-14T03:00:00+00:00",
        "app_version": "1.4.0",
        "included": ["cache_db", "snapshots", "uploads", "chat_db", "qdrant_snapshots"],
        "bytes_written": 1,
        "qdrant": {"url": "http://localhost:6333", "collections": [taken]},
        "warnings": [],
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder
