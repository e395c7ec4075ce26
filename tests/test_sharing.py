"""What did not change is shared with the last backup, what might have changed is not, and damage is not passed on."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.catalogs import backups, entries, flip, record, reseal, rewrite, write_record
from tests.conftest import Cli
from tests.environments import DocMindV2, build_v2, holding_duckdb, live, snapshot_of_sources
from tests.standin import StandIn

from docmind_backup import sharing
from docmind_backup.core.model import FileEntry, QdrantRecord
from docmind_backup.core.sharing import same_sidecars, still_stored, unchanged
from docmind_backup.sample import image_points

LONG_AGO = 1_600_000_000
NOTHING = QdrantRecord("", "", embedded=False)
FILES = ("--no-qdrant-snapshot", "--no-prune", "--quiet")


class Environment:
    """A v2 environment whose files were made long before the first backup, and the backups of it."""

    def __init__(self, cli: Cli, env: DocMindV2) -> None:
        self.cli, self.env = cli, env
        self.made: list[Path] = []

    def create(self, *options: str, code: int = 0) -> Path:
        """One more backup; no source is as young as that: ctimes cannot be set, so the second has to be over."""
        self.settle()
        done = self.cli("create", "-C", self.env.project, *FILES, *options)
        assert done.code == code, done.err
        (new,) = set(backups(self.env.backups)) - set(self.made)
        self.made.append(new)
        return new

    def settle(self) -> None:
        sources = [path for path in self.env.project.rglob("*") if self.env.backups not in path.parents]
        youngest = int(max(path.lstat().st_ctime for path in sources))
        if youngest >= int(time.time()):
            time.sleep(youngest + 1 - time.time())

    def verify(self, backup: Path) -> int:
        return self.cli("verify", "-C", self.env.project, backup, "--quiet").code

    @property
    def upload(self) -> Path:
        return next(path for path in sorted(self.env.uploads.iterdir()) if path.suffix == ".pdf")

    def stored(self, backup: Path, path: Path) -> Path:
        """Where a file of the data directory is in a backup."""
        return backup / "data" / path.relative_to(self.env.data_dir)


@pytest.fixture
def home(cli: Cli, tmp_path: Path) -> Environment:
    return Environment(cli, build_v2(tmp_path / "docmind"))


def same_file(one: Path, other: Path) -> bool:
    return os.path.samestat(one.lstat(), other.lstat())


def shared(one: Path, other: Path) -> set[str]:
    """Paths that are the same file on the disk in both backups."""
    return {path for path in files(one) if (other / path).exists() and same_file(one / path, other / path)}


def files(backup: Path) -> dict[str, FileEntry]:
    return {path: entry for path, entry in entries(backup).items() if isinstance(entry, FileEntry)}


# -- what is shared ------------------------------------------------------------------------------


def test_an_unchanged_environment_is_shared_as_a_whole(home: Environment) -> None:
    before = snapshot_of_sources(home.env)
    first = home.create()
    second = home.create()

    assert shared(first, second) == set(files(second)) == set(files(first))
    assert record(second).totals == replace(record(first).totals, own_bytes=0)
    assert record(first).totals.own_bytes == record(first).totals.bytes
    assert (second / "inventory.jsonl").read_bytes() == (first / "inventory.jsonl").read_bytes()
    assert home.verify(first) == home.verify(second) == 0
    assert snapshot_of_sources(home.env) == before


def test_sharing_goes_on_from_backup_to_backup(home: Environment) -> None:
    first, _, third = home.create(), home.create(), home.create()

    assert shared(first, third) == set(files(third))


def test_nothing_is_ever_shared_with_a_source(home: Environment) -> None:
    home.create()
    home.create()

    inodes = {path.lstat().st_ino for path in home.env.project.rglob("*") if home.env.backups not in path.parents}
    stored = {path.lstat().st_ino for path in home.env.backups.rglob("*") if path.is_file()}
    assert not inodes & stored


def test_what_is_new_is_copied_and_what_is_gone_is_not_stored(home: Environment) -> None:
    first = home.create()
    gone = home.upload
    names = sorted(path.name for path in home.env.uploads.iterdir())
    gone.unlink()
    for name in ("0 before all", "m in between", "~ after all"):
        (home.env.uploads / name).write_bytes(name.encode())
    (home.env.uploads / "a folder" / "below").mkdir(parents=True)
    (home.env.uploads / "a folder" / "below" / "x").write_bytes(b"x")

    second = home.create()

    kept = {f"data/uploads/{name}" for name in names} - {f"data/uploads/{gone.name}"}
    assert kept <= shared(first, second)
    new = set(files(second)) - set(files(first))
    assert {Path(path).name for path in new} == {"0 before all", "m in between", "~ after all", "x"}
    assert record(second).totals.own_bytes == sum(files(second)[path].size for path in new)
    assert home.verify(second) == 0


@pytest.mark.parametrize("name", ["sorts/like.a/b", "sorts/like/b", "sorts/like-/b", "sorts/li"])
def test_names_that_sort_around_the_slash_are_found(home: Environment, name: str) -> None:
    for one in ("sorts/like.a/b", "sorts/like/b", "sorts/like-/b", "sorts/li", "sorts/like 2"):
        path = home.env.uploads / one
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(one.encode())

    first, second = home.create("--only", "uploads"), home.create("--only", "uploads")

    assert f"data/uploads/{name}" in shared(first, second)


def test_a_name_that_is_not_utf8_is_shared(home: Environment) -> None:
    Path(os.fsdecode(os.fsencode(home.env.uploads) + b"/r\xe9sum\xe9\n.pdf")).write_bytes(b"content")

    first, second = home.create("--only", "uploads"), home.create("--only", "uploads")

    assert shared(first, second) == set(files(second))
    assert home.verify(second) == 0


def test_a_part_that_the_last_backup_left_out_is_shared_with_the_one_that_has_it(home: Environment) -> None:
    first = home.create()
    home.create("--only", "chat")

    third = home.create()

    assert shared(first, third) == set(files(third))


def test_no_share_copies_everything(home: Environment) -> None:
    first = home.create()

    second = home.create("--no-share")

    assert shared(first, second) == set()
    assert record(second).totals.own_bytes == record(second).totals.bytes


def test_sharing_can_be_switched_off_for_good(home: Environment) -> None:
    (home.env.project / "docmind-backup.toml").write_text("share = false\n", encoding="utf-8")
    first, second = home.create(), home.create()

    assert shared(first, second) == set()


# -- nothing is read -----------------------------------------------------------------------------

ALLOWED = ("/.env", "CURRENT", ".deployment-id", "manifest.", ".activation-transaction")
"""What a create may read of sources in which nothing changed (issue 4): the rest of it comes to no byte."""


def test_a_create_with_nothing_changed_reads_nothing_of_the_sources(home: Environment, tmp_path: Path) -> None:
    if not (strace := shutil.which("strace")):
        pytest.skip("no strace here")
    home.create()
    log = tmp_path / "trace"
    reads = "read,pread64,readv,preadv,preadv2,copy_file_range,sendfile,splice,mmap"
    command = [strace, "-f", "-y", "-s", "0", "-e", f"trace={reads}", "-o", str(log), sys.executable, "-m"]
    done = subprocess.run(
        [*command, "docmind_backup", "create", "-C", str(home.env.project), *FILES],
        capture_output=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    if b"ptrace" in done.stderr:
        pytest.skip("strace may not trace here")
    assert done.returncode == 0, done.stderr

    mine = [line for line in log.read_text(errors="replace").splitlines() if f"<{home.env.project}/" in line]
    of_sources = [line for line in mine if str(home.env.backups) not in line]
    surprising = [line for line in of_sources if not any(word in line.partition(">")[0] for word in ALLOWED)]
    assert [line for line in surprising if not line.rstrip().endswith("= 0")] == []
    assert of_sources, "the trace says nothing: not even the .env was read"


# -- what might have changed is read -------------------------------------------------------------


def rewritten(path: Path) -> None:
    """Other content, and every time and the size as they were: only the ctime tells."""
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    with path.open("r+b") as file:
        file.write(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_a_change_that_hides_behind_the_old_times_is_found(home: Environment) -> None:
    first = home.create()
    rewritten(home.upload)

    second = home.create()

    stored = home.stored(second, home.upload)
    assert not same_file(stored, home.stored(first, home.upload))
    assert stored.read_bytes() == home.upload.read_bytes()
    assert home.verify(first) == home.verify(second) == 0


def touched(path: Path) -> None:
    os.utime(path, (LONG_AGO, LONG_AGO))


def changed_mode(path: Path) -> None:
    path.chmod(0o640)


def restored(path: Path) -> None:
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content)


@pytest.mark.parametrize("change", [touched, changed_mode, restored], ids=lambda c: c.__name__)
def test_the_same_bytes_in_another_guise_are_shared_after_reading(home: Environment, change: Any) -> None:
    first = home.create()
    change(home.upload)

    second, third = home.create(), home.create()

    path, found = f"data/uploads/{home.upload.name}", home.upload.stat()
    assert path in shared(first, second)
    entry = files(second)[path]
    assert (entry.mtime_ns, entry.mode) == (found.st_mtime_ns, found.st_mode & 0o7777)
    assert record(second).totals.own_bytes == 0
    assert path in shared(second, third)
    assert files(third)[path] == entry
    assert home.verify(second) == home.verify(third) == 0


def test_another_device_number_costs_a_reading_and_no_space(home: Environment) -> None:
    """As after a reboot: the number of a disk is not for ever."""
    first = home.create()
    move_to_device(first, 1_234_567)

    second = home.create()

    assert shared(first, second) == {path for path, entry in files(second).items() if entry.size}
    assert all(entry.origin and entry.origin.dev != 1_234_567 for entry in files(second).values())


def move_to_device(backup: Path, number: int) -> None:
    """Make the inventory say that every source was on another device."""
    path = backup / "inventory.jsonl"
    lines = [json.loads(line) for line in path.read_bytes().splitlines()]
    for line in lines:
        if "origin" in line:
            line["origin"]["dev"] = number
    written = b"".join(json.dumps(line, ensure_ascii=False, separators=(",", ":")).encode() + b"\n" for line in lines)
    mode = path.stat().st_mode
    path.unlink()
    path.write_bytes(written)
    path.chmod(mode)
    remember_lines(backup)


def remember_lines(backup: Path) -> None:
    """Make the record's `lines` and digests fit an inventory that was written anew."""
    offset, found = 0, {}
    for line in (backup / "inventory.jsonl").read_bytes().splitlines(keepends=True):
        path = json.loads(line)["path"]
        for source in record(backup).sources:
            if path == source.stored or path.startswith(f"{source.stored}/"):
                start, length = found.get(source.stored, (offset, 0))
                found[source.stored] = (start, length + len(line))
        offset += len(line)
    changed = tuple(replace(s, lines=found[s.stored]) for s in record(backup).sources)
    write_record(backup, replace(record(backup), sources=changed))
    reseal(backup)


def test_a_file_as_young_as_the_last_backup_is_read_again() -> None:
    second = 10**9
    fields = {"origin": {"dev": 1, "ino": 2, "size": 3, "mtime_ns": 4, "ctime_ns": 7 * second}}
    seen = (1, 2, 3, 4, 7 * second)

    assert unchanged(fields, seen, 8 * second)
    assert not unchanged(fields, seen, 7 * second)
    for place in range(5):
        assert not unchanged(fields, tuple(n + (i == place) for i, n in enumerate(seen)), 9 * second)
    assert not unchanged({}, seen, 8 * second)


def test_a_stored_file_has_to_be_the_one_that_was_hashed() -> None:
    fields = {"size": 5, "stored": [7, 9]}

    assert still_stored(fields, (7, 5, 9))
    assert [still_stored(fields, found) for found in ((8, 5, 9), (7, 6, 9), (7, 5, 8))] == [False] * 3
    assert not still_stored({"size": 5}, (7, 5, 9))


# -- databases -----------------------------------------------------------------------------------

NO_LOG = {"-wal": None, "-journal": None}
EMPTY_LOG = {"-wal": (1, 0, 2, 3), "-journal": None}
JOURNAL = {"-wal": None, "-journal": (4, 512, 5, 6)}
LOG = {"-wal": (1, 4096, 2, 3), "-journal": None}


@pytest.mark.parametrize(
    ("recorded", "now", "same"),
    [
        (NO_LOG, NO_LOG, True),
        (EMPTY_LOG, EMPTY_LOG, True),
        (JOURNAL, JOURNAL, True),
        (LOG, LOG, False),
        (NO_LOG, LOG, False),
        (NO_LOG, EMPTY_LOG, False),
        (EMPTY_LOG, NO_LOG, False),
        (JOURNAL, {**JOURNAL, "-journal": (4, 512, 5, 7)}, False),
        ({}, NO_LOG, False),
    ],
)
def test_sidecars_have_to_be_as_recorded_and_their_logs_empty(recorded: Any, now: Any, same: bool) -> None:
    fields = json.loads(json.dumps({"origin": {"sidecars": recorded}}))

    assert same_sidecars(fields, now, logs=("-wal",)) is same


def sessions(database: Path) -> int:
    db = sqlite3.connect(f"file:{database}?immutable=1", uri=True)
    try:
        return int(db.execute("select count(*) from chat_session").fetchone()[0])
    finally:
        db.close()


def test_a_commit_that_is_only_in_the_wal_is_captured(home: Environment) -> None:
    """The main file's stat does not change: the sidecars have to be looked at."""
    database = home.env.chat_db
    with live(home.env) as writer:
        rows = writer.write(1)
        first = home.create("--only", "chat")
        main = database.stat()
        rows += 2
        assert writer.write(2) == rows
        assert (database.stat().st_mtime_ns, database.stat().st_ctime_ns) == (main.st_mtime_ns, main.st_ctime_ns)
        second = home.create("--only", "chat")

        assert sessions(home.stored(second, database)) == rows
        assert sessions(home.stored(first, database)) == rows - 2
        assert not same_file(home.stored(first, database), home.stored(second, database))


def test_the_first_commit_after_the_last_backup_is_captured(home: Environment) -> None:
    """Then, there was no `-wal` at all; now there is, beside an unchanged file."""
    first = home.create("--only", "chat")
    before = home.env.chat_db.stat()
    with live(home.env) as writer:
        rows = writer.write(1)
        assert home.env.chat_db.stat().st_ctime_ns == before.st_ctime_ns

        second = home.create("--only", "chat")

    assert sessions(home.stored(second, home.env.chat_db)) == rows
    assert not same_file(home.stored(first, home.env.chat_db), home.stored(second, home.env.chat_db))


def test_an_idle_database_with_an_open_application_is_shared(home: Environment) -> None:
    db = sqlite3.connect(home.env.chat_db)
    try:
        db.execute("pragma journal_mode=wal")
        db.execute("select count(*) from chat_session").fetchone()
        home.create("--only", "chat")
        first, second = home.create("--only", "chat"), home.create("--only", "chat")
    finally:
        db.close()

    assert shared(first, second) == {"data/chat.db"}


def test_a_cache_that_is_held_open_and_was_not_written_to_is_shared(home: Environment) -> None:
    first = home.create()
    with holding_duckdb(home.env):
        second = home.create()

    assert "cache/docmind.duckdb" in shared(first, second)


def test_what_is_in_a_log_of_a_cache_is_captured(home: Environment) -> None:
    first = home.create()
    with holding_duckdb(home.env) as writer:
        writer.write(2)
        writer.kill()

    second = home.create()

    assert "cache/docmind.duckdb.wal" in files(second)
    assert files(second)["cache/docmind.duckdb.wal"].size > 0
    assert "cache/docmind.duckdb" in shared(first, second), "the main file is the same bytes"
    assert home.verify(second) == 0


def test_a_damaged_database_is_named_each_time(home: Environment) -> None:
    with home.env.chat_db.open("r+b") as file:
        file.seek(5000)
        file.write(b"\xff" * 3000)
    first, second = home.create(code=3), home.create(code=3)

    assert [o.reason for o in record(second).omissions] == [o.reason for o in record(first).omissions] != []
    assert "data/chat.db" in shared(first, second), "damaged or not, the same bytes take no space"


# -- collections ---------------------------------------------------------------------------------


def test_a_collection_that_is_the_same_download_is_shared(cli: Cli, env: DocMindV2, server: StandIn) -> None:
    options = ("-C", env.project, "--no-prune", "--quiet", "--only", "qdrant")
    server.set_clock(datetime(2026, 7, 18, 5, 27, 55, tzinfo=UTC))
    assert cli("create", *options).code == 0
    server.set_clock(datetime(2026, 7, 18, 5, 28, 55, tzinfo=UTC))  # its seconds name the snapshots
    server.upsert(env.image_collection, image_points([("a" * 64, "b" * 64)], 3))
    assert cli("create", *options).code == 0

    first, second = sorted(backups(env.backups), key=lambda b: record(b).sequence)
    one, other = snapshots(first), snapshots(second)
    assert same_file(first / one["text"], second / other["text"])
    assert one["text"] != other["text"]
    assert not same_file(first / one["image"], second / other["image"])
    assert record(second).totals.own_bytes == files(second)[other["image"]].size
    assert cli("verify", "-C", env.project, second, "--quiet").code == 0
    flip(second / other["text"], 600)
    (found,) = cli("verify", "-C", env.project, second, "--json").json()
    assert found["also_damaged"] == [record(first).id]


def snapshots(backup: Path) -> dict[str, str]:
    """Role of a collection to where its snapshot is."""
    qdrant = record(backup).qdrant
    assert qdrant
    return {taken.role: taken.path for taken in qdrant.collections}


def test_an_embedded_storage_is_shared_and_its_points_still_counted(cli: Cli, tmp_path: Path) -> None:
    env = build_v2(tmp_path / "docmind")
    storage = tmp_path / "local"
    for name in (env.text_collection, env.image_collection):
        (storage / "collection" / name).mkdir(parents=True)
        with closing(sqlite3.connect(storage / "collection" / name / "storage.sqlite")) as db:
            db.execute("create table points (id text primary key, point blob)")
            db.execute("insert into points values ('1', x'00')")
            db.commit()
    named = {name: {"vectors": {}} for name in (env.text_collection, env.image_collection)}
    (storage / "meta.json").write_text(json.dumps({"collections": named, "aliases": {}}), encoding="utf-8")
    options = ("-C", env.project, "--no-prune", "--quiet", "--qdrant-path", storage)
    time.sleep(1 - time.time() % 1)
    assert cli("create", *options).code == 0
    assert cli("create", *options).code == 0

    first, second = sorted(backups(env.backups), key=lambda b: record(b).sequence)
    assert shared(first, second) == set(files(second))
    assert record(second).totals.own_bytes == 0
    taken = [replace(c, taken_at="") for c in (record(second).qdrant or NOTHING).collections]
    assert taken == [replace(c, taken_at="") for c in (record(first).qdrant or NOTHING).collections]
    assert [c.points_max for c in taken] == [1, 1]


# -- space ---------------------------------------------------------------------------------------


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a file system of a test's own needs root")
def test_a_change_that_does_not_fit_ends_the_run_before_the_disk_is_full(home: Environment, tmp_path: Path) -> None:
    """Nobody knows beforehand how much of the old has changed."""
    place = tmp_path / "small"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=160m", "tmpfs", str(place)]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("no right to mount here")
    try:
        big = home.env.uploads / "big.bin"
        big.write_bytes(b"1" * 70_000_000)
        options = ("-C", home.env.project, *FILES, "--dest", place)
        home.settle()
        assert home.cli("create", *options).code == 0
        there = sorted(path.name for path in place.iterdir())
        assert home.cli("create", *options).code == 0, "what is shared takes no space"
        shutil.rmtree(next(path for path in backups(place) if path.name not in there))
        big.write_bytes(b"2" * 70_000_000)

        done = home.cli("create", *options)

        assert done.code == 13
        assert "more has changed than fits" in done.err
        assert sorted(path.name for path in place.iterdir()) == there
    finally:
        subprocess.run(["umount", str(place)], check=True)


# -- damage --------------------------------------------------------------------------------------


def test_damage_is_not_passed_on_once_it_is_known(home: Environment) -> None:
    first, second = home.create(), home.create()
    damaged = home.stored(first, home.upload)
    flip(damaged, 3)

    assert home.verify(first) == 4
    third = home.create()

    assert shared(third, first) == shared(third, second) == set()
    assert home.verify(third) == 0
    assert home.stored(third, home.upload).read_bytes() == home.upload.read_bytes()
    fourth = home.create()
    assert shared(third, fourth) == set(files(fourth))


def test_every_backup_that_shares_the_damage_is_named(home: Environment) -> None:
    first, second = home.create(), home.create()
    third = home.create("--no-share")
    flip(home.stored(second, home.upload), 3)

    (found,) = home.cli("verify", "-C", home.env.project, second, "--json").json()

    assert found["also_damaged"] == [record(first).id]
    words = home.cli("verify", "-C", home.env.project, second).out
    assert f"also damaged: {record(first).id}" in words
    listed = {item["id"]: item["verified"] for item in home.cli("list", "-C", home.env.project, "--json").json()}
    assert (listed[record(first).id], listed[record(third).id]) == ("damaged", None)


@pytest.mark.parametrize("how", ["longer", "later", "another", "link", "gone"])
def test_a_stored_file_that_is_not_as_it_was_is_not_shared(home: Environment, how: str) -> None:
    first = home.create()
    stored = home.stored(first, home.upload)
    stored.chmod(0o600)
    before = stored.stat()
    match how:
        case "longer":
            with stored.open("ab") as file:
                file.write(b"x")
            os.utime(stored, ns=(before.st_atime_ns, before.st_mtime_ns))
        case "later":
            os.utime(stored, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
        case "another":
            stored.rename(stored.with_name("moved"))
            shutil.copy2(stored.with_name("moved"), stored)
        case "link":
            stored.rename(stored.with_name("moved"))
            stored.symlink_to("moved")
        case _:
            stored.unlink()

    second = home.create()

    kept = home.stored(second, home.upload)
    assert not kept.is_symlink()
    assert not stored.exists() or not same_file(kept, stored.resolve())
    assert kept.read_bytes() == home.upload.read_bytes()
    assert home.verify(second) == 0


def test_a_stored_file_that_rotted_unseen_is_not_mistaken_for_the_same_content(home: Environment) -> None:
    """Its content is other than its inventory says, and the source has exactly that content now."""
    first = home.create()
    stored = home.stored(first, home.upload)
    flip(stored, 3)
    shutil.copy(stored, home.upload)

    second = home.create()

    assert not same_file(home.stored(second, home.upload), stored)
    assert home.verify(second) == 0


def test_an_inventory_that_rotted_is_not_believed(home: Environment) -> None:
    first = home.create()
    path = first / "inventory.jsonl"
    flip(path, path.read_bytes().index(b'"sha256":"') + 12)

    second = home.create()

    assert shared(second, first) == set()
    assert any("inventory.jsonl is damaged" in note for note in record(second).notes)
    assert home.verify(second) == 0


def test_a_forged_inventory_gives_nothing_of_the_host_away(home: Environment, tmp_path: Path) -> None:
    """Its lines name only what the walk finds, and only by the path that it has there."""
    first = home.create()
    rewrite(first, f"data/uploads/{home.upload.name}", b"forged")
    remember_lines(first)

    second = home.create()

    assert home.stored(second, home.upload).read_bytes() == home.upload.read_bytes()
    assert home.verify(second) == 0


# -- the earlier backup may go -------------------------------------------------------------------


def test_pruning_the_older_one_leaves_the_newer_whole(home: Environment) -> None:
    first, second = home.create(), home.create()

    assert home.cli("prune", "-C", home.env.project, "--keep-last", "1", "--quiet").code == 0

    assert not first.exists()
    assert home.verify(second) == 0
    assert subprocess.run(["sha256sum", "--quiet", "-c", "SHA256SUMS"], cwd=second, check=False).returncode == 0
    third = home.create()
    assert shared(second, third) == set(files(third))


def test_a_backup_from_the_future_is_not_shared_with(home: Environment) -> None:
    first = home.create()
    later = record(first).started_at + timedelta(days=400)
    write_record(first, replace(record(first), started_at=later, finished_at=later))

    second = home.create()

    assert shared(first, second) == set()


# -- where links end -----------------------------------------------------------------------------


def test_when_a_file_has_as_many_names_as_it_can_have_it_is_copied(home: Environment) -> None:
    most = os.pathconf(home.env.backups.parent, "PC_LINK_MAX")
    if most > 100_000:
        pytest.skip(f"a file may have {most:,} names here")
    first = home.create()
    stored = home.stored(first, home.upload)
    place = home.env.project / "names"
    place.mkdir()
    for number in range(most - stored.stat().st_nlink):
        os.link(stored, place / str(number))

    second = home.create()

    assert set(files(second)) - shared(first, second) == {f"data/uploads/{home.upload.name}"}
    assert record(second).totals.own_bytes == home.upload.stat().st_size
    assert home.verify(second) == 0


# -- clones --------------------------------------------------------------------------------------


class Clones:
    """A file system that can clone: the bytes are copied, as nobody can see the difference."""

    def __init__(self, answer: int = 0) -> None:
        self.asked = 0
        self._answer = answer

    def ioctl(self, target: int, request: int, source: int) -> int:
        self.asked += 1
        assert request == sharing.FICLONE
        if self._answer:
            raise OSError(self._answer, os.strerror(self._answer))
        while chunk := os.pread(source, 1 << 20, os.lseek(target, 0, os.SEEK_CUR)):
            os.write(target, chunk)
        return 0


@pytest.fixture
def clones(monkeypatch: pytest.MonkeyPatch) -> Clones:
    fake = Clones()
    monkeypatch.setattr(sharing, "clone", fake.ioctl)
    return fake


def test_where_the_file_system_can_clone_files_share_blocks_and_not_their_fate(
    home: Environment, clones: Clones
) -> None:
    first, second, third = home.create(), home.create(), home.create()

    assert clones.asked == len(files(second)) + len(files(third))
    assert shared(first, second) == shared(second, third) == set()
    assert record(third).totals.own_bytes == 0
    assert home.verify(second) == home.verify(third) == 0
    flip(home.stored(second, home.upload), 3)
    assert home.verify(third) == 0


def test_a_clone_has_the_time_of_its_source(home: Environment, clones: Clones) -> None:
    home.create()
    touched(home.upload)

    second = home.create()

    assert home.stored(second, home.upload).stat().st_mtime == LONG_AGO
    assert record(second).totals.own_bytes == 0


@pytest.mark.parametrize("code", [errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY])
def test_where_it_cannot_it_is_asked_once(home: Environment, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    fake = Clones(code)
    monkeypatch.setattr(sharing, "clone", fake.ioctl)
    first, second = home.create(), home.create()

    assert fake.asked == 1
    assert shared(first, second) == set(files(second))


def test_the_request_is_the_kernels() -> None:
    """linux/fs.h: FICLONE is _IOW(0x94, 9, int)."""
    assert sharing.FICLONE == (1 << 30) | (4 << 16) | (0x94 << 8) | 9
    assert sharing.clone is fcntl.ioctl
