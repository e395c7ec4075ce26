"""What came back is held against what the record says of it, beyond its bytes."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.core import values

from docmind_backup.core.journal import Checked, Piece
from docmind_backup.core.model import Part
from docmind_backup.restored import check_meaning

ACTIVE = "20260718T052755-0a1b2c3d"
RECORD = values.record(index_snapshots=({"name": ACTIVE, "active": True},))


def meaning(part: Part, live: Path, **changes: Any) -> list[Checked]:
    """What is said of one source that lies there."""
    kind, _, stored = values.SOURCES[part]
    piece = Piece(part, kind, stored, str(live), "", (0, 0), 1, 1)
    return list(check_meaning(replace(RECORD, **changes), [piece], live / "inventory.jsonl"))


@pytest.mark.parametrize(("text", "right"), [(ACTIVE, True), (f"{ACTIVE}\n", True), ("20260719T000000-other", False)])
def test_the_active_index_snapshot_is_the_recorded_one(tmp_path: Path, text: str, *, right: bool) -> None:
    (tmp_path / "CURRENT").write_text(text)

    assert meaning(Part.STORAGE, tmp_path) == [Checked("data/storage/CURRENT", text.strip(), right)]


@pytest.mark.parametrize(("text", "right"), [("d1", True), ("another", False)])
def test_the_deployment_is_the_recorded_one(tmp_path: Path, text: str, *, right: bool) -> None:
    (tmp_path / ".deployment-id").write_text(text)

    found = meaning(Part.IDENTITY, tmp_path / ".deployment-id")

    assert found == [Checked("data/.deployment-id", text, right)]


@pytest.mark.parametrize("broken", [False, True])
def test_a_database_whose_index_is_not_of_its_table_is_not_right(tmp_path: Path, *, broken: bool) -> None:
    """It opens, and every row can be read."""
    path = tmp_path / "chat.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("CREATE TABLE chat (line, said)")
        db.execute("CREATE INDEX by_line ON chat (line)")
        db.execute("INSERT INTO chat VALUES (1, 2)")
        db.execute("PRAGMA writable_schema = ON")
        if broken:
            db.execute("UPDATE sqlite_schema SET sql = 'CREATE INDEX by_line ON chat (said)' WHERE name = 'by_line'")
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT * FROM chat NOT INDEXED").fetchall() == [(1, 2)]

    (found,) = meaning(Part.CHAT, path)

    assert found.what == "data/chat.db (integrity_check)"
    assert found.right is not broken
    assert found.found == ("row 1 missing from index by_line" if broken else "ok")
