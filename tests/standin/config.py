"""A collection's config.json as Qdrant 1.18 fills it in, and how it is shown and compared. No I/O."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Json = dict[str, Any]

_HNSW: Json = {
    "m": 16,
    "ef_construct": 100,
    "full_scan_threshold": 10000,
    "max_indexing_threads": 0,
    "on_disk": False,
}
_OPTIMIZER: Json = {
    "deleted_threshold": 0.2,
    "vacuum_min_vector_number": 1000,
    "default_segment_number": 0,
    "max_segment_size": None,
    "memmap_threshold": None,
    "indexing_threshold": 10000,
    "flush_interval_sec": 5,
    "max_optimization_threads": None,
    "prevent_unoptimized": None,
}
_WAL: Json = {"wal_capacity_mb": 32, "wal_segments_ahead": 0, "wal_retain_closed": 1}


def from_request(body: Json) -> Json:
    """config.json for the body of PUT /collections/{c}."""
    return {
        "params": _params(body),
        "hnsw_config": _HNSW | _given(body, "hnsw_config"),
        "optimizer_config": _OPTIMIZER | _given(body, "optimizers_config"),
        "wal_config": _WAL | _given(body, "wal_config"),
        "quantization_config": body.get("quantization_config"),
        "uuid": None,
    } | ({"metadata": body["metadata"]} if body.get("metadata") else {})


def _params(body: Json) -> Json:
    params: Json = {
        "vectors": body.get("vectors") or {},
        "shard_number": body.get("shard_number") or 1,
        "sharding_method": body.get("sharding_method"),
        "replication_factor": body.get("replication_factor") or 1,
        "write_consistency_factor": body.get("write_consistency_factor") or 1,
        "on_disk_payload": body.get("on_disk_payload", True),
        "sparse_vectors": body.get("sparse_vectors"),
    }
    return {key: value for key, value in params.items() if value is not None}


def _given(body: Json, key: str) -> Json:
    return {name: value for name, value in (body.get(key) or {}).items() if value is not None}


def shown(config: Json) -> Json:
    """As in GET /collections/{c}."""
    return {key: value for key, value in config.items() if key != "uuid"}


def cosine_vectors(config: Json) -> set[str]:
    """Names of the dense vectors stored at unit length; "" is the unnamed one."""
    vectors = config["params"].get("vectors") or {}
    named = {"": vectors} if "size" in vectors else vectors
    return {name for name, spec in named.items() if spec["distance"] == "Cosine"}


def check_compatible(collection: Json, snapshot: Json, refused: Callable[[int, str], Exception]) -> None:
    """Only vectors and the number of shards are compared (recover.rs)."""
    ours, theirs = collection["params"], snapshot["params"]
    if ours.get("vectors") != theirs.get("vectors"):
        raise refused(
            400,
            "Wrong input: Snapshot is not compatible with existing collection: "
            f"Collection vectors: {_debug(ours['vectors'])} Snapshot Vectors: {_debug(theirs['vectors'])}",
        )
    if ours["shard_number"] != theirs["shard_number"]:
        raise refused(
            400,
            "Wrong input: Snapshot is not compatible with existing collection: "
            f"Collection shard number: {ours['shard_number']} "
            f"Snapshot shard number: {theirs['shard_number']}",
        )


def _debug(vectors: Json) -> str:
    """Rust's {:?} of VectorsConfig."""
    if "size" in vectors:
        return f"Single({_debug_params(vectors)})"
    return "Multi({" + ", ".join(f'"{name}": {_debug_params(spec)}' for name, spec in vectors.items()) + "})"


def _debug_params(spec: Json) -> str:
    return (
        f"VectorParams {{ size: {spec['size']}, distance: {spec['distance']}, hnsw_config: None, "
        "quantization_config: None, on_disk: None, datatype: None, multivector_config: None }"
    )
