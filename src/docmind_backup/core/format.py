"""Backups as bytes: record, inventory lines, SHA256SUMS lines, and back. Pure; fields: docs/manifest.md.

Everything read here may be damaged or hostile: a reader raises ValueError (FormatTooNew for a format number
above ours) and nothing else, and a path that could leave the backup is refused.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from docmind_backup.core.model import (
    FORMAT,
    ArtifactProof,
    CollectionRecord,
    CollectionState,
    Deep,
    DirEntry,
    Entry,
    FileEntry,
    Kind,
    Layout,
    LinkEntry,
    Omission,
    Origin,
    Part,
    Placement,
    QdrantRecord,
    Reason,
    Record,
    Round,
    Scope,
    Seal,
    Shrink,
    SourceRecord,
    Stored,
    Totals,
)
from docmind_backup.errors import FormatTooNew

RECORD = "backup.json"
INVENTORY = "inventory.jsonl"
MANIFEST = "manifest.json"
SUMS = "SHA256SUMS"
README = "README.md"
OWN_FILES = (RECORD, INVENTORY, MANIFEST, SUMS, README)
"""What a backup holds besides the files it keeps."""

TOOL = "docmind-backup"
ID = re.compile(r"\A\d{8}_\d{6}(?:_[0-9a-f]{12})?\Z")
"""A backup's id: DocMind's own shape, so also a plain file name."""
_LONE = re.compile(r"[\ud800-\udc7f\udd00-\udfff]")
"""Halves of a character that stand for no byte either: no name holds them, a forged text may."""
_NOT_PLAIN = frozenset(("", ".", ".."))
"""Steps that no plain relative path has; an absolute one starts with an empty step."""
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")
_PARTS = {part.value: part for part in Part}
_KINDS = {kind.value: kind for kind in Kind}
"""A look-up in a dict costs a tenth of a call of the enumeration: `list` makes 50 for each backup."""
LINE_LIMIT = 1 << 20
"""Bytes of one inventory line at most; names and targets are below 4 KiB each."""
MOST = 2**63 - 1
"""No count, size or sequence is above it: what reckons with them goes on in floats and in the system's own numbers."""
_MOMENTS = MOST * 10**9
"""Nanoseconds from the epoch, either way, that utimensat(2) takes."""
_OWNERS = 2**32
"""User and group ids are below (chown(2))."""
KNOWN_FEATURES: frozenset[str] = frozenset()
"""Values of `requires` this code understands."""

_AS_LINE = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
"""Made once: `json.dumps` makes one each time."""

Json = dict[str, Any]


# -- paths ---------------------------------------------------------------------------------------


def path_fields(path: str, key: str = "path") -> Json:
    """`path` for JSON: as it is when it is UTF-8, else readable, with its bytes in `<key>_b64` beside it."""
    try:
        path.encode()
    except UnicodeEncodeError:
        raw = path.encode(errors="surrogateescape")
        return {key: printable(path), f"{key}_b64": base64.b64encode(raw).decode()}
    return {key: path}


def printable(path: str) -> str:
    """`path` with all that is no printable character as escapes: for eyes, not for opening."""
    text = _LONE.sub(lambda one: f"\\u{ord(one[0]):04x}", path)
    text = text.encode(errors="surrogateescape").decode(errors="backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def read_path(data: Mapping[str, Any], key: str = "path") -> str:
    raw = data.get(f"{key}_b64")
    if raw is None:
        path = str(data[key])
        if not path.isascii():
            path.encode(errors="surrogateescape")
        return path
    return base64.b64decode(str(raw), validate=True).decode(errors="surrogateescape")


def contained(path: str) -> str:
    """`path`, when it is relative and cannot leave the backup; else ValueError."""
    if not path.isascii():
        path.encode(errors="surrogateescape")
    if "\0" in path or not _NOT_PLAIN.isdisjoint(path.split("/")):
        raise ValueError(f"path leaves the backup or is not plain: {printable(path)!r}")
    return path


# -- inventory.jsonl -----------------------------------------------------------------------------


def entry_line(entry: Entry) -> bytes:
    """One line of the inventory."""
    return json_line(_entry_fields(entry))


def json_line(fields: Mapping[str, Any]) -> bytes:
    return _AS_LINE(fields).encode() + b"\n"


def _entry_fields(entry: Entry) -> Json:
    match entry:
        case FileEntry():
            fields: Json = {
                **path_fields(entry.path),
                "type": "file",
                "size": entry.size,
                "sha256": entry.sha256,
                "mtime_ns": entry.mtime_ns,
                "mode": f"{entry.mode:04o}",
            }
            if entry.origin:
                fields["origin"] = _origin_fields(entry.origin)
            if entry.stored:
                fields["stored"] = [entry.stored.ino, entry.stored.mtime_ns]
        case LinkEntry():
            fields = {
                **path_fields(entry.path),
                "type": "link",
                **path_fields(entry.target, "target"),
                "mtime_ns": entry.mtime_ns,
            }
        case DirEntry():
            fields = {
                **path_fields(entry.path),
                "type": "directory",
                "mtime_ns": entry.mtime_ns,
                "mode": f"{entry.mode:04o}",
            }
    return {**fields, "uid": entry.uid, "gid": entry.gid}


def _origin_fields(origin: Origin) -> Json:
    fields: Json = {
        "dev": origin.dev,
        "ino": origin.ino,
        "size": origin.size,
        "mtime_ns": origin.mtime_ns,
        "ctime_ns": origin.ctime_ns,
    }
    return {**fields, "sidecars": dict(origin.sidecars)} if origin.sidecars else fields


FILE_LINE = re.compile(
    rb'\{"path":"(?:[^"\\\x00-\x1f]|\\.)+"(?:,"path_b64":"[A-Za-z0-9+/=]+")?,"type":"file","size":\d{1,19}'
    rb',"sha256":"[0-9a-f]{64}","mtime_ns":-?\d{1,20},"mode":"[0-7]{4}"'
    rb'(?:,"origin":\{"dev":\d{1,20},"ino":\d{1,20},"size":\d{1,19},"mtime_ns":-?\d{1,20},"ctime_ns":-?\d{1,20}'
    rb'(?:,"sidecars":\{(?:"[a-z.-]+":(?:null|\[\d{1,20},\d{1,20},-?\d{1,20},-?\d{1,20}\]),?)*\})?\})?'
    rb'(?:,"stored":\[\d{1,20},-?\d{1,20}\])?,"uid":\d{1,20},"gid":\d{1,20}\}\n'
)
"""A file's line as `entry_line` writes it, and nothing else: a tenth of the cost of `read_entry`."""


def read_entry(line: bytes) -> Entry:
    """The entry of one inventory line; ValueError when it is not one."""
    try:
        data = json.loads(line)
        path = contained(read_path(data))
        uid, gid = _owner(data.get("uid", 0)), _owner(data.get("gid", 0))
        match data["type"]:
            case "file":
                return FileEntry(
                    path,
                    size=count(data["size"]),
                    sha256=_digest(data["sha256"]),
                    mtime_ns=_moment(data["mtime_ns"]),
                    mode=_mode(data["mode"]),
                    origin=_read_origin(data.get("origin")),
                    uid=uid,
                    gid=gid,
                    stored=Stored(*map(int, data["stored"])) if "stored" in data else None,
                )
            case "link":
                return LinkEntry(path, read_path(data, "target"), _moment(data.get("mtime_ns", 0)), uid, gid)
            case "directory":
                return DirEntry(path, _moment(data["mtime_ns"]), _mode(data["mode"]), uid, gid)
            case unknown:
                raise ValueError(f"unknown type {unknown!r}")
    except (KeyError, TypeError, AttributeError, IndexError, RecursionError, OverflowError) as error:
        raise ValueError(f"not an inventory line: {type(error).__name__} {error}") from error


def file_fields(line: bytes) -> tuple[str, int, str] | None:
    """Path, size and sha256 of a line, unchecked, a quarter of the cost of `read_entry`; None: no file."""
    data = json.loads(line)
    return (read_path(data), data["size"], data["sha256"]) if data["type"] == "file" else None


def _read_origin(data: Any) -> Origin | None:
    if data is None:
        return None
    sidecars = {
        str(suffix): None if stat is None else (int(stat[0]), int(stat[1]), int(stat[2]), int(stat[3]))
        for suffix, stat in data.get("sidecars", {}).items()
    }
    return Origin(
        int(data["dev"]),
        int(data["ino"]),
        int(data["size"]),
        int(data["mtime_ns"]),
        int(data["ctime_ns"]),
        sidecars,
    )


def count(value: Any) -> int:
    """`value`, when it is a size, a number of things or a sequence; else ValueError."""
    if type(value) is not int or not 0 <= value <= MOST:
        raise ValueError(f"not a size: {_shown(value)}")
    return value


def _moment(value: Any) -> int:
    if not -_MOMENTS <= (moment := int(value)) <= _MOMENTS:
        raise ValueError(f"not a time of a file: {_shown(value)}")
    return moment


def _owner(value: Any) -> int:
    if not 0 <= (owner := int(value)) < _OWNERS:
        raise ValueError(f"not an owner: {_shown(value)}")
    return owner


def _shown(value: Any) -> str:
    return f"{value!r:.80}"


def _mode(value: Any) -> int:
    if not isinstance(value, str) or not 0 <= int(value, 8) <= 0o7777:
        raise ValueError(f"not permission bits: {_shown(value)}")
    return int(value, 8)


def _digest(value: Any) -> str:
    if not isinstance(value, str) or not _SHA256.match(value):
        raise ValueError(f"not a sha256: {_shown(value)}")
    return value


# -- SHA256SUMS ----------------------------------------------------------------------------------


def sums_line(path: str, sha256: str) -> bytes:
    """One line as GNU coreutils' `sha256sum` writes it: a name with `\\`, newline or CR is escaped."""
    raw = path.encode(errors="surrogateescape")
    escaped = raw.replace(b"\\", b"\\\\").replace(b"\n", b"\\n").replace(b"\r", b"\\r")
    return (b"\\" if escaped != raw else b"") + sha256.encode() + b"  " + escaped + b"\n"


def read_sums_line(line: bytes) -> tuple[str, str]:
    """`(path, sha256)` of one line of SHA256SUMS; ValueError when it is not one."""
    escaped = line.startswith(b"\\")
    digest, separator, raw = line.removeprefix(b"\\").rstrip(b"\n").partition(b"  ")
    if not separator:
        raise ValueError("not a line of sha256sum")
    if escaped:
        raw = _unescape(raw)
    path = contained(raw.decode(errors="surrogateescape"))
    return path, _digest(digest.decode(errors="replace"))


def _unescape(raw: bytes) -> bytes:
    marks = {b"\\\\": b"\\", b"\\n": b"\n", b"\\r": b"\r"}
    out, i = bytearray(), 0
    while i < len(raw):
        pair = raw[i : i + 2]
        out += marks.get(pair, raw[i : i + 1])
        i += 2 if pair in marks else 1
    return bytes(out)


# -- backup.json ---------------------------------------------------------------------------------


def record_bytes(record: Record) -> bytes:
    """`backup.json`: the record with its own sha256 over the rest of it."""
    text = json.dumps(record_document(record), indent=2, ensure_ascii=False)
    return (text + "\n").encode(errors="backslashreplace")


def record_document(record: Record) -> Json:
    """The record as a JSON document, self digest included."""
    fields = _record_fields(record)
    return {**fields, "record_sha256": _self_digest(fields)}


def record_digest(raw: bytes) -> str:
    """The self digest a record's bytes carry, for seals; empty when they carry none."""
    try:
        return str(json.loads(raw).get("record_sha256", ""))
    except (ValueError, AttributeError, RecursionError):
        return ""


def as_written(raw: bytes) -> bool:
    """Whether a record's bytes are those `record_bytes` writes: no space, escape, order or byte order mark differs."""
    try:
        text = json.dumps(json.loads(raw), indent=2, ensure_ascii=False)
        return raw == (text + "\n").encode(errors="backslashreplace")
    except (ValueError, RecursionError):
        return False


def _self_digest(fields: Mapping[str, Any]) -> str:
    canonical = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _record_fields(record: Record) -> Json:
    fields = _fields_of_all(record)
    return {**fields, "artifact_proof": proof_fields(record.artifact_proof)} if record.artifact_proof else fields


def _fields_of_all(record: Record) -> Json:
    """Those that every record has."""
    return {
        "format": record.format,
        "requires": list(record.requires),
        "tool": {"name": TOOL, "version": record.tool_version},
        "id": record.id,
        "sequence": record.sequence,
        "started_at": record.started_at.isoformat(),
        "finished_at": record.finished_at.isoformat(),
        "host": record.host,
        "layout": record.layout,
        "project": printable(record.project),
        "scope": _scope_fields(record.scope),
        "completeness": "complete" if record.complete else "incomplete",
        "included": list(record.included),
        "omissions": [_omission_fields(o) for o in record.omissions],
        "notes": list(record.notes),
        "shrinks": [{"part": s.part, "what": s.what, "before": s.before, "now": s.now} for s in record.shrinks],
        "shrink_accepted": record.shrink_accepted,
        "absent_accepted": list(record.absent_accepted),
        "docmind": {"eligible": not record.ineligible, "reasons": list(record.ineligible)},
        "totals": _totals_fields(record.totals),
        "sources": [_source_fields(s) for s in record.sources],
        "index_snapshots": [dict(s) for s in record.index_snapshots],
        "qdrant": _qdrant_fields(record.qdrant) if record.qdrant else None,
        "key_fingerprints": dict(record.key_fingerprints),
        "digests": dict(record.digests),
    }


def proof_fields(proof: ArtifactProof) -> Json:
    return {
        "index_snapshot": proof.index_snapshot,
        "collection": proof.collection,
        "points": proof.points,
        "references": proof.references,
        "broken": proof.broken,
        "examples": list(proof.examples),
        "names": proof.names,
        "artifacts": proof.artifacts,
        "proved_by": proof.proved_by,
        "accepted": proof.accepted,
    }


def _scope_fields(scope: Scope) -> Json:
    return {
        **path_fields(scope.data_dir, "data_dir"),
        "deployment_id": scope.deployment_id,
        "parts": sorted(scope.parts),
        "collections": sorted(scope.collections),
    }


def _omission_fields(omission: Omission) -> Json:
    return {
        "part": omission.part,
        "source": omission.source,
        "reason": omission.reason,
        "detail": omission.detail,
        "rebuildable": omission.rebuildable,
    }


def _totals_fields(totals: Totals) -> Json:
    return {
        "files": totals.files,
        "bytes": totals.bytes,
        "links": totals.links,
        "directories": totals.directories,
        "own_bytes": totals.own_bytes,
    }


def _source_fields(source: SourceRecord) -> Json:
    return {
        "part": source.part,
        "stored": source.stored,
        "origin": printable(source.origin),
        "kind": source.kind,
        "totals": _totals_fields(source.totals),
        "lines": list(source.lines),
    }


def _qdrant_fields(qdrant: QdrantRecord) -> Json:
    return {
        "url": qdrant.url,
        "version": qdrant.version,
        "embedded": qdrant.embedded,
        "collections": [_collection_fields(c) for c in qdrant.collections],
    }


def _collection_fields(taken: CollectionRecord) -> Json:
    state, placement = taken.state, taken.state.placement
    fields: Json = {
        "name": taken.name,
        "role": taken.role,
        "taken_at": taken.taken_at,
        "points": {
            "min": taken.points_min,
            "max": taken.points_max,
            "exact": taken.points_min == taken.points_max,
        },
        "path": taken.path,
        "snapshot_name": taken.snapshot_name,
        "size": taken.size,
        "sha256": taken.sha256,
        "server_checksum": taken.server_checksum,
        "vectors": dict(state.vectors),
        "sparse_vectors": dict(state.sparse_vectors),
        "payload_schema": dict(state.payload_schema),
        "metadata": dict(state.metadata),
        "aliases": list(state.aliases),
        "shards": state.shards,
        "sharding": state.sharding,
        "config": dict(state.config),
    }
    return {**fields, "placement": _placement_fields(placement)} if placement else fields


def _placement_fields(placement: Placement) -> Json:
    return {"local": list(placement.local), "remote": list(placement.remote), "keys": list(placement.keys)}


def read_record(raw: bytes) -> Record:
    """The record in `raw`. Raises FormatTooNew above our format, ValueError when it is damaged."""
    return read_record_and_digest(raw)[0]


def read_record_and_digest(raw: bytes) -> tuple[Record, str]:
    """As `read_record`, with the self digest that the record was just found to match."""
    try:
        data = json.loads(raw)
        if not isinstance(data, dict):
            raise TypeError("not an object")
        stated = data.pop("record_sha256", "")
        if int(data.get("format", 0)) > FORMAT and not _was_ours(data, stated):
            raise _too_new(f"format {_shown(data['format'])}")
        if stated != _self_digest(data):
            raise ValueError("the record does not match its own sha256")
        if unknown := set(data["requires"]) - KNOWN_FEATURES:
            raise _too_new(", ".join(sorted(map(str, unknown))))
        return _record(data), stated
    except (KeyError, TypeError, AttributeError, IndexError, RecursionError, OverflowError) as error:
        raise ValueError(f"not a record: {type(error).__name__} {error}") from error


def brief_fields(record: Record, digest: str) -> Json:
    """The record as `list` and `prune` need it: a tenth of its document; `read_brief` reads it."""
    qdrant = record.qdrant
    if qdrant:
        qdrant = replace(qdrant, collections=tuple(map(_brief_collection, qdrant.collections)))
    nothing: Json = {
        "sources": (),
        "index_snapshots": (),
        "artifact_proof": None,
        "key_fingerprints": {},
        "digests": {},
    }
    return {**_record_fields(replace(record, qdrant=qdrant, **nothing)), "record_sha256": digest}


def _brief_collection(taken: CollectionRecord) -> CollectionRecord:
    return replace(taken, state=CollectionState(taken.name, taken.role, points=taken.state.points))


def read_brief(fields: Mapping[str, Any]) -> tuple[Record, str]:
    """The brief record, and the self digest of the whole one; ValueError when it is none."""
    try:
        return _record(fields), str(fields["record_sha256"])
    except (KeyError, TypeError, AttributeError, IndexError, OverflowError) as error:
        raise ValueError(f"not a record: {type(error).__name__} {error}") from error


def _was_ours(data: Mapping[str, Any], stated: object) -> bool:
    """Only the format number rotted: with a number of ours, the record matches its sha256."""
    return any(stated == _self_digest({**data, "format": number}) for number in range(1, FORMAT + 1))


def _too_new(what: str) -> FormatTooNew:
    return FormatTooNew(f"{what} is newer than this version of {TOOL} knows", hint=f"upgrade {TOOL}")


def _record(data: Mapping[str, Any]) -> Record:
    return Record(
        id=_id(data["id"]),
        sequence=count(data["sequence"]),
        started_at=_time(data["started_at"]),
        finished_at=_time(data["finished_at"]),
        host=str(data["host"]),
        tool_version=str(data["tool"]["version"]),
        scope=_read_scope(data["scope"]),
        layout=Layout(data["layout"]),
        project=str(data["project"]),
        included=tuple(_PARTS[part] for part in data["included"]),
        totals=_read_totals(data["totals"]),
        sources=tuple(_read_source(s) for s in data["sources"]),
        omissions=tuple(_read_omission(o) for o in data["omissions"]),
        notes=tuple(map(str, data["notes"])),
        shrinks=tuple(
            Shrink(Part(s["part"]), str(s["what"]), count(s["before"]), count(s["now"])) for s in data["shrinks"]
        ),
        shrink_accepted=bool(data["shrink_accepted"]),
        absent_accepted=tuple(map(str, data["absent_accepted"])),
        ineligible=tuple(map(str, data["docmind"]["reasons"])),
        index_snapshots=tuple(map(_read_index_snapshot, data["index_snapshots"])),
        qdrant=_read_qdrant(data["qdrant"]) if data["qdrant"] else None,
        artifact_proof=_read_proof(data["artifact_proof"]) if data.get("artifact_proof") else None,
        key_fingerprints={str(k): str(v) for k, v in data["key_fingerprints"].items()},
        digests={str(k): _digest(v) for k, v in data["digests"].items()},
        format=int(data["format"]),
        requires=tuple(map(str, data["requires"])),
    )


def _id(value: Any) -> str:
    if not isinstance(value, str) or not ID.match(value):
        raise ValueError(f"not the id of a backup: {_shown(value)}")
    return value


def _time(text: str) -> datetime:
    time = moment(text)
    if time.tzinfo is None:
        raise ValueError(f"a time without zone: {text}")
    return time


def moment(text: str) -> datetime:
    """A time as ISO 8601 has it, with or without its zone; ValueError for one that no clock shows."""
    time = datetime.fromisoformat(text)
    if not 1970 <= time.year < 9999:
        raise ValueError(f"a time that no clock shows: {text}")
    return time


def _read_scope(data: Mapping[str, Any]) -> Scope:
    return Scope(
        read_path(data, "data_dir"),
        str(data["deployment_id"]),
        frozenset([_PARTS[part] for part in data["parts"]]),
        frozenset(map(str, data["collections"])),
    )


def _read_omission(data: Mapping[str, Any]) -> Omission:
    return Omission(
        Part(data["part"]),
        str(data["source"]),
        Reason(data["reason"]),
        str(data["detail"]),
        bool(data["rebuildable"]),
    )


def _read_totals(data: Mapping[str, Any]) -> Totals:
    return Totals(
        count(data["files"]),
        count(data["bytes"]),
        count(data["links"]),
        count(data["directories"]),
        count(data["own_bytes"]),
    )


def _read_source(data: Mapping[str, Any]) -> SourceRecord:
    return SourceRecord(
        _PARTS[data["part"]],
        contained(str(data["stored"])),
        str(data["origin"]),
        _KINDS[data["kind"]],
        _read_totals(data["totals"]),
        (count(data["lines"][0]), count(data["lines"][1])),
    )


def _read_index_snapshot(data: Mapping[str, Any]) -> Json:
    """As it is, when it has what is asked of it."""
    name = data["name"]
    if not isinstance(name, str) or "/" in contained(name) or type(data["active"]) is not bool:
        raise ValueError(f"not an index snapshot: {_shown(data)}")
    return {**data, "collections": {str(role): str(name) for role, name in data["collections"].items()}}


def _read_qdrant(data: Mapping[str, Any]) -> QdrantRecord:
    return QdrantRecord(
        str(data["url"]),
        str(data["version"]),
        bool(data["embedded"]),
        tuple(_read_collection(c) for c in data["collections"]),
    )


def _read_proof(data: Mapping[str, Any]) -> ArtifactProof:
    return ArtifactProof(
        index_snapshot=str(data["index_snapshot"]),
        collection=str(data["collection"]),
        points=count(data["points"]),
        references=count(data["references"]),
        broken=count(data["broken"]),
        examples=tuple(map(str, data["examples"])),
        names=str(data["names"]),
        artifacts=_digest(data["artifacts"]),
        proved_by=_id(data["proved_by"]),
        accepted=data["accepted"] is True,
    )


def _read_placement(data: Mapping[str, Any]) -> Placement:
    local, remote = (tuple(map(count, data[key])) for key in ("local", "remote"))
    return Placement(local, remote, tuple(map(str, data["keys"])))


def _read_collection(data: Mapping[str, Any]) -> CollectionRecord:
    name, role = str(data["name"]), str(data["role"])
    return CollectionRecord(
        name=name,
        role=role,
        taken_at=str(data["taken_at"]),
        points_min=count(data["points"]["min"]),
        points_max=count(data["points"]["max"]),
        path=contained(str(data["path"])),
        size=count(data["size"]),
        sha256=_digest(data["sha256"]),
        snapshot_name=str(data["snapshot_name"]),
        server_checksum=str(data["server_checksum"]),
        state=CollectionState(
            name,
            role,
            points=count(data["points"]["max"]),
            vectors=dict(data["vectors"]),
            sparse_vectors=dict(data["sparse_vectors"]),
            payload_schema=dict(data["payload_schema"]),
            metadata=dict(data["metadata"]),
            aliases=tuple(map(str, data["aliases"])),
            shards=count(data["shards"]),
            sharding=str(data["sharding"]),
            config=dict(data["config"]),
            placement=_read_placement(data["placement"]) if data.get("placement") else None,
        ),
    )


# -- seals ---------------------------------------------------------------------------------------


def seal_bytes(seal: Seal) -> bytes:
    fields = {
        "record_sha256": seal.record_sha256,
        "verified_at": seal.verified_at.isoformat() if seal.verified_at else None,
        "level": seal.level,
        "intact": seal.intact,
        "fingerprint": seal.fingerprint,
        "round": _round_fields(seal.round) if seal.round else None,
        "deep": _deep_fields(seal.deep) if seal.deep else None,
        "rehearsed_at": seal.rehearsed_at.isoformat() if seal.rehearsed_at else None,
        "unread_at": seal.unread_at.isoformat() if seal.unread_at else None,
    }
    return (json.dumps(fields, sort_keys=True) + "\n").encode()


def _round_fields(under_way: Round) -> Json:
    return {
        "started_at": under_way.started_at.isoformat(),
        "files": under_way.files,
        "bytes": under_way.bytes,
        "fingerprint": under_way.fingerprint,
    }


def _deep_fields(deep: Deep) -> Json:
    return {
        "proved_at": deep.proved_at.isoformat(),
        "collections": {
            name: {"points": points, "digest": digest} for name, (points, digest) in deep.collections.items()
        },
    }


def read_seal(raw: bytes) -> Seal:
    """ValueError when it is not one; a seal is a memory, losing one costs a new verification."""
    try:
        data = json.loads(raw)
        return Seal(
            str(data["record_sha256"]),
            _time(data["verified_at"]) if data["verified_at"] is not None else None,
            str(data["level"]),
            data["intact"] is True,
            str(data.get("fingerprint", "")),
            _read_round(data["round"]) if data.get("round") is not None else None,
            _read_deep(data["deep"]) if data.get("deep") is not None else None,
            _time(data["rehearsed_at"]) if data.get("rehearsed_at") is not None else None,
            _time(data["unread_at"]) if data.get("unread_at") is not None else None,
        )
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError("not a seal") from error


def _read_deep(data: Mapping[str, Any]) -> Deep:
    collections = {str(n): (count(c["points"]), str(c["digest"])) for n, c in data["collections"].items()}
    return Deep(_time(data["proved_at"]), collections)


def _read_round(data: Mapping[str, Any]) -> Round:
    return Round(_time(data["started_at"]), count(data["files"]), count(data["bytes"]), str(data["fingerprint"]))
