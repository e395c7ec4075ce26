"""Turn points into a genuine collection snapshot and back, with Qdrant's own engine (qdrant-edge-py).

The layout is that of the server-made files among the recordings. Both directions are cached by content, since
most tests use the same few collections. Nothing here knows about HTTP.
"""

from __future__ import annotations

import hashlib
import json
import struct
import tarfile
import tempfile
from dataclasses import dataclass, field
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any

from tests.standin import sparse_tar
from tests.unpacking import unpack_one

Point = dict[str, Any]
"""{"id": int or uuid text, "vector": list or {name: list or {"indices", "values"}}, "payload": {...}}"""

VERSION_INFO = b"0.4.2"  # of the collection crate; the same in every release 1.5 to 1.19


class UnreadableError(Exception):
    """Not a collection snapshot; the text is the end of the server's own error."""


@dataclass(frozen=True, slots=True)
class Content:
    """What a collection snapshot holds."""

    config: dict[str, Any]
    """config.json."""
    payload_index: dict[str, Any]
    """payload_index.json: field name to schema."""
    points: tuple[Point, ...]
    """Of all local shards."""
    missing_shards: tuple[int, ...] = field(default=())
    """Shards that lie on another node."""


def build(content: Content, *, peer_id: int, mtime: int = 0) -> bytes:
    """A collection snapshot. Another `mtime` gives another file (and checksum) with the same points."""
    return _build(_canonical(content), peer_id, mtime)


def read(data: bytes) -> Content:
    """Raises UnreadableError with the text a server would give, `TMP` standing for its folder."""
    return _read(data)


def _canonical(content: Content) -> str:
    return json.dumps([content.config, content.payload_index, content.points])


@lru_cache(maxsize=64)
def _build(canonical: str, peer_id: int, mtime: int) -> bytes:
    config, payload_index, points = json.loads(canonical)
    with tempfile.TemporaryDirectory() as folder:
        shard = Path(folder, "shard")
        _make_shard(shard, config, payload_index, points)
        members = [*_segment_members(shard, mtime), *_wal_members(shard, mtime)]
    members += [
        sparse_tar.member("0/replica_state.json", _json(_replica_state(peer_id))),
        sparse_tar.member("0/shard_config.json", _json({"type": "ReplicaSet"})),
        sparse_tar.member("version.info", VERSION_INFO),
        sparse_tar.member("config.json", _json(config)),
        sparse_tar.member("shard_key_mapping.json", b"[]"),
        sparse_tar.member("payload_index.json", _json({"schema": payload_index})),
    ]
    return b"".join(members) + sparse_tar.END_OF_ARCHIVE


def _make_shard(path: Path, config: dict[str, Any], payload_index: dict[str, Any], points: list[Point]) -> None:
    import qdrant_edge as edge

    params = config["params"]
    path.mkdir()
    shard = edge.EdgeShard.create(
        str(path), edge.EdgeConfig(vectors=_dense(params.get("vectors")), sparse_vectors=_sparse(params))
    )
    for name, schema in payload_index.items():
        kind = schema if isinstance(schema, str) else schema["type"]
        shard.update(edge.UpdateOperation.create_field_index(name, getattr(edge.PayloadSchemaType, kind.capitalize())))
    if points:
        shard.update(edge.UpdateOperation.upsert_points([_to_edge(point) for point in points]))
    shard.flush()
    shard.close()


def _dense(vectors: dict[str, Any] | None) -> Any:
    import qdrant_edge as edge

    def params(spec: dict[str, Any]) -> edge.EdgeVectorParams:
        return edge.EdgeVectorParams(size=spec["size"], distance=getattr(edge.Distance, spec["distance"]))

    if not vectors:
        return None
    return params(vectors) if "size" in vectors else {name: params(spec) for name, spec in vectors.items()}


def _sparse(params: dict[str, Any]) -> Any:
    import qdrant_edge as edge

    return {
        name: edge.EdgeSparseVectorParams(modifier=edge.Modifier.Idf if spec.get("modifier") == "idf" else None)
        for name, spec in (params.get("sparse_vectors") or {}).items()
    } or None


def _to_edge(point: Point) -> Any:
    import qdrant_edge as edge

    def one(vector: Any) -> Any:
        return edge.SparseVector(**vector) if isinstance(vector, dict) else vector

    vector = point["vector"]
    named = {name: one(part) for name, part in vector.items()} if isinstance(vector, dict) else vector
    return edge.Point(point["id"], named, point["payload"])


def _segment_members(shard: Path, mtime: int) -> list[bytes]:
    return [
        sparse_tar.member(f"0/segments/{segment.name}.tar", _segment_tar(segment, mtime))
        for segment in sorted(shard.glob("segments/*"))
    ]


def _segment_tar(segment: Path, mtime: int) -> bytes:
    files = [path for path in sorted(segment.rglob("*")) if path.is_file()]
    members = [
        sparse_tar.sparse_member(f"snapshot/files/{path.relative_to(segment).as_posix()}", path, mtime=mtime)
        for path in files
    ]
    return b"".join(members) + sparse_tar.END_OF_ARCHIVE


def _wal_members(shard: Path, mtime: int) -> list[bytes]:
    """The write-ahead log without `first-index`, as in the server's own snapshots."""
    return [
        sparse_tar.sparse_member(f"0/wal/{path.name}", path, mtime=mtime)
        for path in sorted(shard.glob("wal/*-*"))
        if path.name != "first-index"
    ]


def _replica_state(peer_id: int) -> dict[str, Any]:
    return {"is_local": True, "this_peer_id": peer_id, "peers": {str(peer_id): "Active"}}


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


@lru_cache(maxsize=64)
def _read(data: bytes) -> Content:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _unpack(data, folder)
        config = _member(folder, "config.json")
        local, missing = _shards(folder)
        empty = folder / "empty.tar"
        empty.write_bytes(bytes(10240))
        points = [point for shard in local for point in _shard_points(folder / str(shard), empty)]
        return Content(
            config=config,
            payload_index=_member(folder, "payload_index.json")["schema"],
            points=tuple(points),
            missing_shards=missing,
        )


def _unpack(data: bytes, folder: Path) -> None:
    """Member after member, so that the one where a cut archive ends is known. No bytes: an empty archive."""
    if not data:
        return
    name = ""
    try:
        with tarfile.open(fileobj=BytesIO(data), mode="r:") as archive:
            while info := archive.next():
                name = info.name
                unpack_one(archive, info, folder)
    except tarfile.TarError as error:
        if name:
            raise UnreadableError(f"File IO error: failed to unpack `TMP/{name}`") from error
        raise UnreadableError("File IO error: Malformed tar archive, reached unknown entry") from error


def _member(folder: Path, name: str) -> dict[str, Any]:
    try:
        return json.loads((folder / name).read_bytes())
    except FileNotFoundError as error:
        raise UnreadableError(
            f"File IO error: failed to open file `TMP/{name}`: No such file or directory (os error 2)"
        ) from error


def _shards(folder: Path) -> tuple[list[int], tuple[int, ...]]:
    """Numbers of the shards here, and of those elsewhere."""
    numbers = sorted(int(path.parent.name) for path in folder.glob("*/replica_state.json"))
    local = [number for number in numbers if (folder / str(number) / "segments").is_dir()]
    return local, tuple(number for number in numbers if number not in local)


def _shard_points(shard: Path, empty_tar: Path) -> list[Point]:
    """Unpacking an empty archive onto the shard makes the engine restore the segments lying there."""
    import qdrant_edge as edge

    try:
        edge.EdgeShard.unpack_snapshot(str(empty_tar), str(shard))
        opened = edge.EdgeShard.load(str(shard))
    except Exception as error:
        raise UnreadableError(str(error)) from error
    count = opened.count(edge.CountRequest(exact=True))
    records, _ = opened.scroll(edge.ScrollRequest(limit=count + 1, with_payload=True, with_vector=True))
    points = [_from_edge(record) for record in records]
    opened.close()
    return points


def _from_edge(record: Any) -> Point:
    number = record.id if isinstance(record.id, int) else str(record.id)
    return {"id": number, "vector": _plain_vector(record.vector), "payload": record.payload or {}}


def _plain_vector(vector: Any) -> Any:
    if isinstance(vector, dict):
        return {name: _plain_vector(part) for name, part in vector.items()}
    if isinstance(vector, list):
        return [shortest(part) for part in vector]
    return {"indices": list(vector.indices), "values": [shortest(value) for value in vector.values]}


def shortest(value: float) -> float:
    """The shortest decimal that is the same 32-bit float: how the server prints vectors."""
    single = struct.pack("<f", value)
    return next(short for digits in range(1, 18) if struct.pack("<f", short := float(f"{value:.{digits}g}")) == single)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
