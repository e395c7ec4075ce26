"""One stored file, proved by the engine that wrote it: what it holds, and what is wrong with a damaged one."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pytest
from tests.snapshots import GENUINE, RECORDINGS, content, joined, made, pieces, recorded
from tests.standin.engine import Content, build

from docmind_backup import deep, engines
from docmind_backup.core.proof import PointsDigest, point_order
from docmind_backup.deep import CannotProve, prove_duckdb, prove_snapshot, prove_sqlite
from docmind_backup.errors import BackupError, DamageFound, NoSpace
from docmind_backup.scratch import PREFIX, clean, scratch

POINTS = {
    "text": 25,
    "image": 7,
    "n1": 18,
    "n2": 22,
    "custom": 10,
    "ai-memory/discussions": 42,
    "ai-memory/conventions": 15,
    "ai-memory/code-patterns": 8,
    "ai-memory/jira-data": 3,
}
PLAIN = {"params": {"vectors": {"size": 2, "distance": "Dot"}, "shard_number": 1}}


@pytest.fixture
def room(tmp_path: Path) -> Path:
    """Where scratch folders are made; empty again after every test."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    return folder


@pytest.fixture(autouse=True)
def _nothing_is_left(room: Path) -> Any:
    yield
    assert list(room.iterdir()) == []


def written(folder: Path, data: bytes) -> Path:
    path = folder / "c.snapshot"
    path.write_bytes(data)
    return path


def segments_changed(snapshot: bytes, change: Callable[[dict[str, bytes]], None]) -> bytes:
    """The snapshot with `change` made to the members of each of its segments."""
    parts = pieces(snapshot)
    for name in [name for name in parts if name.endswith(".tar")]:
        inner = pieces(content(parts[name]))
        change(inner)
        parts[name] = made(name, b"".join(inner.values()))
    return joined(parts)


def emptied(word: str) -> Callable[[dict[str, bytes]], None]:
    """Members with `word` in their names hold nothing any more."""

    def change(inner: dict[str, bytes]) -> None:
        inner.update({name: made(name) for name in inner if word in name})

    return change


def without(word: str) -> Callable[[dict[str, bytes]], None]:
    def change(inner: dict[str, bytes]) -> None:
        for name in [name for name in inner if word in name]:
            del inner[name]

    return change


def without_log(snapshot: bytes) -> bytes:
    """As of a collection whose write-ahead log has been cut: all that is left is in the segments."""
    return joined({name: blocks for name, blocks in pieces(snapshot).items() if "/wal/" not in name})


# -- collection snapshots ------------------------------------------------------------------------


@pytest.mark.parametrize("name", GENUINE)
def test_every_recorded_snapshot_has_the_points_its_server_counted(name: str, tmp_path: Path, room: Path) -> None:
    proof = prove_snapshot(written(tmp_path, recorded(name)), scratch_root=room)

    assert (proof.points, proof.in_segments, sum(proof.shards.values())) == (POINTS[name],) * 3
    assert proof.elsewhere == {"n1": ("0",), "n2": ("1",), "custom": ("2",)}.get(name, ())
    assert set(proof.vectors.values()) == {POINTS[name]}


@pytest.mark.parametrize("name", ["text", "image"])
def test_ids_and_payloads_are_those_of_the_recorded_scroll(name: str, tmp_path: Path, room: Path) -> None:
    scrolled = json.loads((RECORDINGS / f"{name}.points.json").read_bytes())
    digest = PointsDigest()
    for point in sorted(scrolled, key=lambda one: point_order(one["id"])):
        digest.add(point["id"], point["payload"])

    proof = prove_snapshot(written(tmp_path, recorded(name)), scratch_root=room)

    assert proof.digest == digest.hexdigest()


def test_the_digest_is_of_ids_and_payloads_not_of_how_they_are_stored(tmp_path: Path, room: Path) -> None:
    uuid = "0b0e8b5a-3a4b-4c5d-8e6f-7a8b9c0d1e2f"
    points = [
        {"id": 9, "vector": [1.0, 0.0], "payload": {"b": [1, 2.5, None], "a": {"z": "é", "y": True}}},
        {"id": uuid, "vector": [0.5, 1.0], "payload": {}},
        {"id": 2, "vector": [0.0, 1.0], "payload": {"a": 2**63}},
    ]
    digests = {
        prove_snapshot(written(tmp_path, built(order)), scratch_root=room).digest
        for order in (points, points[::-1], [{**p, "vector": [3.0, 4.0]} for p in points])
    }

    expected = PointsDigest()
    for point in (points[2], points[0], points[1]):
        expected.add(point["id"], point["payload"])  # type: ignore[arg-type]
    assert digests == {expected.hexdigest()}
    assert prove_snapshot(written(tmp_path, built(points[:2])), scratch_root=room).digest not in digests


def built(points: list[dict[str, Any]]) -> bytes:
    return build(Content(PLAIN, {}, tuple(points)), peer_id=1)


def test_more_points_than_one_page_and_an_empty_collection(tmp_path: Path, room: Path) -> None:
    many = [{"id": n, "vector": [1.0, float(n)], "payload": {"n": n}} for n in range(2 * engines.PAGE + 1)]

    assert prove_snapshot(written(tmp_path, built(many)), scratch_root=room).points == len(many)
    empty = prove_snapshot(written(tmp_path, built([])), scratch_root=room)
    assert (empty.points, empty.digest) == (0, PointsDigest().hexdigest())


def test_an_emptied_id_tracker_is_seen_although_the_log_brings_the_points_back(tmp_path: Path, room: Path) -> None:
    data = segments_changed(recorded("text"), emptied("id_tracker.mappings"))

    proof = prove_snapshot(written(tmp_path, data), scratch_root=room)

    assert (proof.points, proof.in_segments) == (25, 0)
    assert prove_snapshot(written(tmp_path, without_log(data)), scratch_root=room).points == 0


@pytest.mark.parametrize("word", ["payload_storage/page_0.dat", "vectors/chunk_0.mmap", "store/tracker.dat"])
@pytest.mark.parametrize("change", [emptied, without])
def test_what_the_engine_cannot_read_is_damage(
    change: Callable[[str], Callable[[dict[str, bytes]], None]], word: str, tmp_path: Path, room: Path
) -> None:
    data = segments_changed(recorded("text"), change(word))

    with pytest.raises(DamageFound, match="cannot read it"):
        prove_snapshot(written(tmp_path, data), scratch_root=room)


def test_a_panic_of_the_engine_is_damage(tmp_path: Path, room: Path) -> None:
    data = segments_changed(recorded("text"), emptied("deleted/status.dat"))

    with pytest.raises(DamageFound, match="index out of bounds"):
        prove_snapshot(written(tmp_path, data), scratch_root=room)


def test_an_unreadable_log_is_damage_and_says_what_the_segments_hold(tmp_path: Path, room: Path) -> None:
    parts = pieces(recorded("text"))
    for name in [name for name in parts if "/wal/" in name]:
        parts[name] = made(name, b"junk")

    with pytest.raises(DamageFound, match="segments alone hold 25 points"):
        prove_snapshot(written(tmp_path, joined(parts)), scratch_root=room)


def test_a_snapshot_that_is_cut_short_or_reaches_out_is_never_unpacked(tmp_path: Path, room: Path) -> None:
    whole = recorded("text")
    hostile = [
        whole[: len(whole) // 2],
        b"junk",
        b"",
        joined({**pieces(whole), "../out": made("../out", b"!")}),
        joined({**pieces(whole), "/tmp/out": made("/tmp/out", b"!")}),
        joined({**pieces(whole), "0/link": made("0/link", type=tarfile.SYMTYPE, linkname="/etc")}),
        joined({**pieces(whole), "0/hard": made("0/hard", type=tarfile.LNKTYPE, linkname="config.json")}),
        joined({**pieces(whole), "0/null": made("0/null", type=tarfile.CHRTYPE, devmajor=1, devminor=3)}),
    ]

    for data in hostile:
        with pytest.raises(DamageFound):
            prove_snapshot(written(tmp_path, data), scratch_root=room)
    assert not (tmp_path / "out").exists()


def test_fifty_flipped_bits_never_end_the_tool(tmp_path: Path, room: Path) -> None:
    dice = random.Random(5)
    outcomes = set()
    for _ in range(6):
        data = bytearray(recorded("text"))
        for _ in range(50):
            data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
        try:
            outcomes.add(type(prove_snapshot(written(tmp_path, bytes(data)), scratch_root=room)))
        except (DamageFound, CannotProve) as error:
            outcomes.add(type(error))
    assert outcomes


def test_the_snapshot_itself_is_only_read(tmp_path: Path, room: Path) -> None:
    path = written(tmp_path, recorded("text"))
    path.chmod(0o400)
    before = path.stat()

    prove_snapshot(path, scratch_root=room)

    assert path.read_bytes() == recorded("text")
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == (before.st_mtime_ns, before.st_ino)


# -- the process ---------------------------------------------------------------------------------


def replaced(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, program: str) -> None:
    """The engine's process runs `program` instead; `folder` is its scratch folder."""
    script = tmp_path / "engine.sh"
    script.write_text(f"#!/bin/sh\nfolder=$6\n{program}\n")
    script.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(script))


@pytest.mark.parametrize(
    ("program", "error", "words"),
    [
        ("kill -ABRT $$", DamageFound, "SIGABRT"),
        ("kill -SEGV $$", DamageFound, "SIGSEGV"),
        ("echo memory allocation of 51539614416 bytes failed >&2; kill -ABRT $$", DamageFound, "51539614416 bytes"),
        ("kill -KILL $$", CannotProve, "SIGKILL"),
        ("kill -ILL $$", CannotProve, "SIGILL"),
        ("exit 3", CannotProve, "exit 3"),
    ],
)
def test_a_process_that_dies_is_damage_when_it_died_of_the_file(
    program: str, error: type[BackupError], words: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, room: Path
) -> None:
    replaced(monkeypatch, tmp_path, program)

    with pytest.raises(error, match=words):
        prove_snapshot(written(tmp_path, recorded("text")), scratch_root=room)


def test_an_engine_that_hangs_is_killed_and_proves_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, room: Path
) -> None:
    pid = tmp_path / "pid"
    replaced(monkeypatch, tmp_path, f"trap '' TERM INT HUP; echo $$ >{pid}.new; mv {pid}.new {pid}; exec sleep 1000")

    with pytest.raises(CannotProve, match="no end"):
        prove_snapshot(written(tmp_path, recorded("text")), scratch_root=room, timeout_s=0.5)

    assert not pid.exists() or not Path(f"/proc/{pid.read_text().strip()}").exists()


def test_without_the_extra_it_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, room: Path
) -> None:
    path = written(tmp_path, recorded("text"))
    for found, words in (("0.8.3", "too old: 0.9 is needed"), (None, "not installed")):

        def version(package: str, found: str | None = found) -> str:
            if found is None:
                raise deep.PackageNotFoundError(package)
            return found

        monkeypatch.setattr(deep, "version", version)
        with pytest.raises(CannotProve, match=words) as caught:
            prove_snapshot(path, scratch_root=room)
        assert (caught.value.exit_code, caught.value.hint) == (5, "pip install 'docmind-backup[deep]'")


def test_too_little_room_is_seen_before_anything_is_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, room: Path
) -> None:
    path = written(tmp_path, recorded("text"))
    monkeypatch.setattr("docmind_backup.scratch.KEEP_FREE", 1 << 62)

    with pytest.raises(NoSpace, match="scratch space") as caught:
        prove_snapshot(path, scratch_root=room)

    assert "TMPDIR" in caught.value.hint


def test_the_next_run_removes_what_a_killed_one_left_and_nothing_that_is_in_use(room: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from docmind_backup.scratch import scratch\n"
        "with scratch(0, Path(sys.argv[1])) as made:\n"
        "    (made.path / 'file').write_text('x'); print(made.path, flush=True); time.sleep(1000)"
    )
    process = subprocess.Popen([sys.executable, "-c", program, str(room)], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    left = Path(process.stdout.readline().strip())
    assert clean(room) == ()
    process.kill()
    process.communicate()
    (room / "not ours").mkdir()

    with scratch(0, room) as made:
        assert sorted(room.iterdir()) == sorted([made.path, room / "not ours"])

    assert left.name.startswith(PREFIX)
    (room / "not ours").rmdir()


def test_a_link_with_the_name_of_a_scratch_folder_is_left_alone(room: Path, tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    link = room / f"{PREFIX}x"
    link.symlink_to(tmp_path / "precious")

    assert clean(room) == ()

    assert (tmp_path / "precious").is_dir()
    link.unlink()


def test_what_another_user_left_is_left_to_that_user(room: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs, me = room / f"{PREFIX}x", os.geteuid()
    theirs.mkdir()
    with monkeypatch.context() as somebody_else:
        somebody_else.setattr(os, "geteuid", lambda: me + 1)
        assert clean(room) == ()
        assert theirs.is_dir()

    assert clean(room) == (theirs,)


def test_an_engines_process_ends_itself_when_nobody_is_left_to_end_it(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)  # opening it waits for a writer that never comes

    command = [sys.executable, "-m", "docmind_backup.engines", "snapshot", str(fifo), str(tmp_path), "1"]
    done = subprocess.run(command, capture_output=True, check=False)

    assert done.returncode == -signal.SIGALRM


# -- SQLite --------------------------------------------------------------------------------------


def chats(path: Path, *, wal: bool = False) -> sqlite3.Connection:
    database = sqlite3.connect(path, isolation_level=None)
    database.execute(f"PRAGMA journal_mode={'WAL' if wal else 'DELETE'}")
    database.execute("CREATE TABLE thread(id INTEGER PRIMARY KEY)")
    database.execute("CREATE TABLE message(id INTEGER PRIMARY KEY, thread REFERENCES thread(id), text)")
    database.execute("CREATE INDEX by_text ON message(text)")
    database.execute("INSERT INTO thread VALUES (1)")
    database.executemany("INSERT INTO message VALUES (?, 1, ?)", [(n, f"text {n}") for n in range(500)])
    return database


def test_a_sound_sqlite_file_is_counted_and_leaves_no_sidecar(tmp_path: Path, room: Path) -> None:
    folder = tmp_path / "with ? and %"
    folder.mkdir()
    path = folder / "chat.db"
    chats(path, wal=True).close()
    path.chmod(0o400)

    found = prove_sqlite(path, scratch_root=room)

    assert found.rows == {"message": 500, "thread": 1}
    assert list(folder.iterdir()) == [path]


def test_rows_that_are_only_in_a_log_beside_it_are_counted_in_a_copy(tmp_path: Path, room: Path) -> None:
    database = chats(tmp_path / "live.db", wal=True)
    for suffix in ("", "-wal"):
        (tmp_path / f"chat.db{suffix}").write_bytes((tmp_path / f"live.db{suffix}").read_bytes())
    database.close()
    before = (tmp_path / "chat.db-wal").read_bytes()

    found = prove_sqlite(tmp_path / "chat.db", ("-wal",), scratch_root=room)

    assert found.rows["message"] == 500
    assert (tmp_path / "chat.db-wal").read_bytes() == before
    assert not (tmp_path / "chat.db-shm").exists()


def test_foreign_keys_to_nothing_are_named_and_no_damage_of_the_copy(tmp_path: Path, room: Path) -> None:
    path = tmp_path / "chat.db"
    database = chats(path)
    database.execute("DELETE FROM thread")
    database.close()

    found = prove_sqlite(path, scratch_root=room)

    assert len(found.orphans) == engines.WORST
    assert found.orphans[0] == "row 0 of message refers to nothing in thread"


def test_a_broken_page_of_a_sqlite_file_is_damage(tmp_path: Path, room: Path) -> None:
    path = tmp_path / "chat.db"
    chats(path).close()
    data = bytearray(path.read_bytes())
    data[4096 * 3 + 100 : 4096 * 4] = b"\xff" * (4096 - 100)
    path.write_bytes(data)
    with pytest.raises(DamageFound):
        prove_sqlite(path, scratch_root=room)

    path.write_bytes(b"not a database" * 100)
    with pytest.raises(DamageFound, match="not a database"):
        prove_sqlite(path, scratch_root=room)


def test_what_only_the_application_understands_is_not_called_damage(tmp_path: Path, room: Path) -> None:
    path = tmp_path / "chat.db"
    database = sqlite3.connect(path)
    database.create_collation("OWN", lambda a, b: (a > b) - (a < b))
    database.execute("CREATE TABLE t(name TEXT COLLATE OWN)")
    database.execute("CREATE INDEX i ON t(name)")
    database.execute("INSERT INTO t VALUES ('a'), ('b')")
    database.commit()
    database.close()

    with pytest.raises(CannotProve, match="OWN"):
        prove_sqlite(path, scratch_root=room)


# -- DuckDB --------------------------------------------------------------------------------------


def test_duckdb_rows_are_counted_with_their_log_and_nothing_is_written_beside(tmp_path: Path, room: Path) -> None:
    live = tmp_path / "live.duckdb"
    database = duckdb.connect(str(live))
    database.execute("PRAGMA wal_autocheckpoint='1GB'")
    database.execute("CREATE TABLE keyvalue(key VARCHAR PRIMARY KEY, value JSON)")
    database.execute("INSERT INTO keyvalue SELECT 'k' || i, '{}' FROM range(500) r(i)")
    database.execute("CREATE SCHEMA other")
    database.execute('CREATE TABLE other."a ""table" AS SELECT 1 AS one')
    database.execute("CREATE VIEW view AS SELECT * FROM keyvalue")
    folder = tmp_path / "backup"
    folder.mkdir()
    for suffix in ("", ".wal"):
        (folder / f"c.duckdb{suffix}").write_bytes(Path(f"{live}{suffix}").read_bytes())
        (folder / f"c.duckdb{suffix}").chmod(0o400)
    database.close()
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}

    found = prove_duckdb(folder / "c.duckdb", (".wal",), scratch_root=room)

    assert found.rows == {"keyvalue": 500, 'other.a "table': 1}
    assert {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()} == before


def test_a_damaged_block_of_a_duckdb_file_is_found(tmp_path: Path, room: Path) -> None:
    path = tmp_path / "c.duckdb"
    with duckdb.connect(str(path)) as database:
        database.execute("CREATE TABLE t AS SELECT range AS n, 'text ' || range AS words FROM range(200000)")
    data = bytearray(path.read_bytes())
    for at in range(0x3000 + 262144 + 5000, len(data), 262144):
        data[at] ^= 1
    path.write_bytes(data)
    with pytest.raises(DamageFound, match="cannot read it"):
        prove_duckdb(path, scratch_root=room)

    path.write_bytes(b"not a database" * 100)
    with pytest.raises(DamageFound, match="cannot read it"):
        prove_duckdb(path, scratch_root=room)


def test_a_duckdb_file_of_a_newer_version_is_not_called_damaged() -> None:
    words = "IO Error: Trying to read a database file with version number 99, but we can only read versions 64 to 67."

    assert not engines._is_damage(duckdb.IOException(words))
    assert engines._is_damage(duckdb.IOException("IO Error: Corrupt database file: computed checksum 1"))
    assert not engines._is_damage(duckdb.CatalogException("a type of an extension that is not here"))


def test_the_larger_the_file_the_longer_the_engine_may_take() -> None:
    assert deep._patience(1 << 30) > deep._patience(0) + 60
