"""Say why DocMind 2.0.1 would not take a backup directory for a recovery point.

Restated from what is known of DocMind's own check and of its index snapshots. It shares no code with
docmind_backup: each is the other's witness. Reads only; never follows a link.
"""

from __future__ import annotations

import hashlib
import json
import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any
from uuid import UUID

NAME = re.compile(r"backup_\d{8}_\d{6}(_[0-9a-f]{12})?")
INDEX_NAME = re.compile(r"\d{8}T\d{6}-[0-9a-f]{8}")
HEX64 = re.compile(r"[0-9a-f]{64}")
NEEDED = {"cache_db", "snapshots", "chat_db", "uploads", "deployment_identity", "qdrant_snapshots"}
DATABASES = {"cache_db", "chat_db"}
INDEX_MANIFESTS = {"manifest.jsonl", "manifest.meta.json", "manifest.checksum"}


@dataclass(frozen=True)
class Candidate:
    """A directory that might be a recovery point."""

    root: Path

    @cached_property
    def manifest(self) -> dict[str, Any]:
        return json.loads((self.root / "manifest.json").read_bytes())

    @cached_property
    def index(self) -> Path:
        """The active index snapshot, by the manifest's word for it."""
        return _inside(self.root / "data/storage", self.manifest["activation"]["snapshot"])

    @cached_property
    def index_meta(self) -> dict[str, Any]:
        return json.loads((self.index / "manifest.meta.json").read_bytes())


Condition = Callable[[Candidate], Iterator[str]]


def problems(backup: Path) -> list[str]:
    """Empty when it is accepted; else a line per problem, beginning with the name of the condition."""
    candidate = Candidate(backup)
    return [f"{name}: {problem}" for name, condition in CONDITIONS.items() for problem in _ask(condition, candidate)]


def _ask(condition: Condition, candidate: Candidate) -> list[str]:
    """What a manifest of another shape than expected, or a file that is not there, does to DocMind too."""
    try:
        return list(condition(candidate))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return [repr(error)]


# -- the manifest --------------------------------------------------------------------------------


def _name(it: Candidate) -> Iterator[str]:
    if not NAME.fullmatch(it.root.name):
        yield f"{it.root.name} is not the name of a backup"
    if it.root.is_symlink():
        yield "it is a link"


def _complete(it: Candidate) -> Iterator[str]:
    if it.manifest["complete"] is not True:
        yield "it does not say so"


def _warnings(it: Candidate) -> Iterator[str]:
    if it.manifest["warnings"] != []:
        yield f"{it.manifest['warnings']}"


def _created_at(it: Candidate) -> Iterator[str]:
    datetime.fromisoformat(it.manifest["created_at"])
    yield from ()


def _app_version(it: Candidate) -> Iterator[str]:
    version = it.manifest["app_version"]
    if not isinstance(version, str) or not version.strip():
        yield f"{version!r}"


def _included(it: Candidate) -> Iterator[str]:
    if lacking := NEEDED - set(it.manifest["included"]):
        yield f"without {sorted(lacking)}"


# -- the parts -----------------------------------------------------------------------------------


def _databases(it: Candidate) -> Iterator[str]:
    databases = it.manifest["databases"]
    if set(databases) != DATABASES:
        yield f"{sorted(databases)}"
    for label, described in databases.items():
        if set(described) != {"path", "size_bytes", "sha256"}:
            yield f"{label} is described by {sorted(described)}"
        yield from _differs(it.root, described["path"], described["size_bytes"], described["sha256"])


def _deployment(it: Candidate) -> Iterator[str]:
    path = it.root / "data/.deployment-id"
    text = path.read_text(encoding="ascii")
    identity = text.removesuffix("\n")
    if (
        not _is_regular(path)
        or text != f"{identity}\n"
        or str(UUID(identity)) != identity
        or UUID(identity).version != 4
    ):
        yield f"{text!r} is not a deployment id"
    if it.manifest["activation"]["deployment_id"] != identity:
        yield "it is not the one of the activation"
    if any(metadata["docmind_deployment_id"] != identity for metadata in it.index_meta["collection_metadata"].values()):
        yield "it is not the one of the collections"


def _uploads(it: Candidate) -> Iterator[str]:
    yield from _inventory_differs(it.root / "data/uploads", it.manifest["uploads"]["files"])


def _artifacts(it: Candidate) -> Iterator[str]:
    yield from _inventory_differs(it.root / "data/artifacts", it.manifest["artifacts"]["files"])


def _inventory_differs(root: Path, listed: list[dict[str, Any]]) -> Iterator[str]:
    names = [described["path"] for described in listed]
    if len(names) != len(set(names)):
        yield "a file is listed twice"
    yield from (f"{name} is not listed" for name in sorted(_below(root) - set(names)))
    for described in listed:
        yield from _differs(root, described["path"], described["size_bytes"], described["sha256"])


# -- the index snapshot --------------------------------------------------------------------------


def _current(it: Candidate) -> Iterator[str]:
    active = it.manifest["activation"]["snapshot"]
    if not INDEX_NAME.fullmatch(active):
        yield f"{active} is not the name of an index snapshot"
    if (it.root / "data/storage/CURRENT").read_text(encoding="utf-8") != f"{active}\n":
        yield f"CURRENT does not name {active}"


def _index_payload(it: Candidate) -> Iterator[str]:
    entries = _index_entries(it)
    listed = {entry["path"] for entry in entries}
    if [entry["path"] for entry in entries] != sorted(listed):
        yield "manifest.jsonl is not sorted, or lists a file twice"
    if it.index.is_symlink() or any(path.is_symlink() for path in it.index.rglob("*")):
        yield "there are links"
    yield from (f"{name} is not listed" for name in sorted(_below(it.index) - listed - INDEX_MANIFESTS))
    for entry in entries:
        yield from _differs(it.index, entry["path"], entry["size_bytes"], entry["sha256"])


def _index_checksum(it: Candidate) -> Iterator[str]:
    digest = hashlib.sha256()
    for entry in _index_entries(it):
        digest.update(json.dumps(entry, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode() + b"\n")
    digest.update(json.dumps(it.index_meta, sort_keys=True, ensure_ascii=False).encode())
    stated = json.loads((it.index / "manifest.checksum").read_bytes())
    if stated["manifest_sha256"] != digest.hexdigest():
        yield "manifest.checksum does not match"
    if stated["schema_version"] != "2.0":
        yield f"manifest.checksum has schema {stated['schema_version']}"


def _index_entries(it: Candidate) -> list[dict[str, Any]]:
    """Raises ValueError for a blank line."""
    return [json.loads(line) for line in (it.index / "manifest.jsonl").read_bytes().splitlines()]


def _index_meta(it: Candidate) -> Iterator[str]:
    meta = it.index_meta
    if meta["schema_version"] != "2.0":
        yield f"schema {meta['schema_version']}"
    if meta["complete"] is not True:
        yield "it is not complete"
    if meta["vector_store_type"] != "qdrant" or meta["graph_store_type"] not in {"none", "property_graph"}:
        yield "it is of no known kind"
    for hashed in ("corpus_hash", "config_hash"):
        if not HEX64.fullmatch(meta[hashed]):
            yield f"{hashed} is no hash"


def _corpus_hash(it: Candidate) -> Iterator[str]:
    uploads = it.root / "data/uploads"
    lines = [
        json.dumps([name, _sha256(uploads / name)], separators=(",", ":"), ensure_ascii=False)
        for name in sorted(_below(uploads))
    ]
    if hashlib.sha256("".join(lines).encode()).hexdigest() != it.index_meta["corpus_hash"]:
        yield "the uploads are not those that were indexed"


# -- Qdrant --------------------------------------------------------------------------------------


def _collections(it: Candidate) -> Iterator[str]:
    activated = it.manifest["activation"]["collections"]
    if activated != it.index_meta["collections"]:
        yield "the activation's are not the index snapshot's"
    if set(activated) != {"text", "image"} or activated["text"] == activated["image"]:
        yield f"{activated} is not a text and an image collection"


def _qdrant(it: Candidate) -> Iterator[str]:
    records = it.manifest["qdrant"]["collections"]
    if sorted(record["collection"] for record in records) != sorted(it.manifest["activation"]["collections"].values()):
        yield "there is not exactly one snapshot of each collection"
    for record in records:
        yield from _record_differs(it.root, record)


def _record_differs(root: Path, record: dict[str, Any]) -> Iterator[str]:
    where = PurePosixPath("qdrant", record["collection"], record["snapshot_name"])
    if len(where.parts) != 3 or record["filename"] != str(where):
        yield f"{record['filename']} is not where a snapshot of {record['collection']} lies"
    if type(record["point_count"]) is not int or record["point_count"] < 0:
        yield f"{record['collection']} has {record['point_count']!r} points"
    yield from _differs(root, record["filename"], record["size_bytes"], record["checksum"])


CONDITIONS: dict[str, Condition] = {
    "name": _name,
    "complete": _complete,
    "warnings": _warnings,
    "created_at": _created_at,
    "app_version": _app_version,
    "included": _included,
    "databases": _databases,
    "deployment": _deployment,
    "uploads": _uploads,
    "artifacts": _artifacts,
    "current": _current,
    "index payload": _index_payload,
    "index checksum": _index_checksum,
    "index meta": _index_meta,
    "corpus hash": _corpus_hash,
    "collections": _collections,
    "qdrant": _qdrant,
}


# -- files ---------------------------------------------------------------------------------------


def _differs(root: Path, name: str, size: int, sha256: str) -> Iterator[str]:
    """How the file below `root` is not what was said of it."""
    path = _inside(root, name)
    if not _is_regular(path):
        yield f"{name} is no regular file"
    elif path.stat().st_size != size:
        yield f"{name} has another size"
    elif _sha256(path) != sha256:
        yield f"{name} has another content"


def _inside(root: Path, name: str) -> Path:
    """Raises ValueError for a name that leads elsewhere, by `..`, from the top or through a link."""
    relative = PurePosixPath(name)
    if relative.is_absolute() or ".." in relative.parts or str(relative) != name or not relative.parts:
        raise ValueError(f"{name!r} is no plain relative path")
    path = root / relative
    if any((root / parent).is_symlink() for parent in relative.parents):
        raise ValueError(f"{name} lies behind a link")
    return path


def _below(root: Path) -> set[str]:
    """Everything below that is no folder; a link counts as a file."""
    found = (path for path in root.rglob("*") if path.is_symlink() or not path.is_dir())
    return {path.relative_to(root).as_posix() for path in found}


def _is_regular(path: Path) -> bool:
    return stat.S_ISREG(path.lstat().st_mode)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
