"""Make a small but complete DocMind environment with embedded stores, for the demo and the tests.

A seed determines names, contents and times of uploads and artifacts, every hash and the deployment id.
The formulas of docs/manifest.md are written out here a second time on purpose: the sample is what the code
that reads them is tried on.
"""

from __future__ import annotations

import gc
import hashlib
import json
import os
import sqlite3
import struct
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from pathlib import Path
from typing import Any
from uuid import UUID

INDEXED_AT = datetime(2026, 7, 18, 5, 27, 55, 123456, tzinfo=UTC)
"""When the active index snapshot was made; everything else in a sample is older."""
DIMENSIONS = 8
TEXT_VECTORS = {"text-dense": {"size": DIMENSIONS, "distance": "Cosine"}}
TEXT_SPARSE_VECTORS = {"text-sparse": {"modifier": "idf"}}
IMAGE_VECTORS = {"siglip": {"size": DIMENSIONS, "distance": "Cosine"}}

ENV = """\
DOCMIND_DATA_DIR=./data
DOCMIND_CACHE__DIR=./cache
DOCMIND_CHAT__SQLITE_PATH=./data/chat.db
DOCMIND_DATABASE__QDRANT_URL={qdrant_url}
DOCMIND_DATABASE__QDRANT_API_KEY=
DOCMIND_HASHING__HMAC_SECRET={secret}
DOCMIND_IMG_AES_KEY_BASE64=
DOCMIND_BACKUP_KEEP_LAST=7
"""

CHAT_SCHEMA = """
CREATE TABLE chat_session(thread_id TEXT PRIMARY KEY, title TEXT NOT NULL, created_at_ms INTEGER NOT NULL,
    updated_at_ms INTEGER NOT NULL, last_checkpoint_id TEXT, deleted_at_ms INTEGER);
CREATE INDEX idx_chat_session_updated ON chat_session(updated_at_ms);
CREATE INDEX idx_chat_session_deleted ON chat_session(deleted_at_ms);
CREATE TABLE checkpoints(thread_id TEXT NOT NULL, checkpoint_ns TEXT NOT NULL DEFAULT '',
    checkpoint_id TEXT NOT NULL, parent_checkpoint_id TEXT, type TEXT, checkpoint BLOB, metadata BLOB,
    PRIMARY KEY(thread_id, checkpoint_ns, checkpoint_id));
CREATE TABLE writes(thread_id TEXT NOT NULL, checkpoint_ns TEXT NOT NULL DEFAULT '',
    checkpoint_id TEXT NOT NULL, task_id TEXT NOT NULL, idx INTEGER NOT NULL, channel TEXT NOT NULL,
    type TEXT, value BLOB,
    PRIMARY KEY(thread_id, checkpoint_ns, checkpoint_id, task_id, idx));
CREATE TABLE store(prefix TEXT NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL,
    created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP, updated_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    expires_at TIMESTAMP, ttl_minutes REAL, PRIMARY KEY(prefix, key));
CREATE INDEX store_prefix_idx ON store(prefix);
CREATE TABLE store_vectors(prefix TEXT NOT NULL, key TEXT NOT NULL, field_name TEXT NOT NULL, embedding BLOB,
    created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP, updated_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    PRIMARY KEY(prefix, key, field_name),
    FOREIGN KEY(prefix, key) REFERENCES store(prefix, key) ON DELETE CASCADE);
"""
"""DocMind's own table, and those of LangGraph's SQLite checkpointer and store."""

GRAPH_FILES = (
    "docstore",
    "index_store",
    "graph_store",
    "property_graph_store",
    "default__vector_store",
    "image__vector_store",
)


@dataclass(frozen=True, slots=True)
class SampleEnvironment:
    """Where a sample is and what it is called."""

    project: Path
    data_dir: Path
    qdrant_path: Path | None
    """Folder of the embedded Qdrant; None where none was asked for."""
    text_collection: str
    image_collection: str
    deployment_id: str
    index_snapshot: str
    """The one that CURRENT names."""


@dataclass(frozen=True, slots=True)
class Index:
    """An index snapshot as it was written."""

    name: str
    path: Path
    meta: Mapping[str, Any]
    """Its `manifest.meta.json`."""

    @property
    def text_collection(self) -> str:
        return str(self.meta["collections"]["text"])

    @property
    def image_collection(self) -> str:
        return str(self.meta["collections"]["image"])


def build_sample(
    project: Path,
    *,
    embedded: bool = True,
    documents: int = 12,
    seed: int = 7,
    qdrant_url: str = "http://localhost:6333",
) -> SampleEnvironment:
    """A v2 environment of about 2 MB below `project`: documents, artifacts, chats, cache and index.

    `documents` is at least 1. Raises FileExistsError rather than touch an environment that is already there.
    """
    _refuse_to_overwrite(project)
    data = project / "data"
    data.mkdir(parents=True)
    deployment_id = str(UUID(bytes=_noise(seed, "deployment", 16), version=4))
    _write_private(data / ".deployment-id", deployment_id + "\n")
    _write_private(project / ".env", ENV.format(qdrant_url=qdrant_url, secret=_noise(seed, "hmac", 24).hex()))
    _write_cache(project / "cache")
    _write_logs(project / "logs")
    write_chat(data / "chat.db", seed=seed)
    images = tuple(_write_image(data / "artifacts", number, seed) for number in range(documents))
    active = _write_indexed_uploads(data, documents, deployment_id, seed)
    qdrant_path = data / "qdrant-embedded" if embedded else None
    if qdrant_path:
        _write_qdrant(qdrant_path, active, text_points(2 * documents, seed), image_points(images, seed))
    return SampleEnvironment(
        project,
        data,
        qdrant_path,
        active.text_collection,
        active.image_collection,
        deployment_id,
        active.name,
    )


def _refuse_to_overwrite(project: Path) -> None:
    for name in (".env", "cache", "data", "logs"):
        if os.path.lexists(project / name):
            raise FileExistsError(f"{project / name} exists: a sample is only made where no environment is")


def _write_indexed_uploads(data: Path, documents: int, deployment_id: str, seed: int) -> Index:
    """The uploads, an index snapshot made before the last of them came, and the active one made after it."""
    storage, uploads = data / "storage", data / "uploads"
    week_ago = INDEXED_AT - timedelta(days=7)
    for number in range(documents - 1):
        write_upload(uploads, number, seed)
    older = _noise(seed, "older", 20).hex()
    write_index_snapshot(
        storage,
        f"{week_ago:%Y%m%dT%H%M%S}-{older[:8]}",
        uploads,
        deployment_id=deployment_id,
        workspace=older[8:],
        created_at=week_ago,
        graph=False,
    )
    write_upload(uploads, documents - 1, seed)
    newer = _noise(seed, "active", 20).hex()
    name = f"{INDEXED_AT:%Y%m%dT%H%M%S}-{newer[:8]}"
    active = write_index_snapshot(storage, name, uploads, deployment_id=deployment_id, workspace=newer[8:])
    (storage / "CURRENT").write_text(name + "\n", encoding="ascii")
    (storage / ".lock").touch()
    return active


# -- an index snapshot ---------------------------------------------------------------------------


def write_index_snapshot(
    storage: Path,
    name: str,
    uploads: Path,
    *,
    deployment_id: str,
    workspace: str,
    created_at: datetime = INDEXED_AT,
    graph: bool = True,
) -> Index:
    """`storage/name` (schema 2.0) over the uploads as they lie there now; CURRENT is left alone.

    `workspace`: 32 hex digits, the tail of both collections' names. Without `graph` its folder is empty.
    """
    root = storage / name
    (root / "graph").mkdir(parents=True)
    exports = _write_graph(root / "graph", created_at) if graph else []
    entries = [_payload_entry(name, path) for name, path in _files(root)]
    meta = _index_meta(deployment_id, workspace, created_at, exports) | {"corpus_hash": corpus_hash(uploads)}
    checksum = {
        "schema_version": "2.0",
        "manifest_sha256": manifest_sha256(entries, meta),
        "created_at": created_at.isoformat(),
    }
    lines = "".join(_compact(entry) + "\n" for entry in entries)
    (root / "manifest.jsonl").write_text(lines, encoding="utf-8")
    (root / "manifest.meta.json").write_text(_compact(meta), encoding="utf-8")
    (root / "manifest.checksum").write_text(_compact(checksum), encoding="utf-8")
    return Index(name, root, meta)


def corpus_hash(uploads: Path) -> str:
    """sha256 over `[path, sha256 of content]` of every upload in order of path, nothing between them."""
    digest = hashlib.sha256()
    for name, path in _files(uploads):
        digest.update(_compact([name, _sha256(path)]).encode())
    return digest.hexdigest()


def manifest_sha256(entries: Iterable[Mapping[str, Any]], meta: Mapping[str, Any]) -> str:
    """sha256 over a line per entry, keys sorted, compact; then the meta, keys sorted, default separators."""
    digest = hashlib.sha256()
    for entry in entries:
        line = json.dumps(entry, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        digest.update(f"{line}\n".encode())
    digest.update(json.dumps(meta, sort_keys=True, ensure_ascii=False).encode())
    return digest.hexdigest()


def _write_graph(folder: Path, created_at: datetime) -> list[dict[str, Any]]:
    for store in GRAPH_FILES:
        (folder / f"{store}.json").write_text(json.dumps({"store": store, "data": {}}), encoding="utf-8")
    export = folder / f"graph_export-snapshot-{created_at:%Y%m%dT%H%M%SZ}.jsonl"
    export.write_text(_compact({"subject": "a", "relation": "CITES", "object": "b"}) + "\n", encoding="utf-8")
    described = {
        "filename": export.name,
        "format": "jsonl",
        "seed_count": 32,
        "size_bytes": export.stat().st_size,
        "duration_ms": 12.5,
        "sha256": _sha256(export),
        "created_at": created_at.isoformat(),
    }
    return [described]


def _files(root: Path) -> list[tuple[str, Path]]:
    """Every file below `root` with its relative name, in order of the names."""
    return sorted((path.relative_to(root).as_posix(), path) for path in root.rglob("*") if path.is_file())


def _payload_entry(name: str, path: Path) -> dict[str, Any]:
    return {
        "path": name,
        "sha256": _sha256(path),
        "size_bytes": path.stat().st_size,
        "content_type": "application/x-ndjson" if path.suffix == ".jsonl" else "application/json",
    }


def _index_meta(
    deployment_id: str, workspace: str, created_at: datetime, exports: list[dict[str, Any]]
) -> dict[str, Any]:
    config = {
        "activation": {"encrypt_images": False, "graph_requested": bool(exports), "input_overrides": []},
        "embedding": {"model_name": "BAAI/bge-m3", "dimension": DIMENSIONS},
        "qdrant": {"text_collection": "docmind_docs", "image_collection": "docmind_images"},
    }
    canonical = json.dumps(config, sort_keys=True, separators=(",", ":"))
    config_hash = hashlib.sha256(canonical.encode()).hexdigest()
    return {
        "schema_version": "2.0",
        "persist_format_version": "1.0",
        "complete": True,
        "index_id": "docmind",
        "graph_store_type": "property_graph" if exports else "none",
        "vector_store_type": "qdrant",
        "collections": {"text": f"docmind_docs__{workspace}", "image": f"docmind_images__{workspace}"},
        "collection_metadata": _collection_metadata(deployment_id),
        "corpus_hash": "",
        "config_hash": config_hash,
        "versions": {
            "app": "2.0.1",
            "llama_index": "0.14.21",
            "embed_model": "BAAI/bge-m3",
            "qdrant_client": "1.15.1",
        },
        "graph_exports": exports,
        "activation_config": config,
        "activation_config_hash": config_hash,
        "created_at": created_at.isoformat(),
    }


def _collection_metadata(deployment_id: str) -> dict[str, dict[str, Any]]:
    """What both the index snapshot and the collection itself say of it."""
    text = {
        "docmind_deployment_id": deployment_id,
        "docmind_owner": "text",
        "docmind_schema_version": "2",
        "dense_model": "BAAI/bge-m3",
        "dense_revision": "5617a9f61b028005a4858fdac845db406aefb181",
        "dense_dimension": DIMENSIONS,
        "sparse_enabled": True,
        "sparse_model": "Qdrant/bm42-all-minilm-l6-v2-attentions",
        "sparse_source_repo": "Qdrant/all_miniLM_L6_v2_with_attentions",
        "sparse_source_revision": "9695632d760ba609397b32f56fb5b1b870cf92a5",
        "sparse_encoding_contract": "bm42:doc=embed;query=query_embed:v1",
    }
    image = {
        "docmind_deployment_id": deployment_id,
        "docmind_owner": "image",
        "docmind_schema_version": "2",
        "siglip_model": "google/siglip-base-patch16-224",
        "siglip_revision": "7fd15f0689c79d79e38b1c2e2e2370a7bf2761ed",
        "siglip_dimension": DIMENSIONS,
        "normalize_image": True,
    }
    return {"text": text, "image": image}


# -- documents and their pictures ----------------------------------------------------------------


def write_upload(uploads: Path, number: int, seed: int) -> Path:
    """A one-page PDF of 10 to 200 KB, most of it a grey picture, changed a month before it was indexed."""
    uploads.mkdir(parents=True, exist_ok=True)
    path = uploads / f"document-{number:02d}.pdf"
    rows = 80 + int.from_bytes(_noise(seed, f"rows {number}", 2), "big") % 1400
    path.write_bytes(_pdf(f"Document {number}", _noise(seed, f"upload {number}", 128 * rows), width=128))
    changed = INDEXED_AT - timedelta(days=30) + timedelta(minutes=number)
    _set_mtime(path, changed)
    return path


def _pdf(title: str, pixels: bytes, *, width: int) -> bytes:
    page = f"BT /F1 24 Tf 72 720 Td ({title}) Tj ET q 400 0 0 400 72 200 cm /Im1 Do Q".encode()
    image = (
        f"<</Type/XObject/Subtype/Image/Width {width}/Height {len(pixels) // width}/ColorSpace/DeviceGray"
        f"/BitsPerComponent 8/Length {len(pixels)}>>\nstream\n"
    )
    objects = (
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
        b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 612 792]/Contents 4 0 R"
        b"/Resources<</Font<</F1 5 0 R>>/XObject<</Im1 6 0 R>>>>>>",
        b"<</Length %d>>\nstream\n%b\nendstream" % (len(page), page),
        b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>",
        image.encode() + pixels + b"\nendstream",
    )
    out, offsets = bytearray(b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n"), list[int]()
    for number, content in enumerate(objects, start=1):
        offsets.append(len(out))
        out += b"%d 0 obj\n%b\nendobj\n" % (number, content)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    trailer = b"trailer\n<</Size 7/Root 1 0 R>>\nstartxref\n%d\n%%%%EOF\n" % len(out)
    return bytes(out + b"xref\n0 7\n0000000000 65535 f \n" + table + trailer)


def _write_image(artifacts: Path, number: int, seed: int) -> tuple[str, str]:
    """The artifact ids of a page's picture and of its thumbnail."""
    return (
        write_artifact(artifacts, _noise(seed, f"image {number}", 60_000)),
        write_artifact(artifacts, _noise(seed, f"thumbnail {number}", 4_000)),
    )


def write_artifact(artifacts: Path, filler: bytes, suffix: str = ".webp") -> str:
    """The id (sha256) of a stored picture: a genuine 1x1 WebP, then a chunk of `filler` that readers skip."""
    artifacts.mkdir(parents=True, exist_ok=True)
    pixel = b"VP8L\x0d\x00\x00\x00\x2f\x00\x00\x00\x10\x07\x10\x11\x11\x88\x88\xfe\x07\x00"
    chunks = b"WEBP" + pixel + b"FILL" + struct.pack("<I", len(filler)) + filler
    content = b"RIFF" + struct.pack("<I", len(chunks)) + chunks
    identity = hashlib.sha256(content).hexdigest()
    path = artifacts / (identity + suffix)
    path.write_bytes(content)
    _set_mtime(path, INDEXED_AT - timedelta(days=1))
    return identity


# -- Qdrant --------------------------------------------------------------------------------------


def text_points(count: int, seed: int = 7) -> list[dict[str, Any]]:
    """Points of a text collection as Qdrant's REST API takes them."""
    return [
        {
            "id": number,
            "payload": {"doc_id": f"document-{number:02d}", "text": f"chunk {number}"},
            "vector": {
                "text-dense": _floats(seed, f"text {number}", DIMENSIONS),
                "text-sparse": {
                    "indices": [number, number + 100, number + 200],
                    "values": [0.5, 0.25, 0.125],
                },
            },
        }
        for number in range(count)
    ]


def image_points(images: Iterable[tuple[str, str]], seed: int = 7) -> list[dict[str, Any]]:
    """Points of an image collection; `images`: the artifact ids of each page's picture and thumbnail."""
    return [
        {
            "id": number,
            "payload": {
                "image_artifact_id": picture,
                "image_artifact_suffix": ".webp",
                "thumbnail_artifact_id": thumbnail,
                "thumbnail_artifact_suffix": ".webp",
            },
            "vector": {"siglip": _floats(seed, f"picture {number}", DIMENSIONS)},
        }
        for number, (picture, thumbnail) in enumerate(images)
    ]


def _write_qdrant(folder: Path, index: Index, text: list[dict[str, Any]], image: list[dict[str, Any]]) -> None:
    from qdrant_client import QdrantClient, models  # here, because it takes over a second

    metadata = index.meta["collection_metadata"]
    with leaks_forgiven(), closing(QdrantClient(path=str(folder))) as client:
        client.create_collection(
            index.text_collection,
            vectors_config={name: models.VectorParams.model_validate(v) for name, v in TEXT_VECTORS.items()},
            sparse_vectors_config={
                name: models.SparseVectorParams.model_validate(v) for name, v in TEXT_SPARSE_VECTORS.items()
            },
            metadata=metadata["text"],
        )
        client.create_collection(
            index.image_collection,
            vectors_config={name: models.VectorParams.model_validate(v) for name, v in IMAGE_VECTORS.items()},
            metadata=metadata["image"],
        )
        client.upsert(index.text_collection, [models.PointStruct.model_validate(point) for point in text])
        client.upsert(index.image_collection, [models.PointStruct.model_validate(point) for point in image])


@contextmanager
def leaks_forgiven() -> Iterator[None]:
    """qdrant-client's local mode drops an open SQLite connection per collection; Python 3.13 complains of each."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        yield
        gc.collect()


# -- the rest of an environment ------------------------------------------------------------------


def write_chat(path: Path, *, sessions: int = 5, seed: int = 7) -> None:
    """DocMind's chat database in WAL mode, closed cleanly: no `-wal`, no `-shm` beside it."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode=WAL")
        db.executescript(f"BEGIN;{CHAT_SCHEMA}COMMIT;")
        db.execute("BEGIN")
        for number in range(sessions):
            _add_session(db, number, INDEXED_AT - timedelta(hours=sessions - number), seed)
        db.execute("INSERT INTO store(prefix, key, value) VALUES ('docmind', 'note', '{}')")
        db.execute("COMMIT")


def _add_session(db: sqlite3.Connection, number: int, at: datetime, seed: int) -> None:
    thread = f"docmind:{hashlib.sha256(str(number).encode()).hexdigest()}"
    ms = int(at.timestamp() * 1000)
    session = (thread, f"Chat {number}", ms, ms, "1")
    db.execute("INSERT INTO chat_session VALUES (?, ?, ?, ?, ?, NULL)", session)
    checkpoint = (thread, "1", "msgpack", _noise(seed, f"chat {number}", 3000), b"{}")
    db.execute("INSERT INTO checkpoints VALUES (?, '', ?, NULL, ?, ?, ?)", checkpoint)
    write = (thread, "1", "task", 0, "messages", "msgpack", b"\x90")
    db.execute("INSERT INTO writes VALUES (?, '', ?, ?, ?, ?, ?, ?)", write)


def _write_cache(cache: Path) -> None:
    """The ingestion cache is package data, since making one needs DuckDB; the model beside it is no data.

    Made by DuckDB 1.3.2 with `ATTACH ... (BLOCK_SIZE 16384)`, the smallest it can do.
    """
    (cache / "ingestion").mkdir(parents=True)
    content = files("docmind_backup").joinpath("sample_data", "docmind.duckdb").read_bytes()
    (cache / "ingestion" / "docmind.duckdb").write_bytes(content)
    (cache / "models").mkdir()
    (cache / "models" / "layout.bin").write_bytes(bytes(4096))


def _write_logs(logs: Path) -> None:
    logs.mkdir(parents=True)
    line = f"{INDEXED_AT:%Y-%m-%d %H:%M:%S} INFO ingestion finished\n"
    (logs / "docmind.log").write_text(line, encoding="utf-8")
    event = {"ts": INDEXED_AT.isoformat(timespec="seconds"), "snapshot_stale_detected": False}
    (logs / "telemetry.jsonl").write_text(json.dumps(event) + "\n", encoding="utf-8")


def _write_private(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.write_text(text, encoding="utf-8")


def _set_mtime(path: Path, moment: datetime) -> None:
    ns = int(moment.timestamp()) * 1_000_000_000 + moment.microsecond * 1000
    os.utime(path, ns=(ns, ns))


def _noise(seed: int, label: str, size: int) -> bytes:
    """Bytes that look random and depend on nothing but the seed and what they are for."""
    return hashlib.shake_256(f"{seed}/{label}".encode()).digest(size)


def _floats(seed: int, label: str, count: int) -> list[float]:
    """Between -1 and 1, exact as float32."""
    return [value / 2**15 for value in struct.unpack(f"<{count}h", _noise(seed, label, 2 * count))]


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
