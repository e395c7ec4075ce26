"""What is remembered of records: as true as the records, of no weight when it is lost, damaged or another version's."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.catalogs import overwrite

from docmind_backup import briefs
from docmind_backup.catalog import BRIEFS, STATE, Catalog, name_of
from docmind_backup.core import format as fmt
from docmind_backup.core.model import (
    Backup,
    BrokenBackup,
    CollectionRecord,
    CollectionState,
    Kind,
    Layout,
    Part,
    QdrantRecord,
    Record,
    Scope,
    Seal,
    SourceRecord,
    Totals,
)
from docmind_backup.documents import listing

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
TAKEN = CollectionRecord(
    name="docs",
    role="text",
    taken_at="2026-01-01T12:00:00+00:00",
    points_min=3,
    points_max=5,
    path="qdrant/docs/docs.snapshot",
    size=10,
    sha256="a" * 64,
    snapshot_name="docs.snapshot",
    server_checksum="a" * 64,
    state=CollectionState("docs", "text", points=5, metadata={"model": "m"}),
)


def record(number: int) -> Record:
    at = NOON + timedelta(days=number)
    return Record(
        id=f"{at:%Y%m%d_%H%M%S}_{number:012x}",
        sequence=number,
        started_at=at,
        finished_at=at + timedelta(seconds=3),
        host="h",
        tool_version="0",
        scope=Scope("/srv/data", "d", frozenset({Part.CHAT, Part.QDRANT}), frozenset()),
        layout=Layout.V2,
        project="/srv",
        included=(Part.CHAT, Part.QDRANT),
        totals=Totals(files=2, bytes=number),
        sources=(SourceRecord(Part.CHAT, "data/chat.db", "/srv/data/chat.db", Kind.SQLITE, Totals(files=1), (0, 9)),),
        notes=("a note",),
        qdrant=QdrantRecord("http://localhost:6333", "1.18", False, (TAKEN,)),
        digests={fmt.SUMS: "b" * 64},
    )


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    """As many backups as make it worth to remember them."""
    for one in map(record, range(1, briefs.WORTH + 1)):
        directory = tmp_path / name_of(one.id, complete=True)
        directory.mkdir()
        (directory / fmt.RECORD).write_bytes(fmt.record_bytes(one))
    return Catalog(tmp_path)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The records that were parsed and proved, as they come."""
    seen: list[bytes] = []
    real = fmt.read_record_and_digest

    def read(raw: bytes) -> tuple[Record, str]:
        seen.append(raw)
        return real(raw)

    monkeypatch.setattr(fmt, "read_record_and_digest", read)
    return seen


def memory(catalog: Catalog) -> Path:
    return catalog.root / STATE / BRIEFS


def test_what_is_remembered_lists_as_the_records_do_and_none_is_parsed_again(
    catalog: Catalog, reads: list[bytes]
) -> None:
    whole = listing(catalog.items())
    newest = catalog.backups()[0]
    digest = fmt.record_digest((newest.directory / fmt.RECORD).read_bytes())
    assert listing(catalog.items(brief=True)) == whole
    assert catalog.remember(newest.directory, Seal(digest, NOON, "full", intact=False))
    reads.clear()

    found = catalog.backups(brief=True)

    assert reads == []
    assert found[0].damaged
    assert listing(found[1:]) == whole[1:]


def test_a_record_that_rots_is_seen_although_it_is_remembered(catalog: Catalog) -> None:
    newest = catalog.backups(brief=True)[0]
    raw = (newest.directory / fmt.RECORD).read_bytes()
    overwrite(newest.directory / fmt.RECORD, raw.replace(b"a note", b"b note"))

    found = catalog.items(brief=True)

    assert [item.directory for item in found if isinstance(item, BrokenBackup)] == [newest.directory]


def test_a_new_backup_is_read_and_one_that_is_gone_is_forgotten(catalog: Catalog, reads: list[bytes]) -> None:
    catalog.items(brief=True)
    reads.clear()
    one = record(999)
    directory = catalog.root / name_of(one.id, complete=True)
    directory.mkdir()
    (directory / fmt.RECORD).write_bytes(fmt.record_bytes(one))

    assert catalog.backups(brief=True)[0].record.sequence == 999
    assert reads == [fmt.record_bytes(one)]


def flipped(content: bytes) -> bytes:
    return content.replace(b"/srv/data", b"/srv/dada", 1)


def other_shape(content: bytes) -> bytes:
    """Proves itself, but holds no records."""
    body = json.dumps({key: [] for key in json.loads(content.partition(b"\n")[2])}).encode()
    return briefs._digest(body) + b"\n" + body


def other_version(content: bytes) -> bytes:
    body = flipped(content.partition(b"\n")[2])
    return hashlib.sha256(b"0.0.1\n" + body).hexdigest().encode() + b"\n" + body


DAMAGE: list[Callable[[bytes], bytes]] = [
    flipped,
    other_shape,
    other_version,
    lambda c: c[: len(c) // 2],
    lambda _: b"",
]


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_memory_that_is_damaged_or_of_another_version_is_none(
    catalog: Catalog, reads: list[bytes], damage: Callable[[bytes], bytes]
) -> None:
    whole = listing(catalog.items(brief=True))
    memory(catalog).write_bytes(damage(memory(catalog).read_bytes()))
    reads.clear()

    assert listing(catalog.items(brief=True)) == whole
    assert len(reads) == briefs.WORTH


def test_a_few_backups_are_not_worth_a_memory_and_without_one_all_is_read(catalog: Catalog) -> None:
    catalog.backups()[0].directory.joinpath(fmt.RECORD).unlink()

    assert sum(isinstance(item, Backup) for item in catalog.items(brief=True)) == briefs.WORTH - 1
    assert not (catalog.root / STATE).exists()


def test_where_nothing_can_be_written_all_is_listed(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(briefs.durable, "replace", refuse)

    assert len(catalog.backups(brief=True)) == briefs.WORTH


def test_a_brief_record_keeps_what_retention_and_list_ask_for() -> None:
    whole = record(1)

    brief, digest = fmt.read_brief(fmt.brief_fields(whole, "d"))

    assert digest == "d"
    assert whole.qdrant
    slim = replace(TAKEN, state=CollectionState("docs", "text", points=5))
    expected = replace(whole, sources=(), digests={}, qdrant=replace(whole.qdrant, collections=(slim,)))
    assert brief == expected


def test_nothing_is_left_in_somebody_elses_catalog(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    owner = catalog.root.stat().st_uid
    monkeypatch.setattr(briefs.os, "geteuid", lambda: owner + 1)

    assert len(catalog.items(brief=True)) == briefs.WORTH
    assert not (catalog.root / STATE).exists()
