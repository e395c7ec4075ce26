"""What `prune` promises: it removes what no rule keeps, and nothing good on the strength of something worse."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from tests.catalogs import (
    NOON,
    backups,
    clone,
    contents,
    events,
    flip,
    held_by_another,
    overwrite,
    record,
    write_record,
)
from tests.conftest import Cli, Result
from tests.environments import DocMindV2, holding_duckdb
from tests.standin import StandIn
from tests.unpacking import unpack

from docmind_backup.catalog import Catalog
from docmind_backup.core.model import Event, Omission, Part, Reason, Scope
from docmind_backup.verify import verify

RECORDED = Path(__file__).parent / "data" / "recordings" / "docmind-v2-backup.tar.xz"
COLD = Omission(Part.CACHE, "cache/docmind.duckdb", Reason.BUSY, "recoverable, cold cache", rebuildable=True)
BROKEN_CHAT = Omission(Part.CHAT, "data/chat.db", Reason.DAMAGED, "file is not a database")


Prune = Callable[..., Result]


@pytest.fixture
def prune(cli: Cli, offline: DocMindV2) -> Prune:
    def run(*options: object) -> Result:
        return cli("prune", "-C", offline.project, *options)

    return run


def ids(root: Path) -> list[str]:
    """Of the backups that are left."""
    return [id_of(path) for path in backups(root)]


def id_of(backup: Path) -> str:
    """By its directory, which may be gone by now."""
    return backup.name.partition("backup_")[2]


def nights(first: Path, count: int, **changes: Any) -> list[Path]:
    """`count` backups more, each a night later and with the next sequence."""
    return [clone(first, number, **changes) for number in range(2, count + 2)]


# -- how many stay -------------------------------------------------------------------------------


def test_two_too_many_are_made_and_as_many_as_wanted_are_left(cli: Cli, offline: DocMindV2) -> None:
    one = ("create", "-C", offline.project, "--only", "identity", "--no-prune", "--quiet")
    made = [cli(*one, "--json").json()["id"] for _ in range(5)]

    result = cli("prune", "-C", offline.project, "--keep-last", "3", "--json")

    assert (result.code, sorted(result.json()["removed"])) == (0, sorted(made[:2]))
    assert ids(offline.backups) == sorted(made[2:])


def test_create_removes_what_it_makes_too_many(cli: Cli, offline: DocMindV2) -> None:
    one = ("create", "-C", offline.project, "--only", "identity", "--keep-last", "3", "--json")
    made = [cli(*one).json() for _ in range(5)]

    assert [m["pruned"] for m in made] == [[], [], [], [made[0]["id"]], [made[1]["id"]]]
    assert ids(offline.backups) == sorted(m["id"] for m in made[2:])


def test_a_newer_backup_is_one_with_a_higher_sequence_whatever_the_clock_said(first: Path, prune: Prune) -> None:
    late = clone(first, 2, started_at=NOON - timedelta(days=900))
    later = clone(first, 3, started_at=NOON - timedelta(days=800))

    prune("--keep-last", "2", "--quiet")

    assert backups(first.parent) == sorted([late, later])


def test_what_is_left_keeps_its_content_and_what_is_gone_leaves_nothing(first: Path, prune: Prune) -> None:
    made = nights(first, 3)
    before = contents(made[-1])

    assert prune("--keep-last", "1").code == 0

    assert contents(made[-1]) == before
    assert {path.name for path in first.parent.iterdir()} == {
        made[-1].name,
        ".backup.lock",
        ".state",
        ".trash",
        "events.jsonl",
    }
    assert list((first.parent / ".trash").iterdir()) == []


def test_the_events_tell_how_many_were_removed(first: Path, prune: Prune) -> None:
    made = nights(first, 3)

    prune("--keep-last", "2", "--quiet")
    prune("--keep-last", "2", "--quiet")

    (event,) = events(first.parent, "backup_pruned")
    assert (event["deleted_count"], event["keep_last"]) == (2, 2)
    assert sorted(event["deleted"]) == sorted([id_of(first), id_of(made[0])])


@pytest.mark.parametrize(
    "options",
    [
        ("--keep-last", "2"),
        ("--keep-daily", "3"),
        ("--keep-weekly", "2", "--keep-last", "1"),
        ("--keep-monthly", "2"),
        ("--keep-within", "3d"),
    ],
    ids=" ".join,
)
def test_a_dry_run_decides_what_the_real_one_does_and_touches_nothing(
    first: Path, prune: Prune, options: tuple[str, ...]
) -> None:
    for number, days in enumerate((1, 1, 2, 9, 40, 41), start=2):
        clone(first, number, started_at=NOON + timedelta(days=days, hours=number))
    before = contents(first.parent)

    dry = prune("--dry-run", "--json", *options)

    assert contents(first.parent) == before
    real = prune("--json", *options)
    assert dry.json()["verdicts"] == real.json()["verdicts"]
    going = sorted(v["id"] for v in dry.json()["verdicts"] if not v["keep"])
    assert going
    assert (dry.json()["removed"], sorted(real.json()["removed"])) == ([], going)
    assert all(v["reasons"] for v in dry.json()["verdicts"])


@settings(
    max_examples=8, phases=[Phase.explicit, Phase.generate], suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_whatever_a_catalog_holds_the_dry_run_says_what_goes(data: st.DataObject, first: Path, cli: Cli) -> None:
    """Clocks that went back and forth, lacks, holds and damage, in any order; a catalog of its own for each."""
    root = Path(tempfile.mkdtemp(dir=first.parent.parent))
    for number in range(1, data.draw(st.integers(2, 7)) + 1):
        started_at = NOON + timedelta(hours=data.draw(st.sampled_from([-90000, -30, 0, 1, 26, 700, 300000])))
        lacks = data.draw(st.sampled_from([(), (), (COLD,), (BROKEN_CHAT,)]))
        made = clone(first, number, root=root, started_at=started_at, omissions=lacks)
        if data.draw(st.integers(0, 4)) == 0:
            catalog = Catalog(root)
            catalog.hold(catalog.read(made), "drawn")
    keep = data.draw(st.sampled_from(["--keep-last", "--keep-daily", "--keep-hourly"]))
    here = ("-C", first.parent.parent.parent, "--dest", root, keep, data.draw(st.integers(1, 3)))

    dry = cli("prune", *here, "--keep-incomplete", "1", "--dry-run", "--json").json()
    there = backups(root)
    real = cli("prune", *here, "--keep-incomplete", "1", "--json").json()

    assert (dry["verdicts"], dry["removed"]) == (real["verdicts"], [])
    goes = {verdict["id"] for verdict in dry["verdicts"] if not verdict["keep"]}
    assert backups(root) == [path for path in there if id_of(path) not in goes]
    assert cli("prune", *here, "--keep-incomplete", "1", "--json").json()["removed"] == []


def test_pruning_again_removes_nothing_more(first: Path, prune: Prune) -> None:
    nights(first, 6)
    prune("--keep-daily", "3", "--quiet")
    left = ids(first.parent)

    again = prune("--keep-daily", "3", "--json")

    assert (again.code, again.json()["removed"], ids(first.parent)) == (0, [], left)


# -- refused -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        ("--keep-last", "0"),
        ("--keep-last", "-1"),
        ("--keep-last", "all"),
        ("--keep-lats", "3"),
        ("--keep-daily", "0"),
        ("--keep-within", "0d"),
        ("--keep-within", "a week"),
        ("somewhere",),
    ],
    ids=" ".join,
)
def test_what_cannot_be_meant_is_exit_2_and_removes_nothing(
    first: Path, prune: Prune, options: tuple[str, ...]
) -> None:
    nights(first, 9)
    before = ids(first.parent)

    refused = prune(*options)

    assert refused.code == 2
    assert refused.err
    assert ids(first.parent) == before


def test_keep_last_zero_on_create_is_refused_before_anything_is_made(cli: Cli, first: Path, offline: DocMindV2) -> None:
    made = cli("create", "-C", offline.project, "--only", "identity", "--keep-last", "0")

    assert made.code == 2
    assert backups(first.parent) == [first]


def test_without_a_catalog_there_is_nothing_to_prune(cli: Cli, offline: DocMindV2) -> None:
    assert cli("prune", "-C", offline.project).code == 10
    assert not offline.backups.exists()


# -- nothing good on the strength of something worse ---------------------------------------------


def test_seven_thin_backups_do_not_push_out_the_full_one(cli: Cli, env: DocMindV2) -> None:
    full = cli("create", "-C", env.project, "--json").json()["id"]

    for _ in range(8):
        assert cli("create", "-C", env.project, "--no-qdrant-snapshot", "--keep-last", "7", "--quiet").code == 0

    assert full in ids(env.backups)
    assert len(ids(env.backups)) == 8


def test_of_eight_nights_with_a_busy_cache_the_eighth_evicts_the_first(
    cli: Cli, offline: DocMindV2, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCMIND_BACKUP_BUSY_WAIT", "0")
    with holding_duckdb(offline):
        made = [cli("create", "-C", offline.project, "--no-qdrant-snapshot", "--json") for _ in range(8)]

    assert {m.code for m in made} == {3}
    assert [m.json()["pruned"] for m in made] == [[]] * 7 + [[made[0].json()["id"]]]
    assert len(ids(offline.backups)) == 7


def test_a_corrupt_chat_database_for_eight_nights_leaves_the_last_good_backup(cli: Cli, offline: DocMindV2) -> None:
    create = ("create", "-C", offline.project, "--no-qdrant-snapshot", "--json")
    good = cli(*create).json()["id"]
    offline.chat_db.write_bytes(b"this is not a database" * 300)

    bad = [cli(*create) for _ in range(8)]

    assert {b.code for b in bad} == {3}
    assert all(b.json()["pruned"] == [] for b in bad)
    assert good in ids(offline.backups)
    assert cli("verify", "-C", offline.project, "latest", "--json").json()[0]["id"] == good
    assert cli("prune", "-C", offline.project, "--keep-last", "1", "--quiet").code == 0
    assert good in ids(offline.backups)


def test_incomplete_ones_older_than_a_good_one_go_beyond_three(first: Path, prune: Prune) -> None:
    lacking = nights(first, 5, omissions=(BROKEN_CHAT,))
    good = clone(first, 9)

    prune("--keep-last", "7", "--quiet")

    assert backups(first.parent) == sorted([first, *lacking[2:], good])


def test_a_run_that_lacks_more_than_the_cache_removes_nothing(
    cli: Cli, tmp_path: Path, server: StandIn, first: Path, offline: DocMindV2
) -> None:
    wide = replace(record(first).scope, parts=frozenset({Part.IDENTITY, Part.CHAT}))
    for number in range(2, 6):
        clone(first, number, scope=wide)
    before = ids(first.parent)
    offline.chat_db.write_bytes(b"this is not a database" * 300)

    made = cli("create", "-C", offline.project, "--only", "identity,chat", "--keep-last", "1", "--json")

    assert (made.code, made.json()["pruned"]) == (3, [])
    assert set(before) <= set(ids(first.parent))


def test_a_run_that_fails_removes_nothing(
    cli: Cli, first: Path, offline: DocMindV2, monkeypatch: pytest.MonkeyPatch
) -> None:
    nights(first, 3)
    before = ids(first.parent)
    one = ("create", "-C", offline.project, "--only", "identity", "--keep-last", "1")

    monkeypatch.setenv("DOCMIND_BACKUP_MIN_FREE", str(2**60))
    full = cli(*one)
    monkeypatch.delenv("DOCMIND_BACKUP_MIN_FREE")
    with held_by_another(first.parent / ".backup.lock"):
        locked = cli(*one)
    unreachable = cli("create", "-C", offline.project, "--keep-last", "1", "--qdrant-snapshot")

    assert (full.code, locked.code, unreachable.code) == (13, 11, 15)
    assert ids(first.parent) == before


def test_a_backup_of_another_environment_is_not_measured_against_this_one(first: Path, prune: Prune) -> None:
    elsewhere = Scope("/srv/other/data", "another", frozenset({Part.IDENTITY}), frozenset())
    other = clone(first, 9, scope=elsewhere)
    mine = nights(first, 4)

    prune("--keep-last", "1", "--quiet")

    assert backups(first.parent) == sorted([other, mine[-1]])


def test_a_damaged_newest_is_not_the_protected_one_and_evicts_nothing(cli: Cli, first: Path, prune: Prune) -> None:
    older, newest = nights(first, 2)
    flip(newest / "data" / ".deployment-id", 0)
    assert cli("verify", newest).code == 4

    result = prune("--keep-last", "1", "--json")

    assert result.json()["removed"] == [id_of(first)]
    assert backups(first.parent) == sorted([older, newest])
    flip(newest / "data" / ".deployment-id", 0)
    assert cli("verify", newest).code == 0
    prune("--keep-last", "1", "--quiet")
    assert backups(first.parent) == [newest]


def test_a_future_dated_backup_stays_and_evicts_nothing(first: Path, prune: Prune) -> None:
    older = clone(first, 2)
    ahead = clone(first, 3, started_at=datetime(2990, 1, 1, tzinfo=UTC))

    prune("--keep-last", "1", "--quiet")

    assert backups(first.parent) == sorted([older, ahead])


# -- hold ----------------------------------------------------------------------------------------


def test_a_held_backup_stays_and_counts_for_nobody_until_it_is_released(cli: Cli, first: Path, prune: Prune) -> None:
    project = first.parent.parent.parent
    made = nights(first, 3)
    held = id_of(first)
    assert cli("hold", held, "-C", project, "--reason", "before the upgrade").code == 0

    result = prune("--keep-last", "1", "--json")

    assert backups(first.parent) == sorted([first, made[-1]])
    (verdict,) = [v for v in result.json()["verdicts"] if v["id"] == held]
    assert verdict["reasons"] == ["held: before the upgrade"]
    assert "held" in cli("list", "-C", project).out

    assert cli("release", held, "-C", project).code == 0
    assert prune("--keep-last", "1", "--json").json()["removed"] == [held]


def test_the_newest_being_held_evicts_nothing(cli: Cli, first: Path, prune: Prune) -> None:
    newest = clone(first, 2)
    cli("hold", "latest", "-C", first.parent.parent.parent)

    prune("--keep-last", "1", "--quiet")

    assert backups(first.parent) == sorted([first, newest])


def test_a_hold_that_cannot_be_read_holds(cli: Cli, first: Path, prune: Prune) -> None:
    clone(first, 2)
    for garbage in (b"", b"[" * 100_000, b"[]", b"{}"):
        holds = first.parent / ".state" / "holds"
        holds.mkdir(exist_ok=True)
        (holds / f"{id_of(first)}.json").write_bytes(garbage)

        assert prune("--keep-last", "1", "--quiet").code == 0
        assert first.exists()


def test_nothing_is_held_while_somebody_may_be_removing_it(cli: Cli, first: Path, offline: DocMindV2) -> None:
    """A prune that has decided already would remove what its user was told is kept."""
    with held_by_another(first.parent / ".backup.lock"):
        assert cli("hold", first, "-C", offline.project).code == 11

    assert not list((first.parent / ".state").glob("holds/*"))


def test_a_backup_held_by_its_path_is_held_in_the_catalog_it_lies_in(
    cli: Cli, first: Path, tmp_path: Path, offline: DocMindV2
) -> None:
    other = tmp_path / "other"
    here, there = clone(first, 2, root=other), clone(first, 3, root=other)

    assert cli("hold", here, "-C", offline.project).code == 0

    assert cli("prune", "-C", offline.project, "--dest", other, "--keep-last", "1", "--quiet").code == 0
    assert backups(other) == sorted([here, there])
    assert cli("release", here, "-C", offline.project).code == 0
    assert cli("prune", "-C", offline.project, "--dest", other, "--keep-last", "1", "--quiet").code == 0
    assert backups(other) == [there]


def test_removing_a_copy_forgets_nothing_of_the_original(cli: Cli, first: Path, prune: Prune) -> None:
    """`cp -a` of a backup has the same record; only its own seal goes with it."""
    copied = first.parent / "backup_20260303_030303"
    shutil.copytree(first, copied, symlinks=True)
    newer = clone(first, 2)
    flip(first / "data" / ".deployment-id", 0)
    assert cli("verify", first).code == 4
    assert cli("verify", copied).code == 0

    prune("--keep-last", "1", "--quiet")

    assert backups(first.parent) == sorted([first, newer])
    listed = {Path(b["directory"]): b for b in cli("list", "-C", first.parent.parent.parent, "--json").json()}
    assert listed[first]["verified"] == "damaged"


# -- what is in the way --------------------------------------------------------------------------


def test_a_backup_that_is_being_read_is_skipped_and_stays_whole(first: Path, prune: Prune) -> None:
    second, third = nights(first, 2)
    before = contents(first)

    with held_by_another(first / "backup.json", "SH"):
        result = prune("--keep-last", "1", "--json")

    assert result.code == 3
    assert result.json()["removed"] == [id_of(second)]
    (failed,) = result.json()["failed"]
    assert failed["id"] == id_of(first)
    assert "being read" in failed["why"]
    assert contents(first) == before
    assert prune("--keep-last", "1", "--json").json()["removed"] == [id_of(first)]
    assert backups(first.parent) == [third]


def test_a_backup_that_is_being_verified_is_skipped(first: Path, prune: Prune) -> None:
    _, third = nights(first, 2)
    results: list[Result] = []

    def meanwhile(_event: Event) -> None:
        if not results:
            results.append(prune("--keep-last", "1", "--json"))

    assert verify(first, on_event=meanwhile).exit_code == 0

    (failed,) = results[0].json()["failed"]
    assert (failed["id"], results[0].code) == (id_of(first), 3)
    assert {*backups(first.parent)} == {first, third}


def test_create_says_with_exit_3_that_one_could_not_be_pruned(cli: Cli, first: Path, offline: DocMindV2) -> None:
    with held_by_another(first / "backup.json", "SH"):
        made = cli("create", "-C", offline.project, "--only", "identity", "--keep-last", "1", "--json")

    assert made.code == 3
    assert made.json()["completeness"] == "complete"
    assert [f["id"] for f in made.json()["prune_failed"]] == [id_of(first)]
    assert first.exists()


def test_a_link_planted_inside_a_victim_is_unlinked_and_its_target_untouched(
    first: Path, prune: Prune, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("still here")
    (first / "data" / "folder").symlink_to(outside)
    (first / "data" / "file").symlink_to(outside / "precious")
    clone(first, 2)

    assert prune("--keep-last", "1").code == 0

    assert not first.exists()
    assert (outside / "precious").read_text() == "still here"


def test_a_backup_that_is_a_link_is_not_touched(first: Path, prune: Prune, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    first.rename(elsewhere)
    first.symlink_to(elsewhere)
    root = first.parent
    newest = clone(elsewhere, 3, root=root)
    clone(elsewhere, 2, root=root)

    assert prune("--keep-last", "1").code == 0

    assert backups(root) == sorted([first, newest])
    assert (elsewhere / "backup.json").exists()


def test_the_trash_of_a_crash_is_emptied_by_the_next_run(first: Path, prune: Prune) -> None:
    """Renamed away, not deleted yet: that is where a run may have died."""
    trash = first.parent / ".trash"
    trash.mkdir(mode=0o700)
    victim = clone(first, 2)
    victim.rename(trash / victim.name)

    assert prune("--keep-last", "3").code == 0

    assert list(trash.iterdir()) == []
    assert backups(first.parent) == [first]


def test_a_trash_that_is_a_link_is_not_emptied(first: Path, prune: Prune, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("still here")
    (first.parent / ".trash").symlink_to(outside)

    assert prune("--keep-last", "3").code == 0

    assert (outside / "precious").exists()


def test_what_cannot_be_deleted_is_exit_3_and_no_hindrance_ever_after(
    cli: Cli, first: Path, prune: Prune, offline: DocMindV2
) -> None:
    stuck = first / "data" / ".deployment-id"
    if os.geteuid() == 0:
        if subprocess.run(["chattr", "+i", stuck], check=False, capture_output=True).returncode:
            pytest.skip("no immutable files on this file system, and root may delete all others")
    else:
        stuck.parent.chmod(0o500)
    clone(first, 2)
    trashed = first.parent / ".trash" / first.name
    try:
        result = prune("--keep-last", "1", "--json")
        assert (result.code, result.json()["removed"]) == (3, [])
        assert ".trash" in result.json()["failed"][0]["why"]
        assert [b["id"] for b in cli("list", "-C", offline.project, "--json").json()] == ids(first.parent)
        assert cli("create", "-C", offline.project, "--only", "identity", "--quiet").code == 0
        assert prune("--keep-last", "1", "--quiet").code == 0
    finally:
        if os.geteuid() == 0:
            subprocess.run(["chattr", "-R", "-i", first.parent], check=True)
        elif trashed.exists():
            (trashed / "data").chmod(0o700)
    assert prune("--keep-last", "1", "--quiet").code == 0
    assert not trashed.exists()


# -- what is not ours ----------------------------------------------------------------------------


def test_what_this_tool_did_not_make_or_cannot_read_is_listed_by_name_and_never_removed(
    cli: Cli, first: Path, prune: Prune
) -> None:
    root = first.parent
    with tarfile.open(RECORDED) as tar:
        unpack(tar, root)
    foreign = root / "backup_20261121_033425_6b8165a35cb0"
    broken = clone(first, 2)
    overwrite(broken / "backup.json", b"{")
    empty = root / "backup_20260101_000000"
    empty.mkdir()
    unfinished = root / "tmp-backup_20260101_000000"
    unfinished.mkdir()
    (root / "notes").mkdir()
    (root / "backup_of_something").mkdir()
    newest = clone(first, 3)

    result = prune("--keep-last", "1", "--json")

    assert (result.code, result.json()["removed"]) == (0, [id_of(first)])
    for path in (foreign, broken, empty, unfinished, newest, root / "notes", root / "backup_of_something"):
        assert path.is_dir(), path
    kinds = {Path(i["directory"]): i["kind"] for i in cli("list", "-C", root.parent.parent, "--json").json()}
    assert kinds == {
        newest: "backup",
        foreign: "foreign",
        broken: "broken",
        empty: "broken",
        unfinished: "unfinished",
    }
    told = cli("list", "-C", root.parent.parent).out
    assert all(path.name in told for path in (foreign, broken, empty, unfinished))


def test_a_foreign_manifest_of_any_kind_is_named_and_no_crash(cli: Cli, first: Path, prune: Prune) -> None:
    root = first.parent
    manifests = (
        b"",
        b"[]",
        b'{"created_at": "yesterday", "bytes_written": 1}',
        b'{"created_at": "2026-01-01T00:00:00", "bytes_written": Infinity}',
        b'{"created_at": "0001-01-01T00:00:00+14:00", "bytes_written": 1}',
        b'{"backup": 5}',
        b"[" * 100_000,
    )
    for number, manifest in enumerate(manifests):
        folder = root / f"backup_20200101_00000{number}"
        folder.mkdir()
        (folder / "manifest.json").write_bytes(manifest)

    listed = cli("list", "-C", root.parent.parent, "--json")

    assert listed.code == 0
    assert len(listed.json()) == len(manifests) + 1
    assert cli("list", "-C", root.parent.parent).code == 0
    assert prune("--keep-last", "1").code == 0
    assert len(backups(root)) == len(manifests) + 1


def test_a_record_with_an_id_that_leads_elsewhere_removes_nothing_there(first: Path, prune: Prune) -> None:
    """Ids name files in `.state`: one that is a path is no id."""
    precious = first.parent / "precious.json"
    precious.write_text("{}")
    hostile = first.parent / "backup_20200101_000000"
    shutil.copytree(first, hostile)
    write_record(hostile, replace(record(first), id="../../precious", sequence=0))
    nights(first, 3)

    assert prune("--keep-last", "1", "--quiet").code == 0

    assert precious.exists()
    assert hostile.exists()


def test_two_backups_with_one_sequence_are_two(first: Path, prune: Prune) -> None:
    twins = [clone(first, n, sequence=2) for n in (2, 3)]
    clone(first, 4)

    assert prune("--keep-last", "2", "--quiet").code == 0

    assert twins[1] in backups(first.parent)
    assert len(backups(first.parent)) == 2


def test_the_sources_are_as_they_were_after_pruning(first: Path, prune: Prune, offline: DocMindV2) -> None:
    nights(first, 3)
    chats = offline.chat_db.read_bytes()

    prune("--keep-last", "1", "--quiet")

    assert offline.chat_db.read_bytes() == chats
    db = sqlite3.connect(f"file:{offline.chat_db}?immutable=1", uri=True)
    try:
        assert db.execute("SELECT count(*) FROM chat_session").fetchone() == (offline.chat_sessions,)
    finally:
        db.close()
    assert json.loads((first.parent / "events.jsonl").read_text().splitlines()[-1])["event"] == "backup_pruned"
