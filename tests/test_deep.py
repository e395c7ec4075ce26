"""What `verify --deep` promises: all that an engine can open is opened, counted and held against the record."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.catalogs import (
    NOON,
    clone,
    contents,
    flip,
    made_by_the_command_line,
    only_backup,
    record,
    rewrite,
    write_record,
)
from tests.conftest import Cli
from tests.environments import DocMindV2, build_v1, write_upload
from tests.snapshots import RECORDINGS, joined, pieces, recorded
from tests.test_engines import emptied, segments_changed, without, without_log

from docmind_backup import deep
from docmind_backup.catalog import Catalog
from docmind_backup.core.model import Omission, Part, Reason, Seal
from docmind_backup.core.proof import PointsDigest, Proof, lack, point_order
from docmind_backup.core.verifier import Unread, Verification
from docmind_backup.looking import Look
from docmind_backup.rounds import Extent, Verifier
from docmind_backup.sample import build_sample

DAY = timedelta(days=1)


@pytest.fixture(autouse=True)
def room(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Where scratch folders are made; empty again after every test."""
    folder = tmp_path_factory.mktemp("room")
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert list(folder.iterdir()) == []


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_by_the_command_line(tmp_path_factory.mktemp("made"))


@pytest.fixture(scope="module")
def collections_alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_by_the_command_line(tmp_path_factory.mktemp("made"), "--only", "qdrant")


@pytest.fixture
def collections(collections_alone: Path, tmp_path: Path) -> Path:
    """A backup of two collections and nothing else."""
    copied = tmp_path / "root" / collections_alone.name
    shutil.copytree(collections_alone, copied)
    return copied


@pytest.fixture
def backup(pristine: Path, tmp_path: Path) -> Path:
    copied = tmp_path / "root" / pristine.name
    shutil.copytree(pristine, copied, symlinks=True)
    return copied


def verified(cli: Cli, what: Path, *options: object) -> tuple[int, Any]:
    """`verify --deep --json`: (exit code, the one element)."""
    result = cli("verify", what, "--dest", what.parent, "-C", what.parent.parent, "--deep", "--json", *options)
    assert "Traceback" not in result.err
    (found,) = result.json()
    return result.code, found


def with_snapshot(backup: Path, data: bytes, points: int, most: int = 0) -> str:
    """Put `data` in the place of the first collection's snapshot, as if it had been captured so; its path."""
    made = record(backup)
    assert made.qdrant
    taken, *others = made.qdrant.collections
    rewrite(backup, taken.path, data)
    made = record(backup)
    changed = replace(taken, size=len(data), points_min=points, points_max=most or points)
    assert made.qdrant
    write_record(backup, replace(made, qdrant=replace(made.qdrant, collections=(changed, *others))))
    return taken.path


def findings(found: Any) -> list[tuple[str, str]]:
    return [(one["kind"], one["path"]) for one in found["findings"]]


# -- intact --------------------------------------------------------------------------------------


def test_everything_that_an_engine_can_open_is_opened_and_nothing_is_left_behind(cli: Cli, backup: Path) -> None:
    before = contents(backup)

    code, found = verified(cli, backup)

    assert (code, found["verdict"], found["level"], found["unproved"]) == (0, "intact", "deep", [])
    made = record(backup)
    assert made.qdrant
    points = {one["name"]: one["points"] for one in found["deep"]["collections"]}
    assert points == {taken.name: taken.points_max for taken in made.qdrant.collections}
    rows = {one["path"]: sum(one["rows"].values()) for one in found["deep"]["databases"]}
    assert rows.keys() == {"cache/docmind.duckdb", "data/chat.db", "data/analytics/analytics.duckdb"}
    assert min(rows.values()) > 0
    assert contents(backup) == before


def test_a_deep_verification_is_remembered_and_shown_with_its_digests(cli: Cli, backup: Path) -> None:
    _, found = verified(cli, backup)
    digests = {one["name"]: one["digest"] for one in found["deep"]["collections"]}
    where = ("--dest", backup.parent, "-C", backup.parent.parent)

    (listed,) = cli("list", "--json", *where).json()

    assert (listed["verified_level"], found["remembered"]) == ("deep", True)
    assert {one["name"]: one["digest"] for one in listed["deep"]["collections"]} == digests
    assert "now deep" in cli("list", *where).out
    shown = cli("show", *where).out
    assert all(digest in shown for digest in digests.values())
    cli("verify", backup, *where)
    (listed,) = cli("list", "--json", *where).json()
    assert listed["verified_level"] == "full"
    assert {one["name"]: one["digest"] for one in listed["deep"]["collections"]} == digests
    assert "opened by its engines now" in cli("show", *where).out


def test_two_backups_of_the_same_points_have_the_same_digests(cli: Cli, env: DocMindV2) -> None:
    digests = []
    for _ in range(2):
        assert cli("create", "-C", env.project, "--quiet").code == 0
        found = cli("verify", "-C", env.project, "--deep", "--json").json()[0]
        digests.append({one["name"]: one["digest"] for one in found["deep"]["collections"]})
    assert digests[0] == digests[1]
    assert len(set(digests[0].values())) == 2


# -- the recorded real snapshots -----------------------------------------------------------------


@pytest.mark.parametrize(("name", "points"), [("text", 25), ("image", 7)])
def test_a_recorded_real_snapshot_passes_with_its_points_and_its_payloads(
    name: str, points: int, cli: Cli, collections: Path
) -> None:
    with_snapshot(collections, recorded(name), points)
    scrolled = json.loads((RECORDINGS / f"{name}.points.json").read_bytes())
    digest = PointsDigest()
    for point in sorted(scrolled, key=lambda one: point_order(one["id"])):
        digest.add(point["id"], point["payload"])

    code, found = verified(cli, collections)

    assert (code, found["verdict"]) == (0, "intact")
    proved = found["deep"]["collections"][0]
    assert (proved["points"], proved["digest"]) == (points, digest.hexdigest())


def test_one_flipped_bit_in_a_real_snapshot_is_found(cli: Cli, collections: Path) -> None:
    path = with_snapshot(collections, recorded("text"), 25)
    flip(collections / path, 70_000)

    code, found = verified(cli, collections)

    assert (code, findings(found)) == (4, [("altered", path)])
    assert len(found["deep"]["collections"]) == 1, "the other one is proved all the same"


def cut_short(snapshot: bytes) -> bytes:
    return snapshot[: len(snapshot) // 2]


def a_shard_file_missing(snapshot: bytes) -> bytes:
    return joined({name: blocks for name, blocks in pieces(snapshot).items() if name != "0/shard_config.json"})


def a_segment_missing(snapshot: bytes) -> bytes:
    """The one that holds the points."""
    parts = pieces(snapshot)
    largest = max((name for name in parts if name.endswith(".tar")), key=lambda name: len(parts[name]))
    return joined({name: blocks for name, blocks in parts.items() if name != largest})


def an_id_tracker_emptied(snapshot: bytes) -> bytes:
    return segments_changed(snapshot, emptied("id_tracker.mappings"))


def an_id_tracker_gone(snapshot: bytes) -> bytes:
    return segments_changed(snapshot, without("id_tracker"))


def payloads_emptied(snapshot: bytes) -> bytes:
    return segments_changed(snapshot, emptied("payload_storage/page_0.dat"))


@pytest.mark.parametrize("log", [recorded, lambda name: without_log(recorded(name))], ids=["log", "no log"])
@pytest.mark.parametrize(
    ("damage", "seen_without"),
    [
        (cut_short, True),
        (a_shard_file_missing, True),
        (a_segment_missing, False),
        (an_id_tracker_emptied, False),
        (an_id_tracker_gone, False),
        (payloads_emptied, False),
    ],
)
def test_a_real_snapshot_that_was_captured_broken_is_found(
    damage: Callable[[bytes], bytes], seen_without: bool, log: Callable[[str], bytes], cli: Cli, collections: Path
) -> None:
    path = with_snapshot(collections, damage(log("text")), 25)

    code, found = verified(cli, collections)

    assert (code, {finding[1] for finding in findings(found)}) == (4, {path})
    shallow = cli("verify", collections, "--dest", collections.parent, "-C", collections.parent.parent, "--json")
    assert shallow.code == (4 if seen_without else 0)


def test_points_out_of_the_recorded_range_are_found_and_within_it_are_not(cli: Cli, collections: Path) -> None:
    path = with_snapshot(collections, recorded("text"), 20, 30)
    assert verified(cli, collections)[0] == 0

    for low, high in ((26, 30), (20, 24)):
        with_snapshot(collections, recorded("text"), low, high)
        code, found = verified(cli, collections)
        assert (code, findings(found)) == (4, [("altered", path)])
        assert "it has 25 points, the record says" in found["findings"][0]["what"]


def test_a_snapshot_of_one_node_of_two_says_what_cannot_be_held_against_it(cli: Cli, collections: Path) -> None:
    path = with_snapshot(collections, recorded("n1"), 40)

    code, found = verified(cli, collections)

    assert (code, found["verdict"], found["level"]) == (5, "not fully checked", "full")
    (unproved,) = found["unproved"]
    assert unproved["what"] == path
    assert "18 points in 1 of 2 shards" in unproved["why"]


@pytest.mark.parametrize(("version", "code"), [("1.18.3", 4), ("1.16.0", 4), ("1.12.4", 5), ("1.31.0", 5), ("", 5)])
def test_what_the_engine_need_not_know_is_not_called_damaged(
    version: str, code: int, cli: Cli, collections: Path
) -> None:
    path = with_snapshot(collections, payloads_emptied(recorded("text")), 25)
    made = record(collections)
    assert made.qdrant
    write_record(collections, replace(made, qdrant=replace(made.qdrant, version=version)))

    got, found = verified(cli, collections)

    assert got == code
    assert [one["what"] for one in found["unproved"]] == ([path] if code == 5 else [])


PROOFS = [
    (Proof(25, "", 25), 25, 25, ""),
    (Proof(24, "", 24), 25, 25, "it has 24 points, the record says 25"),
    (Proof(26, "", 26), 25, 25, "it has 26 points, the record says 25"),
    (Proof(25, "", 0), 25, 25, "its segments hold 0 points"),
    (Proof(28, "", 27), 25, 30, ""),
    (Proof(18, "", 18, elsewhere=("0",)), 40, 40, ""),
    (Proof(41, "", 41, elsewhere=("0",)), 40, 40, "it has 41 points"),
]


@pytest.mark.parametrize(("proof", "low", "high", "words"), PROOFS)
def test_points_are_held_against_the_record(proof: Proof, low: int, high: int, words: str, pristine: Path) -> None:
    made = record(pristine)
    assert made.qdrant
    taken = replace(made.qdrant.collections[0], points_min=low, points_max=high)

    assert lack(taken, proof).startswith(words)
    assert bool(lack(taken, proof)) == bool(words)


# -- databases -----------------------------------------------------------------------------------


def broken_sqlite(backup: Path) -> bytes:
    data = bytearray((backup / "data/chat.db").read_bytes())
    data[4096 * 2 : 4096 * 3] = b"\xff" * 4096
    return bytes(data)


def test_a_database_that_was_captured_broken_is_found_unless_the_record_knows(cli: Cli, backup: Path) -> None:
    rewrite(backup, "data/chat.db", broken_sqlite(backup))
    code, found = verified(cli, backup)
    assert (code, findings(found)) == (4, [("altered", "data/chat.db")])

    known = Omission(Part.CHAT, "data/chat.db", Reason.DAMAGED, "kept as it is")
    write_record(backup, replace(record(backup), omissions=(known,)))
    code, found = verified(cli, backup)
    assert (code, findings(found)) == (0, [])
    assert "data/chat.db was damaged in its source already" in " ".join(found["deep"]["remarks"])


def test_a_log_that_was_kept_beside_a_database_is_replayed_in_a_copy(cli: Cli, env: DocMindV2) -> None:
    from tests.environments import crash

    crashed = crash(env)
    assert cli("create", "-C", env.project, "--quiet").code == 0
    backup = only_backup(env.backups)
    assert (backup / "cache/docmind.duckdb.wal").stat().st_size
    before = contents(backup)

    _, found = verified(cli, backup)

    rows = {one["path"]: one["rows"] for one in found["deep"]["databases"]}
    assert rows["cache/docmind.duckdb"]["keyvalue"] == crashed.cache_rows
    assert rows["data/chat.db"]["chat_session"] == crashed.chat_sessions
    assert contents(backup) == before


def test_an_embedded_storage_is_counted_and_never_unpickled(cli: Cli, tmp_path: Path) -> None:
    project = build_sample(tmp_path / "docmind").project
    assert cli("create", "-C", project, "--qdrant-path", project / "data/qdrant-embedded", "--quiet").code == 0
    backup = only_backup(project / "data/backups")
    made = record(backup)
    assert made.qdrant
    taken = made.qdrant.collections[0]

    code, found = verified(cli, backup)
    assert (code, found["deep"]["collections"][0]["points"]) == (0, taken.points_max)

    copy = tmp_path / "storage.sqlite"
    copy.write_bytes((backup / taken.path).read_bytes())
    with sqlite3.connect(copy) as database:
        database.execute("DELETE FROM points WHERE rowid = (SELECT MIN(rowid) FROM points)")
    database.close()
    rewrite(backup, taken.path, copy.read_bytes())
    code, found = verified(cli, backup)
    assert (code, findings(found)) == (4, [("altered", taken.path)])


# -- uploads -------------------------------------------------------------------------------------


def test_uploads_are_held_against_the_active_index_snapshot(cli: Cli, env: DocMindV2) -> None:
    assert cli("create", "-C", env.project, "--quiet").code == 0
    backup = only_backup(env.backups)
    _, found = verified(cli, backup)
    assert f"the uploads are those that index snapshot {env.index_snapshot} was made of" in found["deep"]["remarks"]

    upload = next((backup / "data/uploads").glob("*.pdf"))
    rewrite(backup, f"data/uploads/{upload.name}", b"another")
    code, found = verified(cli, backup)
    assert (code, findings(found)) == (4, [("altered", "data/uploads")])


def test_uploads_that_docmind_has_not_indexed_yet_are_no_damage(cli: Cli, env: DocMindV2) -> None:
    (env.uploads / "new.pdf").write_bytes(b"new")
    assert cli("create", "-C", env.project, "--quiet").code == 0

    code, found = verified(cli, only_backup(env.backups))

    assert (code, found["verdict"]) == (0, "intact")
    assert any("index them again" in remark for remark in found["deep"]["remarks"])


def test_v1_uploads_are_held_against_sizes_and_times(cli: Cli, tmp_path: Path) -> None:
    env = build_v1(tmp_path / "docmind")
    for name, words in (("one", "are those"), ("two", "are not those")):
        root = tmp_path / name
        made = ("--include-uploads", "--no-qdrant-snapshot", "--quiet", "--dest", root)
        assert cli("create", "-C", env.project, *made).code == 0
        code, found = verified(cli, only_backup(root))
        assert code == 0
        assert f"the uploads {words} that index snapshot {env.index_snapshot}" in found["deep"]["remarks"][0]
        write_upload(env.uploads, 9, 1)


# -- without the extra, and how it goes with the other options -----------------------------------


def test_without_the_extra_it_says_what_it_could_not_check_and_how_to_install_it(
    cli: Cli, backup: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing(package: str) -> str:
        raise deep.PackageNotFoundError(package)

    monkeypatch.setattr(deep, "version", nothing)

    code, found = verified(cli, backup)

    assert (code, found["verdict"], found["level"]) == (5, "not fully checked", "full")
    assert {one["why"] for one in found["unproved"]} == {"qdrant-edge-py is not installed", "duckdb is not installed"}
    assert len(found["unproved"]) == 4
    assert [one["path"] for one in found["deep"]["databases"]] == ["data/chat.db"], "SQLite is always there"
    shown = cli("verify", backup, "--dest", backup.parent, "-C", backup.parent.parent, "--deep")
    assert "next: pip install 'docmind-backup[deep]'" in shown.err
    (listed,) = cli("list", "--json", "--dest", backup.parent, "-C", backup.parent.parent).json()
    assert (listed["verified"], listed["verified_level"], listed["deep"]) == ("intact", "full", None)


@pytest.mark.parametrize("options", [("--quick",), ("--sample", "10%")])
def test_deep_and_less_than_everything_exclude_each_other(options: tuple[str, ...], cli: Cli, backup: Path) -> None:
    result = cli("verify", backup, "-C", backup.parent.parent, "--deep", *options)

    assert result.code == 2
    assert "--deep" in result.err


def run_all(backup: Path, extent: Extent, day: int, ticks: Callable[[], float] = lambda: 0.0) -> dict[str, Any]:
    """By the directory's name, in the order in which they were looked at."""
    look = Look(Catalog(backup.parent), clock=lambda: NOON + day * DAY, ticks=ticks)
    verifier = Verifier(look, [one.directory for one in look.catalog.backups()], extent)
    return {directory.name: verifier.verify(directory) for directory in verifier.order}


def test_max_age_leaves_alone_what_was_opened_not_long_ago_and_only_that(collections: Path) -> None:
    deep_again = Extent(deep=True, max_age=30 * DAY)
    newer = clone(collections, 2)
    run_all(collections, Extent(), day=1)

    first = run_all(collections, deep_again, day=2)
    assert all(isinstance(one, Verification) and one.level == "deep" for one in first.values())
    assert all(isinstance(one, Unread) for one in run_all(collections, deep_again, day=20).values())
    assert all(isinstance(one, Verification) for one in run_all(collections, deep_again, day=40).values())
    assert newer.name in first


def test_no_backup_is_begun_after_the_time_and_what_was_never_opened_comes_first(collections: Path) -> None:
    newer = clone(collections, 2)
    Catalog(collections.parent).remember(collections, Seal("", None, "part", intact=True))
    seconds = iter([0.0, 1.0, 100.0])
    some = Extent(deep=True, budget=timedelta(seconds=60))

    found = run_all(collections, some, day=1, ticks=lambda: next(seconds))

    assert [type(one) for one in found.values()] == [Verification, Unread]
    opened, left = found
    assert list(run_all(collections, some, day=2)) == [left, opened]
    assert {opened, left} == {collections.name, newer.name}


# -- a run that is stopped -----------------------------------------------------------------------

HANGING = """#!/bin/sh
echo $$ > {fifo}
exec sleep 1000
"""
STOPPED = (
    "import sys; sys.executable = sys.argv.pop(1); from docmind_backup.cli import main; sys.exit(main(sys.argv[1:]))"
)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_stops_the_engine_too_and_leaves_nothing(
    number: signal.Signals, collections: Path, room: Path, tmp_path: Path
) -> None:
    fifo, engine = tmp_path / "fifo", tmp_path / "engine"
    os.mkfifo(fifo)
    engine.write_text(HANGING.format(fifo=fifo))
    engine.chmod(0o700)
    command = [sys.executable, "-c", STOPPED, str(engine), "verify", str(collections), "--deep", "-C", str(tmp_path)]
    environment = {**os.environ, "TMPDIR": str(room)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        child = int(fifo.read_text())
        assert list(room.iterdir())

        process.send_signal(number)
        _, err = process.communicate()

    assert process.returncode == 128 + number
    assert b"Traceback" not in err
    assert not Path(f"/proc/{child}").exists()
    assert list(room.iterdir()) == []
