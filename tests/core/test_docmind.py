"""DocMind's formats, against files that DocMind 2.0.1 itself wrote: a whole backup by its own service."""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.core.values import NOON, captured, qdrant, record, stored

from docmind_backup.core import docmind
from docmind_backup.core.model import IndexSnapshot, Omission, Part, Reason, Record

RECORDINGS = Path(__file__).parent.parent / "data" / "recordings"
MANIFESTS = ("manifest.jsonl", "manifest.meta.json", "manifest.checksum")


@cache
def recorded() -> dict[str, bytes]:
    """The recorded backup: path in it to content."""
    with tarfile.open(RECORDINGS / "docmind-v2-backup.tar.xz") as tar:
        files = ((member.name.partition("/")[2], tar.extractfile(member)) for member in tar if member.isfile())
        return {name: file.read() for name, file in files if file}


def below(folder: str) -> dict[str, bytes]:
    return {name.removeprefix(folder): data for name, data in recorded().items() if name.startswith(folder)}


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


CURRENT = recorded()["data/storage/CURRENT"].decode().strip()
INDEX = below(f"data/storage/{CURRENT}/")
FILES = {name: (len(data), sha256(data)) for name, data in INDEX.items() if name not in MANIFESTS}
MANIFEST, META, CHECKSUM = (INDEX[name] for name in MANIFESTS)


# -- what DocMind wrote --------------------------------------------------------------------------


def test_the_recorded_index_snapshot_is_read_as_it_was_meant() -> None:
    found = docmind.index_snapshot(CURRENT, META)

    assert docmind.INDEX_SNAPSHOT_NAME.match(CURRENT)
    assert (found.schema_version, found.app_version, found.problem) == ("2.0", "2.0.1", "")
    assert set(found.collections) == set(found.collection_metadata) == {"text", "image"}
    assert {f"qdrant/{name}/" for name in found.collections.values()} == {
        "/".join(name.split("/")[:2]) + "/" for name in recorded() if name.startswith("qdrant/")
    }
    identity = recorded()["data/.deployment-id"].decode().strip()
    assert {m["docmind_deployment_id"] for m in found.collection_metadata.values()} == {identity}


def test_the_corpus_hash_is_the_one_docmind_computed() -> None:
    uploads = below("data/uploads/")
    assert len(uploads) == 2

    computed = docmind.corpus_hash((name, sha256(data)) for name, data in uploads.items())

    assert computed == json.loads(META)["corpus_hash"]
    assert computed == docmind.corpus_hash(reversed([(n, sha256(d)) for n, d in sorted(uploads.items())]))


def test_the_manifests_sha256_is_the_one_docmind_computed() -> None:
    assert docmind.index_snapshot_problems(FILES, MANIFEST, META, CHECKSUM) == ()


def test_no_uploads_have_the_hash_of_nothing() -> None:
    assert docmind.corpus_hash(()) == sha256(b"")


@given(st.dictionaries(st.text(min_size=1, max_size=9), st.just("0" * 64), min_size=1, max_size=5))
def test_a_corpus_hash_changes_with_every_name_and_content(uploads: dict[str, str]) -> None:
    name = next(iter(uploads))

    before = docmind.corpus_hash(uploads.items())

    assert docmind.corpus_hash({**uploads, name: "1" * 64}.items()) != before
    assert docmind.corpus_hash({**uploads, name + "x": "0" * 64}.items()) != before


# -- damage in an index snapshot -----------------------------------------------------------------

NAME = sorted(FILES)[0]
SIZE, SHA = FILES[NAME]

DAMAGE: dict[str, tuple[dict[str, Any], str]] = {
    "a file gone": ({"files": {n: f for n, f in FILES.items() if n != NAME}}, f"{NAME} is missing"),
    "a file too many": ({"files": {**FILES, "extra": (1, SHA)}}, "extra is not in its manifest"),
    "a file longer": ({"files": {**FILES, NAME: (SIZE + 1, SHA)}}, f"{NAME} is not what its manifest says"),
    "a file altered": ({"files": {**FILES, NAME: (SIZE, "0" * 64)}}, f"{NAME} is not what its manifest says"),
    "another meta": ({"meta": META.replace(b'"complete"', b'"completed"')}, "manifest.checksum does not match"),
    "meta of another schema": (
        {"meta": META.replace(b'"schema_version"', b'"schema_versiom"')},
        "manifest.checksum is of another schema than manifest.meta.json",
    ),
    "another checksum": (
        {"checksum": json.dumps({**json.loads(CHECKSUM), "manifest_sha256": "0" * 64}).encode()},
        "manifest.checksum does not match",
    ),
    "the manifest in another order": (
        {"manifest": b"\n".join(reversed(MANIFEST.splitlines()))},
        "manifest.checksum does not match",
    ),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_an_index_snapshot_that_is_not_what_its_manifest_says_is_told(what: str) -> None:
    changes, expected = DAMAGE[what]
    whole: dict[str, Any] = {"files": FILES, "manifest": MANIFEST, "meta": META, "checksum": CHECKSUM}

    assert docmind.index_snapshot_problems(**{**whole, **changes}) == (expected,)


UNREADABLE = [b"", b"{", b"[]", b"null", b"5", b'{"path": 1}', b"\xff", b"[" * 100_000, b'{"versions": 5}']


@pytest.mark.parametrize("garbage", UNREADABLE, ids=lambda g: g[:20])
@pytest.mark.parametrize("which", [0, 1, 2])
def test_manifests_nobody_can_read_are_a_problem_and_no_exception(garbage: bytes, which: int) -> None:
    manifests = [MANIFEST, META, CHECKSUM]
    manifests[which] = garbage

    assert docmind.index_snapshot_problems(FILES, *manifests)


@pytest.mark.parametrize("garbage", UNREADABLE, ids=lambda g: g[:20])
def test_an_index_snapshot_whose_meta_nobody_can_read_has_a_problem_or_no_collections(garbage: bytes) -> None:
    found = docmind.index_snapshot(CURRENT, garbage)

    assert found.name == CURRENT
    assert found.problem or not found.collections


def test_an_index_snapshot_that_was_never_finished_says_so() -> None:
    meta = {**json.loads(META), "complete": False}

    assert "not complete" in docmind.index_snapshot(CURRENT, json.dumps(meta).encode()).problem


def test_a_v1_snapshot_is_held_against_its_list_of_files_only() -> None:
    meta, checksum = (json.dumps({**json.loads(raw), "schema_version": "1.0"}).encode() for raw in (META, CHECKSUM))

    assert docmind.index_snapshot_problems(FILES, MANIFEST, meta, checksum) == ()
    assert docmind.index_snapshot_problems({}, MANIFEST, meta, checksum)


# -- the manifest we write -----------------------------------------------------------------------

TEXT, IMAGE = (f"{kind}__1" for kind in ("docs", "images"))
ACTIVE = IndexSnapshot(
    CURRENT,
    "2.0",
    "2.0.1",
    {"text": TEXT, "image": IMAGE},
    collection_metadata={"text": {"d": 1}, "image": {"d": 1}},
    corpus_hash="c",
)
UPLOAD = ("a.pdf", 3, "a" * 64)
ARTIFACT = ("b.webp", 4, "b" * 64)
CHAT = ("data/chat.db", 5, "c" * 64)
CACHE = ("cache/docmind.duckdb", 6, "d" * 64)
ROWS = (Part.CACHE, Part.CHAT, Part.STORAGE, Part.IDENTITY, Part.ARTIFACTS, Part.UPLOADS)


def complete() -> Record:
    held = record(
        *(stored(part) for part in ROWS),
        qdrant=qdrant(captured(TEXT, "text", metadata={"d": 1}), captured(IMAGE, "image", 7, metadata={"d": 1})),
        index_snapshots=({"name": CURRENT, "collections": dict(ACTIVE.collections)},),
    )
    return replace(held, included=(*held.included, Part.QDRANT))


def written(one: Record) -> dict[str, Any]:
    chunks = docmind.manifest_chunks(
        one,
        app_version="2.0.1",
        uploads=[UPLOAD],
        artifacts=[ARTIFACT],
        databases={"chat_db": CHAT, "cache_db": CACHE},
        active=CURRENT,
    )
    return json.loads(b"".join(chunks))


def test_the_manifest_has_every_field_of_docminds_own_in_docminds_own_shape() -> None:
    theirs, ours = json.loads((RECORDINGS / "docmind-v2-manifest.json").read_bytes()), written(complete())

    assert set(theirs) <= set(ours)
    for field in theirs:
        assert _shape(theirs[field]) <= _shape(ours[field]), field
    assert set(ours["included"]) <= set(theirs["included"])


def _shape(value: Any, path: str = "") -> set[str]:
    """Every key there is, by its path; of lists what any element has."""
    match value:
        case dict():
            return {f"{path}.{k}" for k in value}.union(*(_shape(v, f"{path}.{k}") for k, v in value.items()))
        case list():
            return set[str]().union(*(_shape(element, f"{path}[]") for element in value))
        case _:
            return set()


def test_warnings_are_empty_exactly_when_the_backup_is_complete() -> None:
    lacking = replace(complete(), omissions=(Omission(Part.CACHE, "cache", Reason.BUSY, "held"),), notes=("a note",))

    assert (written(complete())["complete"], written(complete())["warnings"]) == (True, [])
    assert (written(lacking)["complete"], written(lacking)["warnings"]) == (False, ["cache: cache: busy (held)"])
    assert written(lacking)["maintenance_warnings"] == ["a note"]


def test_paths_are_relative_to_what_docmind_makes_them_relative_to() -> None:
    ours = written(complete())

    assert ours["uploads"]["files"] == [{"path": "a.pdf", "size_bytes": 3, "sha256": "a" * 64}]
    assert ours["artifacts"]["files"] == [{"path": "b.webp", "size_bytes": 4, "sha256": "b" * 64}]
    assert ours["databases"]["chat_db"] == {"path": "data/chat.db", "size_bytes": 5, "sha256": "c" * 64}
    assert ours["activation"] == {"snapshot": CURRENT, "collections": dict(ACTIVE.collections), "deployment_id": "d1"}
    assert ours["qdrant"]["collections"][0]["filename"] == f"qdrant/{TEXT}/{TEXT}.snapshot"


def test_an_embedded_qdrant_is_none_that_docmind_could_restore() -> None:
    one = complete()
    assert one.qdrant
    ours = written(replace(one, qdrant=replace(one.qdrant, embedded=True)))

    assert "qdrant" not in ours
    assert "qdrant_embedded" in ours["included"]
    assert "qdrant_snapshots" not in ours["included"]


# -- eligibility ---------------------------------------------------------------------------------


def judged(one: Record, **changes: Any) -> tuple[str, ...]:
    given_: dict[str, Any] = {
        "databases": ("cache_db", "chat_db"),
        "app_version": "2.0.1",
        "links": (),
        "corpus": "c",
        "active": ACTIVE,
    }
    return docmind.ineligibility(one, **{**given_, **changes})


def without(part: Part) -> Record:
    one = complete()
    return replace(one, included=tuple(p for p in one.included if p is not part))


def with_metadata(**metadata: Any) -> Record:
    one = complete()
    assert one.qdrant
    text, image = one.qdrant.collections
    changed = replace(image, state=replace(image.state, metadata=metadata))
    return replace(one, qdrant=replace(one.qdrant, collections=(text, changed)))


REFUSED: dict[str, tuple[Callable[[], tuple[str, ...]], str]] = {
    "incomplete": (
        lambda: judged(replace(complete(), omissions=(Omission(Part.LOGS, "logs", Reason.GONE),))),
        "it is incomplete",
    ),
    "no chats": (lambda: judged(without(Part.CHAT)), "it does not hold chat"),
    "no collections": (lambda: judged(without(Part.QDRANT)), "it does not hold qdrant"),
    "one database": (lambda: judged(complete(), databases=("cache_db",)), "databases"),
    "a third database": (lambda: judged(complete(), databases=("cache_db", "chat_db", "x")), "databases"),
    "no version": (lambda: judged(complete(), app_version=""), "version of the application"),
    "links": (lambda: judged(complete(), links=("data/uploads/l",)), "data/uploads/l"),
    "no index": (lambda: judged(complete(), active=None), "no active index snapshot"),
    "no identity": (
        lambda: judged(replace(complete(), scope=replace(complete().scope, deployment_id=""))),
        "no deployment id",
    ),
    "one collection": (
        lambda: judged(replace(complete(), qdrant=qdrant(captured(TEXT, "text", metadata={"d": 1})))),
        "not exactly those",
    ),
    "other uploads": (lambda: judged(complete(), corpus="other"), "uploads changed"),
    "other metadata": (lambda: judged(with_metadata(d=2)), "metadata"),
}


def test_a_complete_backup_of_everything_is_eligible() -> None:
    assert judged(complete()) == ()


@pytest.mark.parametrize("what", REFUSED)
def test_what_docminds_checker_would_refuse_is_told_in_one_reason(what: str) -> None:
    judge, words = REFUSED[what]

    (reason,) = judge()

    assert words in reason


def test_a_collection_of_another_name_than_the_index_snapshots_is_not_eligible() -> None:
    other = qdrant(captured("other", "text", metadata={"d": 1}), captured(IMAGE, "image", 7, metadata={"d": 1}))

    assert judged(replace(complete(), qdrant=other))


def test_the_records_start_is_the_manifests_creation() -> None:
    assert written(replace(complete(), started_at=NOON))["created_at"] == "2026-11-21T12:00:00+00:00"
