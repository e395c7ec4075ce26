"""What of a backup comes back, decided from its record alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.core import values

from docmind_backup.core.model import Omission, Part, Reason
from docmind_backup.core.selection import (
    Selection,
    Verdict,
    compare_env,
    destinations,
    narrow,
    partial,
    read_selection,
    wanted_files,
)
from docmind_backup.errors import UsageError

SERVER = values.qdrant(values.captured("docs", "text"), values.captured("images", "image"))
RECORD = values.record(
    *(values.stored(part) for part in (Part.CHAT, Part.UPLOADS, Part.CACHE, Part.ENV)),
    qdrant=SERVER,
    omissions=(Omission(Part.CACHE, "cache", Reason.BUSY), Omission(Part.CHAT, "chat.db", Reason.DAMAGED)),
)


def test_everything_is_wanted_unless_something_is_named() -> None:
    found = narrow(RECORD, Selection())

    assert found.sources == RECORD.sources
    assert found.qdrant == SERVER


def test_only_what_is_named_comes_with_what_is_lacking_of_it() -> None:
    found = narrow(RECORD, Selection(only=frozenset({Part.CHAT})))

    assert [source.part for source in found.sources] == [Part.CHAT]
    assert (found.qdrant, found.totals.files) == (None, 1)
    assert [omission.part for omission in found.omissions] == [Part.CHAT]


def test_a_collection_by_name_comes_alone() -> None:
    found = narrow(RECORD, Selection(collections=("images",)))

    assert found.sources == ()
    assert found.qdrant
    assert [taken.name for taken in found.qdrant.collections] == ["images"]


def test_a_collection_by_name_comes_with_the_parts_that_are_named() -> None:
    found = narrow(RECORD, Selection(only=frozenset({Part.CHAT}), collections=("images",)))

    assert [source.part for source in found.sources] == [Part.CHAT]
    assert found.qdrant
    assert [taken.name for taken in found.qdrant.collections] == ["images"]


@pytest.mark.parametrize("one", [Selection(frozenset({Part.CHAT}), (), True), Selection(frozenset(), ("docs",), True)])
def test_env_comes_with_what_is_named_when_it_is_asked_for(one: Selection) -> None:
    assert Part.ENV in {source.part for source in narrow(RECORD, one).sources}


def test_a_folder_beside_gets_no_collection_of_the_server() -> None:
    assert narrow(RECORD, Selection(to="/tmp/look")).qdrant is None


@pytest.mark.parametrize(
    "wanted",
    [
        Selection(only=frozenset({Part.QDRANT})),
        Selection(only=frozenset({Part.QDRANT, Part.LOGS})),
        Selection(collections=("docs",)),
        Selection(only=frozenset({Part.CHAT}), collections=("docs",)),
    ],
)
def test_collections_that_are_asked_for_beside_are_refused_with_what_to_do(wanted: Selection) -> None:
    with pytest.raises(UsageError, match="collections of a server do not go to a folder") as raised:
        narrow(RECORD, replace(wanted, to="/tmp/look"))

    assert "leave --to out" in raised.value.hint


def test_collections_that_stay_out_beside_files_are_named() -> None:
    wanted = Selection(only=frozenset({Part.CHAT, Part.QDRANT}), to="/tmp/look")

    assert list(partial(RECORD, narrow(RECORD, wanted), wanted)) == [
        "--to takes files: collections stay out (2 in the backup)"
    ]


def test_a_part_of_what_belongs_together_names_what_stays() -> None:
    """Other collections count: each is of the same index."""
    both, one = Selection(only=frozenset({Part.QDRANT})), Selection(collections=("docs",))
    alone = values.record(qdrant=SERVER, included=(Part.QDRANT,))

    words = "only a part of what belongs together comes back; as they are now stay: "
    assert list(partial(RECORD, narrow(RECORD, Selection()), Selection())) == []
    assert list(partial(alone, narrow(alone, both), both)) == []
    assert list(partial(alone, narrow(alone, one), one)) == [f"{words}other collections"]


@pytest.mark.parametrize(
    "wanted",
    [
        Selection(only=frozenset({Part.LOGS})),
        Selection(collections=("nobody",)),
        Selection(only=frozenset({Part.CHAT}), collections=("nobody",)),
    ],
)
def test_what_the_backup_does_not_hold_is_said(wanted: Selection) -> None:
    with pytest.raises(UsageError, match=r"not hold|nothing of"):
        narrow(RECORD, wanted)


def test_an_embedded_storage_comes_as_a_whole() -> None:
    embedded = values.record(values.stored(Part.CHAT), qdrant=values.qdrant(embedded=True))

    with pytest.raises(UsageError, match="of a server"):
        narrow(embedded, Selection(collections=("docs",)))


def test_a_selection_is_read_as_it_was_written() -> None:
    wanted = Selection(frozenset({Part.CHAT, Part.ENV}), ("docs",), True, True, "/tmp/look", True, True)

    assert read_selection(wanted.document()) == wanted


@pytest.mark.parametrize(
    ("name", "stored", "goes"),
    [
        ("uploads/a.pdf", "data/uploads/a.pdf", "uploads/a.pdf"),
        ("data/uploads/a.pdf", "data/uploads/a.pdf", "data/uploads/a.pdf"),
        ("uploads", "data/uploads/deep/a.pdf", "uploads/deep/a.pdf"),
        ("uploads/", "data/uploads/a.pdf", "uploads/a.pdf"),
        ("uploads/a", "data/uploads/a.pdf", ""),
        ("cache/docmind.duckdb", "cache/docmind.duckdb.wal", "cache/docmind.duckdb.wal"),
        ("chat.db", "data/chat.db", "chat.db"),
        ("chat.db", "data/chat.db2", ""),
    ],
)
def test_a_file_is_known_by_its_path_in_the_backup(name: str, stored: str, goes: str) -> None:
    assert destinations(stored, wanted_files(RECORD, [name])) == ((goes,) if goes else ())


@pytest.mark.parametrize(
    ("names", "goes"),
    [
        (["uploads/a.pdf", "data/uploads/a.pdf"], ("uploads/a.pdf", "data/uploads/a.pdf")),
        (["data/uploads/a.pdf", "uploads/a.pdf"], ("data/uploads/a.pdf", "uploads/a.pdf")),
        (["uploads", "data/uploads/a.pdf"], ("uploads/a.pdf", "data/uploads/a.pdf")),
        (["uploads", "uploads/a.pdf", "uploads/"], ("uploads/a.pdf",)),
    ],
)
def test_a_file_goes_to_each_place_that_was_named_and_once(names: list[str], goes: tuple[str, ...]) -> None:
    assert destinations("data/uploads/a.pdf", wanted_files(RECORD, names)) == goes


@pytest.mark.parametrize("name", ["..", "../a", "uploads/../../a", "", "/", "a//b"])
def test_a_path_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(UsageError):
        wanted_files(RECORD, [name])


def test_two_env_files_compare_key_by_key_without_a_value() -> None:
    theirs = "A=1\nexport B='two'\n# C=3\nD=4\nA=9\n"
    ours = "A=9\nB=two\nD=5\nE=6\n"

    assert list(compare_env(theirs, ours)) == [
        ("A", Verdict.SAME),
        ("B", Verdict.SAME),
        ("D", Verdict.DIFFERS),
        ("E", Verdict.ONLY_HERE),
    ]
    assert list(compare_env("F=1", "")) == [("F", Verdict.ONLY_BACKUP)]
