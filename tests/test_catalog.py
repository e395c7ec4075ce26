"""What the catalog promises: one writer, backups found by any name, and nothing that is not one taken for one."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.catalogs import NOON, clone, held_by_another, overwrite

from docmind_backup.catalog import Catalog, name_of, next_sequence, read_limited, reading, remove
from docmind_backup.core import format as fmt
from docmind_backup.core.model import (
    Backup,
    BrokenBackup,
    ForeignBackup,
    Layout,
    Omission,
    Part,
    Reason,
    Record,
    Scope,
    Seal,
    Totals,
    Unfinished,
)
from docmind_backup.errors import BackupError, Locked, NoSuchBackup

NOW = NOON + timedelta(days=365)
LACK = Omission(Part.CHAT, "data/chat.db", Reason.DAMAGED)


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    (tmp_path / "root").mkdir(mode=0o700)
    return Catalog(tmp_path / "root")


@pytest.fixture
def first(catalog: Catalog) -> Path:
    """The smallest backup there can be: a record and one file."""
    record = Record(
        id=f"{NOON:%Y%m%d_%H%M%S}_{1:012x}",
        sequence=1,
        started_at=NOON,
        finished_at=NOON,
        host="h",
        tool_version="0",
        scope=Scope("/srv/data", "d", frozenset({Part.CHAT}), frozenset()),
        layout=Layout.V2,
        project="/srv",
        included=(Part.CHAT,),
        totals=Totals(files=1, bytes=4),
        sources=(),
    )
    directory = catalog.root / name_of(record.id, complete=True)
    (directory / "data").mkdir(parents=True)
    (directory / "data" / "chat.db").write_bytes(b"chat")
    (directory / "backup.json").write_bytes(fmt.record_bytes(record))
    return directory


# -- looking -------------------------------------------------------------------------------------


def test_a_catalog_that_does_not_exist_is_empty_and_is_not_made(tmp_path: Path) -> None:
    catalog = Catalog(tmp_path / "nowhere")

    assert (catalog.items(), catalog.backups(), catalog.ids(), next_sequence(catalog.backups())) == ((), (), (), 1)
    with pytest.raises(NoSuchBackup, match="no backups in"):
        catalog.find("latest", now=NOW)
    assert not catalog.root.exists()


def test_a_root_that_is_no_folder_is_an_error_in_words(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(BackupError, match="cannot read"):
        Catalog(tmp_path / "file").items()


def test_items_come_newest_first_and_what_cannot_be_used_comes_last(catalog: Catalog, first: Path) -> None:
    late = clone(first, 3, started_at=NOON - timedelta(days=400))
    incomplete = clone(first, 2, omissions=(LACK,))
    broken = clone(first, 4)
    overwrite(broken / "backup.json", b"{}")
    foreign = catalog.root / "backup_20250101_000000"
    foreign.mkdir()
    own = {"created_at": "2025-01-01T00:00:00+00:00", "complete": True, "bytes_written": 12}
    (foreign / "manifest.json").write_text(json.dumps(own))
    dead = catalog.root / ".staging-20260101_000000_0123456789ab"
    dead.mkdir()
    link = catalog.root / "backup_20250102_000000"
    link.symlink_to(first)
    (catalog.root / "backup_x").mkdir()

    items = catalog.items()

    assert [item.directory for item in items] == [late, incomplete, first, foreign, link, broken, dead]
    assert [type(item) for item in items] == [Backup] * 3 + [ForeignBackup, BrokenBackup, BrokenBackup, Unfinished]
    assert [b.directory for b in catalog.backups()] == [late, incomplete, first]
    assert items[3] == ForeignBackup(foreign, datetime(2025, 1, 1, tzinfo=UTC), True, 12)


def test_ids_are_known_by_name_alone(catalog: Catalog, first: Path) -> None:
    (catalog.root / "incomplete-backup_20990101_000000").mkdir()
    (catalog.root / "backup_20990101_000000.old").mkdir()

    assert catalog.ids() == ("20990101_000000", first.name.removeprefix("backup_"))


def test_the_next_sequence_is_above_all_others_whatever_their_age(catalog: Catalog, first: Path) -> None:
    clone(first, 17, started_at=NOON - timedelta(days=400))
    clone(first, 3)
    broken = clone(first, 99)
    overwrite(broken / "backup.json", b"")

    assert next_sequence(catalog.backups()) == 18


# -- finding -------------------------------------------------------------------------------------


def test_a_backup_is_found_by_id_by_prefix_by_its_directorys_name_and_by_path(
    catalog: Catalog, first: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clone(first, 2, omissions=(LACK,))
    monkeypatch.chdir(catalog.root)
    found = first.name.removeprefix("backup_")

    for text in (found, found[:9], first.name, first.name[:16], str(first), f"./{first.name}"):
        assert catalog.find(text, now=NOW) == first


def test_an_id_that_is_the_beginning_of_another_is_that_id(catalog: Catalog, first: Path) -> None:
    short = catalog.root / f"backup_{NOON:%Y%m%d_%H%M%S}"
    shutil.copytree(first, short)

    assert catalog.find(f"{NOON:%Y%m%d_%H%M%S}", now=NOW) == short
    assert catalog.find(f"{NOON:%Y%m%d_%H%M%S}_", now=NOW) == first


def test_a_renamed_backup_is_found_by_the_id_that_list_shows(catalog: Catalog, first: Path) -> None:
    renamed = first.rename(catalog.root / "backup_19990101_000000")
    shown = catalog.backups()[0].id

    assert shown == first.name.removeprefix("backup_")
    assert catalog.find(shown, now=NOW) == catalog.find("19990101", now=NOW) == renamed


@pytest.mark.parametrize(
    "text", ["2026", "19980101", "", "backup_", "incomplete-", "no/such", "/no/such", "\0", "laetst"]
)
def test_what_means_no_backup_or_several_is_no_such_backup(catalog: Catalog, first: Path, text: str) -> None:
    clone(first, 2)

    with pytest.raises(NoSuchBackup):
        catalog.find(text, now=NOW)


def test_latest_is_the_newest_that_counts_and_is_not_of_the_future(catalog: Catalog, first: Path) -> None:
    good = clone(first, 2, started_at=NOON - timedelta(days=9))
    clone(first, 3, omissions=(LACK,))
    damaged = clone(first, 4)
    clone(first, 5, started_at=NOW + timedelta(days=1))
    digest = fmt.record_digest(read_limited(damaged / "backup.json"))

    assert catalog.find("latest", now=NOW) == damaged
    assert catalog.remember(damaged, Seal(digest, NOW, "full", intact=False))
    assert catalog.find("latest", now=NOW) == good


def test_latest_of_incomplete_ones_is_the_newest(catalog: Catalog, first: Path) -> None:
    clone(first, 2, omissions=(LACK,))
    newest = clone(first, 3, omissions=(LACK,))
    shutil.rmtree(first)

    assert catalog.find("latest", now=NOW) == newest


# -- one writer ----------------------------------------------------------------------------------


def test_a_held_lock_is_an_error_that_names_the_holder(catalog: Catalog) -> None:
    with catalog.lock():
        pass
    lock = catalog.root / ".backup.lock"
    with held_by_another(lock) as pid, pytest.raises(Locked, match=f"process {pid} "), catalog.lock():
        pytest.fail("two writers")


def test_a_lock_is_waited_for(catalog: Catalog) -> None:
    held, entered = threading.Event(), threading.Event()

    def hold() -> None:
        with catalog.lock():
            held.set()
            entered.wait(10)

    holder = threading.Thread(target=hold)
    holder.start()
    assert held.wait(10)
    with pytest.raises(Locked), catalog.lock(0.01):
        pytest.fail("two writers")
    entered.set()
    with catalog.lock(10):
        pass
    holder.join()


def test_a_lock_file_deleted_while_it_is_held_lets_nobody_else_in(catalog: Catalog) -> None:
    with catalog.lock():
        (catalog.root / ".backup.lock").unlink()

        with pytest.raises(Locked, match=f"process {os.getpid()} "), catalog.lock():
            pytest.fail("two writers")

    with catalog.lock():
        assert (catalog.root / ".backup.lock").exists()


def test_a_lock_file_that_was_replaced_while_waiting_is_locked_again(catalog: Catalog) -> None:
    with catalog.lock():
        pass
    path = catalog.root / ".backup.lock"
    with held_by_another(path):
        path.rename(catalog.root / "old")
        path.touch()
        with held_by_another(path) as second, pytest.raises(Locked, match=f"process {second} "), catalog.lock():
            pytest.fail("two writers")


def test_a_lock_file_that_is_replaced_while_it_is_waited_for_is_none(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who waits for the old file waits for whoever holds the new one, too: DocMind's service knows only the file."""
    path = catalog.root / ".backup.lock"
    held = [locked(path)]

    def replaced_then_let_go(_seconds: float) -> None:
        if len(held) == 1:
            path.unlink()
            held.append(locked(path))
        os.close(held[len(waits)])
        waits.append(path)

    waits: list[Path] = []
    monkeypatch.setattr(time, "sleep", replaced_then_let_go)

    with catalog.lock(wait_s=600):
        assert len(waits) == 2


def locked(path: Path) -> int:
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(fd, fcntl.LOCK_EX)
    return fd


def test_a_lock_is_let_go_after_an_error(catalog: Catalog) -> None:
    with pytest.raises(ZeroDivisionError), catalog.lock():
        raise ZeroDivisionError
    with catalog.lock():
        pass
    assert (catalog.root / ".backup.lock").read_bytes() == b""


def test_the_lock_says_in_its_file_who_holds_it_and_is_private(catalog: Catalog) -> None:
    with catalog.lock():
        assert json.loads((catalog.root / ".backup.lock").read_bytes())["pid"] == os.getpid()
    assert (catalog.root / ".backup.lock").stat().st_mode & 0o777 == 0o600
    assert (catalog.root / ".state").stat().st_mode & 0o777 == 0o700


def test_a_lock_file_that_is_a_link_is_refused_and_not_followed(catalog: Catalog, tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("still here")
    (catalog.root / ".backup.lock").symlink_to(tmp_path / "precious")

    with pytest.raises(BackupError), catalog.lock():
        pytest.fail("locked a link")
    assert (tmp_path / "precious").read_text() == "still here"


# -- publishing and cleaning ---------------------------------------------------------------------


def test_a_published_backup_has_its_name_and_its_staging_has_none(catalog: Catalog) -> None:
    staging = catalog.new_staging("20260101_000000_0123456789ab")
    (staging / "file").write_text("content")
    assert staging.stat().st_mode & 0o777 == 0o700
    assert catalog.backups() == ()

    final = catalog.publish(staging, "backup_20260101_000000_0123456789ab")

    assert (final / "file").read_text() == "content"
    assert [path.name for path in catalog.root.iterdir()] == ["backup_20260101_000000_0123456789ab"]


def test_a_backup_is_never_published_over_another(catalog: Catalog, first: Path) -> None:
    staging = catalog.new_staging("20260101_000000_0123456789ab")
    (staging / "file").write_text("content")

    with pytest.raises(OSError, match=os.strerror(errno.ENOTEMPTY)):
        catalog.publish(staging, first.name)
    assert (first / "data" / "chat.db").read_bytes() == b"chat"


def test_cleaning_removes_staging_and_trash_and_nothing_else(catalog: Catalog, first: Path, tmp_path: Path) -> None:
    staging = catalog.new_staging("20260101_000000_0123456789ab")
    (staging / "link").symlink_to(tmp_path)
    trash = catalog.root / ".trash"
    (trash / "backup_20260101_000000" / "data").mkdir(parents=True)
    (trash / "link").symlink_to(first)
    (catalog.root / "tmp-backup_20260101_000000").mkdir()
    (catalog.root / ".staging-link").symlink_to(first)

    cleaned = catalog.clean()

    assert set(cleaned) == {staging, trash / "backup_20260101_000000", trash / "link"}
    assert {path.name for path in catalog.root.iterdir()} == {
        first.name,
        ".trash",
        ".staging-link",
        "tmp-backup_20260101_000000",
    }
    assert (first / "data" / "chat.db").exists()
    assert tmp_path.exists()


# -- discarding ----------------------------------------------------------------------------------


def test_discarding_removes_what_it_is_given_with_what_was_remembered_of_it(catalog: Catalog, first: Path) -> None:
    second = clone(first, 2)
    gone, stays = catalog.read(first), catalog.read(second)
    for backup in (gone, stays):
        catalog.hold(backup, "why")
        assert catalog.remember(backup.directory, Seal("0" * 64, NOW, "full", intact=True))

    removed, refused = catalog.discard([gone])

    assert ([b.directory for b in removed], refused) == ([first], [])
    assert [b.directory for b in catalog.backups()] == [second]
    for kind in ("seals", "holds"):
        assert [path.name for path in (catalog.root / ".state" / kind).iterdir()] == [f"{stays.id}.json"]


def test_only_backups_of_this_catalog_are_discarded(catalog: Catalog, first: Path, tmp_path: Path) -> None:
    elsewhere = clone(first, 2, root=tmp_path / "other")
    odd = catalog.root / "my backup"
    shutil.copytree(first, odd)

    removed, refused = catalog.discard([Catalog(tmp_path / "other").read(elsewhere), catalog.read(odd)])

    assert (removed, [why for _, why in refused]) == ([], ["not in this catalog"] * 2)
    assert elsewhere.exists()
    assert odd.exists()


def test_one_that_went_away_meanwhile_keeps_no_other_from_going(catalog: Catalog, first: Path) -> None:
    gone, other = catalog.read(first), catalog.read(clone(first, 2))
    shutil.rmtree(first)

    removed, refused = catalog.discard([gone, other])

    assert (removed, [b for b, _ in refused]) == ([other], [gone])


def test_a_reader_keeps_a_backup_and_lets_other_readers_in(catalog: Catalog, first: Path) -> None:
    with reading(first), reading(first):
        removed, refused = catalog.discard([catalog.read(first)])
        assert (removed, [why for _, why in refused]) == ([], ["it is being read"])
    assert catalog.discard([catalog.read(first)])[1] == []


def test_reading_needs_no_record(first: Path) -> None:
    (first / "backup.json").unlink()

    with reading(first):
        pass


def test_a_link_is_removed_and_never_what_it_points_to(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "folder")

    remove(tmp_path / "link")

    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


# -- holds and seals -----------------------------------------------------------------------------


def test_a_hold_and_its_end_are_on_the_disk_when_the_command_ends(
    catalog: Catalog, first: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut brings neither a hold back nor an earlier state of it."""
    backup, holds = catalog.read(first), catalog.root / ".state" / "holds"
    really, flushed = os.fsync, list[tuple[str, bool]]()

    def fsync(fd: int) -> None:
        flushed.append((os.readlink(f"/proc/self/fd/{fd}"), any(holds.glob("*"))))
        really(fd)

    monkeypatch.setattr(os, "fsync", fsync)

    with catalog.lock():
        catalog.hold(backup, "why")
        assert flushed[-1] == (str(holds), True)
    assert catalog.release(backup)
    assert flushed[-1] == (str(holds), False)


def test_what_is_remembered_of_a_backup_is_gone_with_another_record(catalog: Catalog, first: Path) -> None:
    digest = fmt.record_digest(read_limited(first / "backup.json"))
    assert catalog.remember(first, Seal(digest, NOW, "full", intact=True))
    assert catalog.read(first).seal == Seal(digest, NOW, "full", intact=True)

    record = catalog.read(first).record
    overwrite(first / "backup.json", fmt.record_bytes(replace(record, sequence=2)))

    assert catalog.read(first).seal is None


def test_a_seal_nobody_can_read_is_none(catalog: Catalog, first: Path) -> None:
    seals = catalog.root / ".state" / "seals"
    seals.mkdir(parents=True)
    for garbage in (b"", b"[]", b"[" * 100_000, b'{"record_sha256": 5}', b"\xff"):
        (seals / f"{catalog.read(first).id}.json").write_bytes(garbage)
        assert catalog.read(first).seal is None


def test_nothing_is_remembered_of_a_folder_that_is_no_backup_of_this_catalog(catalog: Catalog, tmp_path: Path) -> None:
    seal = Seal("0" * 64, NOW, "full", intact=True)

    assert not catalog.remember(tmp_path / "backup_20260101_000000", seal)
    assert not catalog.remember(catalog.root / "my backup", seal)
    assert list(catalog.root.iterdir()) == []


@pytest.mark.parametrize("how", ["link", "folder", "pipe", "nothing"])
def test_only_a_regular_file_is_read_and_nothing_is_waited_for(tmp_path: Path, how: str) -> None:
    path = tmp_path / "backup.json"
    match how:
        case "link":
            (tmp_path / "file").touch()
            path.symlink_to(tmp_path / "file")
        case "folder":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)

    with pytest.raises(FileNotFoundError if how == "nothing" else ValueError):
        read_limited(path)
