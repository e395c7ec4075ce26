"""The renames of a restore: wherever it stops, looking tells how to go on, and how to go back."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from docmind_backup.core.journal import (
    Journal,
    Phase,
    Piece,
    Rename,
    Swap,
    ahead,
    back,
    journal_bytes,
    leaving,
    read_journal,
)
from docmind_backup.core.model import Kind, Part

RUN = "rollback-20261121T101500Z-20261120_023000_a1b2c3d4e5f6"
FOLDER = f"/data/.docmind-restore/{RUN}"
OLD, NEW, SINCE = "old", "new", "since"


class Disk(dict[str, str]):
    """Path to what lies there."""

    def there(self, path: str) -> bool:
        return path in self

    def act(self, step: Rename) -> None:
        assert step.new not in self
        self[step.new] = self.pop(step.old)


def swap(number: int, *, comes: bool, had: bool) -> Swap:
    return Swap(f"/data/{number}", f"{FOLDER}/new/{number}", f"{FOLDER}/old/{number}", comes=comes, had=had)


swaps = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=5).map(
    lambda kinds: [swap(n, comes=comes, had=had) for n, (comes, had) in enumerate(kinds)]
)


def disk_before(chosen: list[Swap]) -> Disk:
    disk = Disk({one.live: OLD for one in chosen if one.had})
    disk.update({one.staged: NEW for one in chosen if one.comes})
    return disk


def forwards(chosen: list[Swap], disk: Disk, most: int) -> None:
    """As the restore does it, and not more than so many steps."""
    for last in (False, True):
        for one in chosen:
            step = ahead(one, disk.there)
            if step and (last or step.new == one.kept) and most > 0:
                most -= 1
                disk.act(step)


def backwards(chosen: list[Swap], disk: Disk, most: int = 1000) -> None:
    for last in (False, True):
        for one in chosen:
            step = back(one, disk.there)
            if step and (last or step.new == one.staged) and most > 0:
                most -= 1
                disk.act(step)


def live(disk: Disk) -> dict[str, str]:
    return {path: what for path, what in disk.items() if not path.startswith(FOLDER)}


@given(swaps, st.integers(0, 10))
def test_at_no_moment_are_old_and_new_things_in_place_together(chosen: list[Swap], stop: int) -> None:
    disk = disk_before(chosen)

    forwards(chosen, disk, stop)

    assert set(live(disk).values()) <= {OLD} or set(live(disk).values()) <= {NEW}


@given(swaps, st.integers(0, 10))
def test_stopped_anywhere_it_is_finished(chosen: list[Swap], stop: int) -> None:
    disk = disk_before(chosen)
    forwards(chosen, disk, stop)

    forwards(chosen, disk, 1000)

    assert live(disk) == {one.live: NEW for one in chosen if one.comes}


@given(swaps, st.integers(0, 10), st.integers(0, 10))
def test_stopped_anywhere_it_is_taken_back_also_when_that_is_stopped(chosen: list[Swap], stop: int, again: int) -> None:
    disk = disk_before(chosen)
    before = dict(live(disk))
    forwards(chosen, disk, stop)
    chosen = [leaving(one, disk.there) for one in chosen]

    backwards(chosen, disk, again)
    backwards(chosen, disk)

    assert live(disk) == before
    assert sum(what == NEW for what in disk.values()) == sum(one.comes for one in chosen)


@given(swaps, st.sets(st.integers(0, 4)))
def test_what_was_made_since_leaves_and_is_kept(chosen: list[Swap], made: set[int]) -> None:
    disk = disk_before(chosen)
    before = dict(live(disk))
    forwards(chosen, disk, 1000)
    sidecars = [one for n, one in enumerate(chosen) if n in made and not one.comes]
    disk.update({one.live: SINCE for one in sidecars})

    backwards([leaving(one, disk.there) for one in chosen], disk)

    assert live(disk) == before
    assert all(disk[one.staged] == SINCE for one in sidecars)


PIECE = Piece(Part.CHAT, Kind.SQLITE, "data/chat.db", "/data/caf\udce9/chat.db", FOLDER, (5, 10), 1, 99)
JOURNAL = Journal(
    run=RUN,
    backup_id="20261120_023000_a1b2c3d4e5f6",
    directory="/backups/backup_20261120_023000_a1b2c3d4e5f6",
    taken_at="2026-11-20T02:30:00+00:00",
    began_at="2026-11-21T10:15:00+00:00",
    phase=Phase.SWAPPING,
    pieces=(PIECE,),
    folders=(FOLDER, f"/mnt/.{RUN}"),
    swaps=(swap(1, comes=True, had=True),),
    notes={"docs": {"step": "uploaded", "points": 25}},
)


def test_a_journal_is_read_as_it_was_written() -> None:
    assert read_journal(journal_bytes(JOURNAL)) == JOURNAL


@pytest.mark.parametrize(
    "changes",
    [
        {"run": "backups"},
        {"folders": ("/data/backups",)},
        {"folders": ("/",)},
        {"swaps": (replace(swap(1, comes=True, had=True), kept="/etc/passwd"),)},
        {"swaps": (replace(swap(1, comes=True, had=True), staged=f"{FOLDER}/new/../../../backups"),)},
        {"swaps": (replace(swap(1, comes=True, had=True), kept=f"{FOLDER}/.."),)},
        {"pieces": (replace(PIECE, stored="../chat.db"),)},
    ],
    ids=lambda changes: ",".join(changes),
)
def test_a_journal_that_reaches_elsewhere_is_none(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"names a folder|moves something|leaves the backup"):
        read_journal(journal_bytes(replace(JOURNAL, **changes)))  # type: ignore[arg-type]


@pytest.mark.parametrize("raw", [b"", b"{}", b"[]", b"\xff", b'{"format": 2}', b"[" * 100_000])
def test_what_is_no_journal_is_a_value_error(raw: bytes) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        read_journal(raw)


@pytest.mark.parametrize(
    "changes",
    [
        {"run": 5},
        {"folders": (5,)},
        {"backup_id": None},
        {"aside": "no"},
        {"swaps": (replace(swap(1, comes=True, had=True), live=7),)},
        {"swaps": (replace(swap(1, comes=True, had=True), comes=1),)},
        {"pieces": (replace(PIECE, lines=("0", "9")),)},
        {"pieces": (replace(PIECE, folder=["/"]),)},
        {"notes": {"docs": "old"}},
    ],
    ids=lambda changes: ",".join(changes),
)
def test_a_journal_with_a_value_of_another_type_is_none(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="not the journal of a restore"):
        read_journal(journal_bytes(replace(JOURNAL, **changes)))  # type: ignore[arg-type]


def test_two_sources_with_files_of_one_name_are_kept_apart() -> None:
    other = replace(PIECE, stored="logs/chat.db")

    assert PIECE.staged("-wal") != other.staged("-wal")
    assert json.loads(journal_bytes(JOURNAL))["format"] == 1
