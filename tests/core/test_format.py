"""Format 1: what is written is read back the same, sha256sum agrees, and nothing hostile gets past a reader."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from docmind_backup.core import format as fmt
from docmind_backup.core.model import (
    ArtifactProof,
    CollectionRecord,
    CollectionState,
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
    Scope,
    Seal,
    Shrink,
    SourceRecord,
    Stored,
    Totals,
)
from docmind_backup.errors import FormatTooNew

GOLDEN = Path(__file__).parent.parent / "golden" / "format1"
"""Written by the first version that had format 1. Never written again: HEAD has to read it."""
START = datetime(2026, 11, 21, 2, 30, 0, 123456, tzinfo=UTC)

ENTRIES: tuple[Entry, ...] = (
    DirEntry("data/uploads", mtime_ns=1_700_000_000_000_000_001, mode=0o2775, uid=1000, gid=1001),
    FileEntry(
        "data/uploads/plain.pdf",
        size=7,
        sha256=hashlib.sha256(b"content").hexdigest(),
        mtime_ns=1_600_000_000_123_456_789,
        mode=0o640,
        uid=1000,
        gid=1001,
        origin=Origin(2049, 17, 7, 1_600_000_000_123_456_789, 1_700_000_000_000_000_000),
        stored=Stored(99, 1_600_000_000_123_456_789),
    ),
    FileEntry(
        "data/uploads/line\nfeed \\ back\r.pdf", size=0, sha256=hashlib.sha256().hexdigest(), mtime_ns=-1, mode=0
    ),
    FileEntry(os.fsdecode(b"data/uploads/r\xe9sum\xe9.pdf"), 0, hashlib.sha256().hexdigest(), mtime_ns=0, mode=0o400),
    FileEntry("data/uploads/\u202eübung \U0001f600.pdf", 0, hashlib.sha256().hexdigest(), mtime_ns=0, mode=0o4755),
    LinkEntry("data/uploads/link", os.fsdecode(b"../els\xffewhere/"), mtime_ns=5, uid=1000, gid=1000),
    FileEntry(
        "cache/docmind.duckdb",
        size=7,
        sha256=hashlib.sha256(b"content").hexdigest(),
        mtime_ns=1,
        mode=0o600,
        origin=Origin(2049, 18, 7, 1, 2, sidecars={".wal": None, ".lock": (1, 2, 3, 4)}),
        stored=Stored(100, 1),
    ),
)
STATE = CollectionState(
    "docs__1",
    "text",
    points=25,
    vectors={"text-dense": {"size": 8, "distance": "Cosine"}},
    sparse_vectors={"text-sparse": {"modifier": "idf"}},
    payload_schema={"doc_id": {"data_type": "keyword", "points": 25}},
    metadata={"docmind_deployment_id": "d1", "ratio": 1e-05, "none": None},
    aliases=("docs",),
    shards=2,
    config={"params": {"shard_number": 2}},
)
RECORD = Record(
    id="20261121_023000_a1b2c3d4e5f6",
    sequence=17,
    started_at=START,
    finished_at=START + timedelta(seconds=3),
    host="lab",
    tool_version="0.1.0",
    scope=Scope(
        "/srv/doc mind/data",
        "7295b7ce-9917-45d7-9749-7bd9ce6723cc",
        frozenset({Part.UPLOADS, Part.CACHE, Part.QDRANT, Part.CHAT}),
        frozenset({"role:text", "name:übung"}),
    ),
    layout=Layout.V2,
    project="/srv/doc mind",
    included=(Part.CACHE, Part.UPLOADS, Part.QDRANT),
    totals=Totals(files=6, bytes=21, links=1, directories=1, own_bytes=21),
    sources=(
        SourceRecord(
            Part.UPLOADS, "data/uploads", "/srv/doc mind/data/uploads", Kind.TREE, Totals(4, 7, 1, 1, 7), (0, 9)
        ),
        SourceRecord(Part.CACHE, "cache/docmind.duckdb", "/srv/cache", Kind.DUCKDB, Totals(1, 7, 0, 0, 7), (9, 4)),
    ),
    omissions=(
        Omission(Part.CHAT, "data/chat.db", Reason.DAMAGED, "file is not a database"),
        Omission(Part.CACHE, "cache", Reason.BUSY, "recoverable, cold cache", rebuildable=True),
    ),
    notes=("a bell \x07 and a byte \udce9", "a link leads elsewhere"),
    shrinks=(Shrink(Part.UPLOADS, "files", 412, 3),),
    shrink_accepted=True,
    absent_accepted=("data/analytics", "image"),
    ineligible=("it is incomplete",),
    index_snapshots=(
        {
            "name": "20260718T052755-0a1b2c3d",
            "active": True,
            "schema_version": "2.0",
            "collections": {"text": "docs__1"},
            "collections_captured": True,
        },
    ),
    qdrant=QdrantRecord(
        "http://127.0.0.1:6333",
        "1.18.3",
        False,
        (
            CollectionRecord(
                "docs__1",
                "text",
                "2026-11-21T02:30:01+00:00",
                points_min=24,
                points_max=25,
                path="qdrant/docs__1/docs__1-1-2026.snapshot",
                size=7,
                sha256=hashlib.sha256(b"content").hexdigest(),
                snapshot_name="docs__1-1-2026.snapshot",
                server_checksum=hashlib.sha256(b"content").hexdigest(),
                state=STATE,
            ),
        ),
    ),
    key_fingerprints={"kdf": "scrypt n=8192 r=8 p=1", "salt": "00", "image_key": "ab", "image_key_id": "k1"},
)


def golden_files() -> dict[str, bytes]:
    """The three files as this version writes them."""
    inventory = b"".join(map(fmt.entry_line, ENTRIES))
    files = [e for e in ENTRIES if isinstance(e, FileEntry)]
    own = {"inventory.jsonl": hashlib.sha256(inventory).hexdigest(), "manifest.json": "1" * 64, "README.md": "2" * 64}
    sums = b"".join(fmt.sums_line(path, sha) for path, sha in [*((e.path, e.sha256) for e in files), *own.items()])
    digests = {**own, "SHA256SUMS": hashlib.sha256(sums).hexdigest()}
    record = fmt.record_bytes(replace(RECORD, digests=digests))
    return {"backup.json": record, "inventory.jsonl": inventory, "SHA256SUMS": sums}


# -- what the first version wrote ----------------------------------------------------------------


def test_the_golden_record_is_read_as_what_was_meant() -> None:
    read = fmt.read_record((GOLDEN / "backup.json").read_bytes())

    assert replace(read, digests={}) == RECORD
    assert fmt.as_written((GOLDEN / "backup.json").read_bytes())


def test_the_golden_inventory_is_read_as_what_was_meant() -> None:
    lines = (GOLDEN / "inventory.jsonl").read_bytes().splitlines(keepends=True)

    assert tuple(map(fmt.read_entry, lines)) == ENTRIES


def test_the_golden_sums_are_read_as_what_was_meant() -> None:
    read = dict(map(fmt.read_sums_line, (GOLDEN / "SHA256SUMS").read_bytes().splitlines(keepends=True)))

    assert {path: sha for path, sha in read.items() if "/" in path} == {
        e.path: e.sha256 for e in ENTRIES if isinstance(e, FileEntry)
    }


def test_the_golden_files_have_the_digests_that_their_record_says() -> None:
    digests = fmt.read_record((GOLDEN / "backup.json").read_bytes()).digests

    for name in ("inventory.jsonl", "SHA256SUMS"):
        assert hashlib.sha256((GOLDEN / name).read_bytes()).hexdigest() == digests[name]


def test_this_version_still_writes_format_1_byte_for_byte() -> None:
    """When a field is added on purpose: keep the golden files, and drop this test for one of the new field."""
    assert {name: (GOLDEN / name).read_bytes() for name in golden_files()} == golden_files()


# -- round trips ---------------------------------------------------------------------------------

counts = st.integers(0, 2**63 - 1)
owners = st.integers(0, 2**32 - 1)
times_ns = st.integers(-(2**63), 2**63)
digests = st.binary(min_size=32, max_size=32).map(bytes.hex)
names = (
    st.binary(min_size=1, max_size=20)
    .map(os.fsdecode)
    .filter(lambda n: not set(n) & {"/", "\0"} and n not in (".", ".."))
)
paths = st.lists(names, min_size=1, max_size=4).map("/".join)
stats = st.tuples(counts, counts, counts, counts)
origins = st.builds(
    Origin,
    counts,
    counts,
    counts,
    times_ns,
    times_ns,
    st.dictionaries(st.sampled_from(["-wal", ".wal"]), st.none() | stats),
)
entries: st.SearchStrategy[Entry] = st.one_of(
    st.builds(
        FileEntry,
        paths,
        size=counts,
        sha256=digests,
        mtime_ns=times_ns,
        mode=st.integers(0, 0o7777),
        uid=owners,
        gid=owners,
        origin=st.none() | origins,
        stored=st.none() | st.builds(Stored, counts, times_ns),
    ),
    st.builds(LinkEntry, paths, names, times_ns, owners, owners),
    st.builds(DirEntry, paths, times_ns, st.integers(0, 0o7777), owners, owners),
)


@given(entries)
def test_an_entry_is_read_back_as_it_was_written_from_a_line_of_utf8(entry: Entry) -> None:
    line = fmt.entry_line(entry)

    assert fmt.read_entry(line) == entry
    assert line.count(b"\n") == 1
    line.decode()
    assert isinstance(json.loads(line)["path"], str)


@given(paths, digests)
@example("a\\nb", "0" * 64)
@example("\\", "0" * 64)
@example("a\r\nb\\", "0" * 64)
def test_a_line_of_sums_is_read_back_as_it_was_written(path: str, sha256: str) -> None:
    line = fmt.sums_line(path, sha256)

    assert fmt.read_sums_line(line) == (path, sha256)
    assert line.count(b"\n") == 1


ODD = [
    b"plain",
    b"two  spaces",
    b" leading",
    b"trailing ",
    b"back\\slash",
    b"line\nfeed",
    b"carriage\rreturn",
    b"\\",
    b"\\n",
    b"\n",
    b"tab\tand bell\x07",
    b"r\xe9sum\xe9",
    b"\xff\xfe",
    b"*star",
    b"-dash",
    "übung \U0001f600".encode(),
    b"a" * 255,
]


def test_sums_lines_are_those_of_sha256sum_and_pass_its_check(tmp_path: Path) -> None:
    for name in ODD:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).write_bytes(b"of " + name)
    names = [os.fsdecode(name) for name in ODD]
    lines = [fmt.sums_line(name, hashlib.sha256(b"of " + os.fsencode(name)).hexdigest()) for name in names]

    theirs = subprocess.run(["sha256sum", "--", *ODD], cwd=tmp_path, capture_output=True, check=True).stdout

    assert theirs.splitlines(keepends=True) == lines
    assert [fmt.read_sums_line(line)[0] for line in theirs.splitlines(keepends=True)] == names
    (tmp_path / "SUMS").write_bytes(b"".join(fmt.sums_line(*fmt.read_sums_line(line)) for line in lines))
    checked = subprocess.run(["sha256sum", "--strict", "-c", "SUMS"], cwd=tmp_path, capture_output=True, check=False)
    assert checked.returncode == 0, checked.stderr


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
documents = st.dictionaries(st.text(max_size=5), json_values, max_size=3)
texts = st.text(max_size=9) | names
zones = st.builds(lambda minutes: timezone(timedelta(minutes=minutes)), st.integers(-23 * 60, 23 * 60))
moments = st.datetimes(datetime(1970, 1, 2), datetime(9998, 12, 30), timezones=zones)
parts = st.sampled_from(list(Part))
shards = st.lists(counts, max_size=3).map(tuple)
totals = st.builds(Totals, counts, counts, counts, counts, counts)
collections = st.builds(
    lambda record, state: replace(
        record, state=replace(state, name=record.name, role=record.role, points=record.points_max, exists=True)
    ),
    st.builds(
        CollectionRecord,
        name=st.text(max_size=9),
        role=st.text(max_size=9),
        taken_at=st.text(max_size=9),
        points_min=counts,
        points_max=counts,
        path=paths,
        size=counts,
        sha256=digests,
        snapshot_name=texts,
        server_checksum=texts,
    ),
    st.builds(
        CollectionState,
        st.just(""),
        st.just(""),
        vectors=documents,
        sparse_vectors=documents,
        payload_schema=documents,
        metadata=documents,
        aliases=st.lists(st.text(max_size=9), max_size=3).map(tuple),
        shards=st.integers(0, 99),
        sharding=st.text(max_size=9),
        config=documents,
        placement=st.none()
        | st.builds(Placement, shards, shards, st.lists(st.text(max_size=9), max_size=2).map(tuple)),
    ),
)
ids = st.from_regex(r"[0-9]{8}_[0-9]{6}(_[0-9a-f]{12})?", fullmatch=True)
proofs = st.builds(
    ArtifactProof,
    texts,
    texts,
    counts,
    counts,
    counts,
    examples=st.lists(texts, max_size=3).map(tuple),
    names=st.text(max_size=9),
    artifacts=digests,
    proved_by=ids,
    accepted=st.booleans(),
)
index_snapshots = st.builds(
    lambda more, name, active, named: {**more, "name": name, "active": active, "collections": named},
    documents,
    names,
    st.booleans(),
    st.dictionaries(st.text(max_size=5), st.text(max_size=9), max_size=2),
)
records = st.builds(
    Record,
    id=ids,
    sequence=counts,
    started_at=moments,
    finished_at=moments,
    host=texts,
    tool_version=texts,
    scope=st.builds(Scope, names.map(lambda n: f"/{n}"), texts, st.frozensets(parts), st.frozensets(texts)),
    layout=st.sampled_from(list(Layout)),
    project=st.just("/srv"),
    included=st.lists(parts).map(tuple),
    totals=totals,
    sources=st.lists(
        st.builds(
            SourceRecord, parts, paths, st.just("/o"), st.sampled_from(list(Kind)), totals, st.tuples(counts, counts)
        ),
        max_size=3,
    ).map(tuple),
    omissions=st.lists(
        st.builds(Omission, parts, texts, st.sampled_from(list(Reason)), texts, st.booleans()), max_size=3
    ).map(tuple),
    notes=st.lists(texts, max_size=3).map(tuple),
    shrinks=st.lists(st.builds(Shrink, parts, texts, counts, counts), max_size=3).map(tuple),
    shrink_accepted=st.booleans(),
    absent_accepted=st.lists(texts, max_size=3).map(tuple),
    ineligible=st.lists(texts, max_size=3).map(tuple),
    index_snapshots=st.lists(index_snapshots, max_size=2).map(tuple),
    qdrant=st.none()
    | st.builds(QdrantRecord, texts, texts, st.booleans(), st.lists(collections, max_size=2).map(tuple)),
    artifact_proof=st.none() | proofs,
    key_fingerprints=st.dictionaries(texts, texts, max_size=3),
    digests=st.dictionaries(st.sampled_from(fmt.OWN_FILES), digests),
)


@settings(max_examples=60, deadline=None)
@given(records)
def test_a_record_is_read_back_as_it_was_written(record: Record) -> None:
    raw = fmt.record_bytes(record)

    assert fmt.read_record(raw) == record
    assert fmt.as_written(raw)
    assert fmt.record_digest(raw) == json.loads(raw)["record_sha256"]
    raw.decode()


@given(st.builds(Seal, digests, moments, st.sampled_from(["full", "quick"]), st.booleans()))
def test_a_seal_is_read_back_as_it_was_written(seal: Seal) -> None:
    assert fmt.read_seal(fmt.seal_bytes(seal)) == seal


@given(names | st.text(st.characters()))
@example("a\ud800b\udc80c\udd00")
def test_what_is_printed_is_one_line_of_printable_characters(name: str) -> None:
    assert fmt.printable(name).isprintable()


def test_what_is_no_character_is_printed_as_its_number_and_a_byte_of_a_name_as_that() -> None:
    assert fmt.printable("a\ud800b\udc80c\udd00") == "a\\ud800b\\x80c\\udd00"
    assert fmt.printable(os.fsdecode("é\n".encode() + b"\xe9")) == "é\\n\\xe9"


def test_fields_that_nobody_knows_yet_are_ignored() -> None:
    document = fmt.record_document(RECORD)
    del document["record_sha256"]
    document |= {"colour": "blue"}
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"))
    document["record_sha256"] = hashlib.sha256(canonical.encode()).hexdigest()
    raw = (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode(errors="backslashreplace")

    assert fmt.read_record(raw) == RECORD
    assert fmt.as_written(raw)
    assert fmt.read_entry(b'{"path":"a","type":"directory","mtime_ns":0,"mode":"0700","acl":[]}') == DirEntry(
        "a", 0, 0o700
    )


# -- hostile -------------------------------------------------------------------------------------

HOSTILE = [
    "",
    ".",
    "..",
    "/",
    "/etc/passwd",
    "//etc/passwd",
    "../x",
    "a/../../x",
    "a/..",
    "a/./b",
    "./a",
    "a//b",
    "a/",
    "a\0b",
    "\ud800",
]


@pytest.mark.parametrize("path", HOSTILE, ids=ascii)
def test_a_path_that_is_not_plainly_inside_is_refused_everywhere(path: str) -> None:
    refused: dict[str, Callable[[], Any]] = {
        "path": lambda: fmt.contained(path),
        "entry": lambda: fmt.read_entry(_line(path=path, type="directory", mtime_ns=0, mode="0700")),
        "source": lambda: fmt.read_record(_record_with(("sources", 0, "stored"), path)),
        "collection": lambda: fmt.read_record(_record_with(("qdrant", "collections", 0, "path"), path)),
    }
    for what, read in refused.items():
        with pytest.raises(ValueError):  # noqa: PT011 - any ValueError is a refusal, and nothing else may be raised
            pytest.fail(f"{what}: {read()}")


@pytest.mark.parametrize("path", [p for p in HOSTILE if p != "\ud800"], ids=ascii)
def test_a_path_that_is_not_plainly_inside_is_refused_from_base64_and_from_sums(path: str) -> None:
    import base64

    raw = base64.b64encode(path.encode()).decode()
    with pytest.raises(ValueError, match="path"):
        fmt.read_entry(_line(path="a", path_b64=raw, type="directory", mtime_ns=0, mode="0700"))
    with pytest.raises(ValueError, match="path"):
        fmt.read_sums_line(fmt.sums_line(path, "0" * 64))


@pytest.mark.parametrize(
    "path", ["a", "a/b", "...", "a..b/..c", "a b", "~", "-", "C:\\x", os.fsdecode(b"\xff"), "\u202e"]
)
def test_an_odd_path_that_stays_inside_is_taken(path: str) -> None:
    assert fmt.contained(path) == path


def _line(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


def _record_with(where: tuple[str | int, ...], value: Any) -> bytes:
    """A record with another value at `where`, and a digest that fits: a forgery."""
    document = fmt.record_document(RECORD)
    del document["record_sha256"]
    inner: Any = document
    for key in where[:-1]:
        inner = inner[key]
    inner[where[-1]] = value
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return json.dumps({**document, "record_sha256": hashlib.sha256(canonical.encode()).hexdigest()}).encode()


FORGERIES: list[tuple[tuple[str | int, ...], Any]] = [
    (("id",), "../../x"),
    (("id",), "20261121_023000_a1b2c3d4e5f6\n"),
    (("id",), None),
    (("sequence",), "many"),
    (("sequence",), float("nan")),
    (("sequence",), float("inf")),
    (("started_at",), "2026-11-21T02:30:00"),
    (("started_at",), "0001-01-01T00:00:00+14:00"),
    (("started_at",), "9999-12-31T23:59:59-14:00"),
    (("started_at",), 5),
    (("scope",), []),
    (("scope", "parts"), ["everything"]),
    (("scope", "data_dir_b64"), "???"),
    (("layout",), "v3"),
    (("included",), None),
    (("totals", "bytes"), -1),
    (("totals", "bytes"), True),
    (("sources", 0, "lines"), [1]),
    (("sources", 0, "lines"), [1, -1]),
    (("sources", 0, "kind"), "socket"),
    (("omissions", 0, "reason"), "bored"),
    (("qdrant", "collections", 0, "sha256"), "0" * 63),
    (("qdrant", "collections", 0, "size"), 1.5),
    (("qdrant", "collections", 0, "points"), 5),
    (("digests",), {"SHA256SUMS": "x"}),
    (("digests",), []),
    (("requires",), None),
    (("format",), None),
    (("format",), "one"),
    (("format",), float("inf")),
    (("key_fingerprints",), ["x"]),
    (("index_snapshots",), [5]),
    (("index_snapshots",), [{"name": "x", "collections": {}}]),
    (("index_snapshots",), [{"name": "x", "active": "yes", "collections": {}}]),
    (("index_snapshots",), [{"name": 5, "active": True, "collections": {}}]),
    (("index_snapshots",), [{"name": "../x", "active": True, "collections": {}}]),
    (("index_snapshots",), [{"name": "x/y", "active": True, "collections": {}}]),
    (("index_snapshots",), [{"name": "x", "active": True}]),
    (("index_snapshots",), [{"name": "x", "active": True, "collections": []}]),
    (("sequence",), 2**63),
    (("sequence",), 10**4299),
    (("sequence",), -1),
    (("totals", "bytes"), 10**400),
    (("sources", 0, "totals", "files"), 2**63),
    (("sources", 0, "lines"), [0, 10**30]),
    (("shrinks", 0, "before"), 10**400),
    (("qdrant", "collections", 0, "shards"), 10**400),
    (("qdrant", "collections", 0, "points", "max"), 10**400),
    (("scope", "data_dir"), "/\ud800"),
    (("artifact_proof",), 5),
    (("artifact_proof",), {"points": 7}),
    (("qdrant", "collections", 0, "placement"), 5),
    (("qdrant", "collections", 0, "placement"), {"local": [-1], "remote": [], "keys": []}),
    (("qdrant", "collections", 0, "placement"), {"local": [0], "keys": []}),
]


@pytest.mark.parametrize(("where", "value"), FORGERIES, ids=str)
def test_a_forged_record_with_a_fitting_digest_is_still_no_record(where: tuple[str | int, ...], value: Any) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - any ValueError is a refusal
        fmt.read_record(_record_with(where, value))


@pytest.mark.parametrize(("where", "value"), [(("format",), 2), (("format",), 10**30), (("requires",), ["chunks"])])
def test_a_newer_record_is_too_new_and_not_damaged(where: tuple[str | int, ...], value: Any) -> None:
    with pytest.raises(FormatTooNew):
        fmt.read_record(_record_with(where, value))


def test_a_newer_record_need_not_be_digested_as_this_version_does() -> None:
    with pytest.raises(FormatTooNew):
        fmt.read_record(b'{"format": 2, "anything": []}')


LINES = [
    b"",
    b"\n",
    b"5",
    b"null",
    b"[]",
    b"{}",
    b'{"path": 5}',
    b'{"path":"a","type":"socket"}',
    b'{"path":"a","type":"file","size":-1,"sha256":"' + b"0" * 64 + b'","mtime_ns":0,"mode":"0600"}',
    b'{"path":"a","type":"file","size":1,"sha256":"' + b"g" * 64 + b'","mtime_ns":0,"mode":"0600"}',
    b'{"path":"a","type":"file","size":1,"sha256":"' + b"0" * 64 + b'","mtime_ns":Infinity,"mode":"0600"}',
    b'{"path":"a","type":"file","size":1,"sha256":"' + b"0" * 64 + b'","mtime_ns":0,"mode":"9"}',
    b'{"path":"a","type":"file","size":1,"sha256":"' + b"0" * 64 + b'","mtime_ns":0,"mode":8}',
    b'{"path":"a","type":"file","size":1,"sha256":"' + b"0" * 64 + b'","mtime_ns":0,"mode":"1","stored":[1]}',
    b'{"path":"a","type":"file","size":1,"sha256":"' + b"0" * 64 + b'","mtime_ns":0,"mode":"1","origin":{}}',
    b'{"path":"a","type":"file","size":1,"sha256":"' + b"0" * 64 + b'","mtime_ns":0,"mode":"1","origin":5}',
    b'{"path":"a","type":"file","size":1,"sha256":"'
    + b"0" * 64
    + b'","mtime_ns":0,"mode":"1","origin":'
    + b'{"dev":1,"ino":1,"size":1,"mtime_ns":1,"ctime_ns":1,"sidecars":{"-wal":[1]}}}',
    b'{"path":"a","type":"directory","mtime_ns":0,"mode":"-7"}',
    b'{"path":"a","type":"directory","mtime_ns":0,"mode":"10000"}',
    b'{"path":"a","path_b64":"?","type":"directory","mtime_ns":0,"mode":"0700"}',
    b'{"path":"a","type":"link","mtime_ns":0}',
    b'{"path":"a","type":"link","mtime_ns":0,"target":"\\ud800"}',
    b'{"path":"a","type":"link","mtime_ns":' + b"9" * 29 + b',"target":"b"}',
    b'{"path":"a","type":"directory","mtime_ns":-' + b"9" * 29 + b',"mode":"0700"}',
    b'{"path":"a","type":"directory","mtime_ns":0,"mode":"0700","uid":4294967296}',
    b'{"path":"a","type":"directory","mtime_ns":0,"mode":"0700","gid":-1}',
    b'{"path":"a","type":"file","size":9223372036854775808,"sha256":"' + b"0" * 64 + b'","mtime_ns":0,"mode":"1"}',
    b'{"path":"a","type":"file","size":1,"sha256":"' + b"0" * 64 + b'","mtime_ns":' + b"9" * 29 + b',"mode":"1"}',
    b"[" * 100_000,
    b'{"path":"a","type":"directory","mtime_ns":' + b"9" * 5000 + b',"mode":"0700"}',
]


@pytest.mark.parametrize("line", LINES, ids=lambda line: line[:60])
def test_what_is_no_line_of_an_inventory_is_refused(line: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - any ValueError is a refusal
        fmt.read_entry(line)


@pytest.mark.parametrize(
    "line", [b"", b"\n", b"0" * 64 + b" one\n", b"0" * 64 + b" *a\n", b"0" * 63 + b"  a\n", b"G" * 64 + b"  a\n"]
)
def test_what_is_no_line_of_sums_is_refused(line: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - any ValueError is a refusal
        fmt.read_sums_line(line)


# -- damage --------------------------------------------------------------------------------------


def read_anything(raw: bytes) -> None:
    """Every reader, on whatever it may meet: a ValueError or FormatTooNew is an answer, all else is a bug."""
    for read in (fmt.read_record, fmt.read_entry, fmt.read_sums_line, fmt.read_seal):
        with contextlib.suppress(ValueError, FormatTooNew):
            read(raw)
    assert isinstance(fmt.record_digest(raw), str)
    assert isinstance(fmt.as_written(raw), bool)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200) | json_values.map(lambda value: json.dumps(value).encode()))
@example(b"\xef\xbb\xbf{}")
@example("{}".encode("utf-16"))
@example(b'{"format": 1e999}')
@example(b'{"requires": [[]]}')
@example(b'{"record_sha256": ' + b"[" * 9000 + b"]" * 9000 + b"}")
def test_arbitrary_bytes_never_get_anything_but_a_refusal(raw: bytes) -> None:
    read_anything(raw)


GOLDEN_RECORD = golden_files()["backup.json"]
GOLDEN_LINES = golden_files()["inventory.jsonl"].splitlines(keepends=True)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_mutated_record_is_refused_or_it_is_the_record(data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(GOLDEN_RECORD) - 1))
    upto = data.draw(st.integers(at, min(at + 40, len(GOLDEN_RECORD))))
    mutated = GOLDEN_RECORD[:at] + data.draw(st.binary(max_size=9)) + GOLDEN_RECORD[upto:]

    read_anything(mutated)
    try:
        read = fmt.read_record(mutated)
    except (ValueError, FormatTooNew):
        return
    assert read == fmt.read_record(GOLDEN_RECORD)
    assert mutated == GOLDEN_RECORD or not fmt.as_written(mutated)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(GOLDEN_LINES), st.integers(0, 400), st.integers(0, 7))
def test_a_line_with_one_bit_flipped_is_refused_or_stays_inside(line: bytes, at: int, bit: int) -> None:
    rotten = bytearray(line)
    rotten[at % len(line)] ^= 1 << bit
    try:
        entry = fmt.read_entry(bytes(rotten))
    except ValueError:
        return
    assert fmt.contained(entry.path) == entry.path


def test_no_single_bit_of_a_record_can_flip_unseen() -> None:
    """Every byte, one bit each, all eight bits in turn; a reader that takes it must at least see other bytes."""
    for at in range(len(GOLDEN_RECORD)):
        rotten = bytearray(GOLDEN_RECORD)
        rotten[at] ^= 1 << at % 8
        try:
            fmt.read_record(bytes(rotten))
        except ValueError:
            continue
        assert not fmt.as_written(bytes(rotten)), at
