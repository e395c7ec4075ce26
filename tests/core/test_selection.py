"""What of a backup comes back, decided from its record alone."""

from __future__ import annotations

import pytest
from tests.core import values

from docmind_backup.core.model import Omission, Part, Reason
from docmind_backup.core.selection import (
    Selection,
    Verdict,
    compare_env,
    destination,
    narrow,
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


def test_a_folder_beside_gets_no_collection_of_the_server() -> None:
    assert narrow(RECORD, Selection(to="/tmp/look")).qdrant is None


@pytest.mark.parametrize(
    "wanted",
    [
        Selection(only=frozenset({Part.LOGS})),
        Selection(collections=("nobody",)),
        Selection(only=frozenset({Part.QDRANT}), to="/tmp/look"),
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
    assert destination(stored, wanted_files(RECORD, [name])) == goes


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
