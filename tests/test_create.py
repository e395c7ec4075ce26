"""What `create` promises: whole, honest about what it lacks, and the sources as they were."""

from __future__ import annotations

import json
import os
import sqlite3
import stat
import subprocess
from pathlib import Path

import pytest
from tests.conftest import Cli
from tests.docmind_checker import problems
from tests.environments import DocMindV2, build_v1, build_v2, crash, holding_duckdb, live, snapshot_of_sources
from tests.standin import StandIn

from docmind_backup.core import format as fmt
from docmind_backup.core.model import FileEntry

EVERYTHING = ("--include-uploads", "--include-analytics", "--include-logs", "--include-env")


def only_backup(env: DocMindV2) -> Path:
    """The one backup in the environment's catalog."""
    (found,) = [p for p in env.backups.iterdir() if "backup_" in p.name]
    return found


def entries(backup: Path) -> dict[str, FileEntry]:
    lines = (backup / "inventory.jsonl").read_bytes().splitlines()
    return {e.path: e for e in map(fmt.read_entry, lines) if isinstance(e, FileEntry)}


def sha256sum_check(backup: Path) -> int:
    return subprocess.run(["sha256sum", "--quiet", "-c", "SHA256SUMS"], cwd=backup, check=False).returncode


def test_a_full_backup_is_complete_and_checkable_without_this_tool(cli: Cli, env: DocMindV2, server: StandIn) -> None:
    before = snapshot_of_sources(env)

    made = cli("create", "-C", env.project, *EVERYTHING)

    backup = only_backup(env)
    assert made.code == 0, made.err
    assert made.out.strip() == str(backup)
    assert backup.name.startswith("backup_")
    assert sha256sum_check(backup) == 0
    assert cli("verify", "-C", env.project, "latest").code == 0
    assert snapshot_of_sources(env) == before
    assert not server.snapshots(env.text_collection)
    assert not server.snapshots(env.image_collection)


def test_docminds_own_checker_takes_it_for_a_recovery_point(cli: Cli, env: DocMindV2) -> None:
    made = cli("create", "-C", env.project, *EVERYTHING, "--json")

    assert problems(only_backup(env)) == []
    assert made.json()["docmind_eligible"] is True


def test_uploads_in_flight_and_older_index_snapshots_do_not_cost_eligibility(
    cli: Cli, tmp_path: Path, server: StandIn
) -> None:
    env = build_v2(tmp_path / "docmind", server, in_flight=True)

    assert cli("create", "-C", env.project).code == 0

    backup = only_backup(env)
    assert problems(backup) == []
    stored = entries(backup)
    assert any(path.startswith("data/.pending-uploads/") for path in stored)
    assert any(path.startswith("data/.quarantine/") for path in stored)


def test_the_application_may_run_and_keep_writing(cli: Cli, env: DocMindV2) -> None:
    with live(env) as writer:
        committed = writer.write(3)
        before = snapshot_of_sources(env)

        made = cli("create", "-C", env.project, *EVERYTHING)

        assert snapshot_of_sources(env) == before
        writer.write(1)
    assert made.code == 0, made.err
    stored = only_backup(env) / "data" / "chat.db"
    rows = sqlite3.connect(f"file:{stored}?immutable=1", uri=True)
    try:
        (found,) = rows.execute("select count(*) from chat_session").fetchone()
    finally:
        rows.close()
    assert found == committed
    assert problems(only_backup(env)) == []


def test_a_crashed_application_leaves_nothing_behind_that_is_lost(cli: Cli, env: DocMindV2) -> None:
    crashed = crash(env)
    before = snapshot_of_sources(env)

    made = cli("create", "-C", env.project, *EVERYTHING)

    assert made.code == 0, made.err
    assert snapshot_of_sources(env) == before
    backup = only_backup(env)
    assert (backup / "cache" / "docmind.duckdb.wal").exists()
    rows = sqlite3.connect(f"file:{backup / 'data' / 'chat.db'}?immutable=1", uri=True)
    try:
        (found,) = rows.execute("select count(*) from chat_session").fetchone()
    finally:
        rows.close()
    assert found == crashed.chat_sessions
    assert sha256sum_check(backup) == 0


def test_qdrant_down_everything_else_is_saved_and_the_lack_is_named(cli: Cli, tmp_path: Path) -> None:
    env = build_v2(tmp_path / "docmind")

    made = cli("create", "-C", env.project, *EVERYTHING, "--json")

    document = made.json()
    assert made.code == 3
    assert document["completeness"] == "incomplete"
    assert [(o["part"], o["reason"]) for o in document["omissions"]] == [("qdrant", "unreachable")]
    assert set(document["included"]) >= {"cache", "chat", "storage", "uploads", "artifacts", "identity", "logs", "env"}
    assert only_backup(env).name.startswith("incomplete-backup_")
    assert cli("verify", "-C", env.project, "latest").code == 0


def test_qdrant_down_and_required_publishes_nothing(cli: Cli, tmp_path: Path) -> None:
    env = build_v2(tmp_path / "docmind")

    made = cli("create", "-C", env.project, "--qdrant-snapshot")

    assert made.code == 15
    assert "error:" in made.err
    assert not [p for p in env.backups.iterdir() if "backup_" in p.name]


def test_a_duckdb_that_is_held_open_is_a_named_rebuildable_lack(cli: Cli, env: DocMindV2) -> None:
    with holding_duckdb(env):
        made = cli("create", "-C", env.project, "--json")

    assert made.code == 3
    (omission,) = made.json()["omissions"]
    assert (omission["part"], omission["reason"], omission["rebuildable"]) == ("cache", "busy", True)
    assert "recoverable, cold cache" in omission["detail"]


def test_files_are_private_and_their_real_mode_and_time_are_recorded(cli: Cli, env: DocMindV2) -> None:
    upload = next(p for p in sorted(env.uploads.iterdir()))
    upload.chmod(0o640)
    os.utime(upload, ns=(1_600_000_000_123_456_789, 1_600_000_000_123_456_789))

    assert cli("create", "-C", env.project).code in (0, 3)

    backup = only_backup(env)
    entry = entries(backup)[f"data/uploads/{upload.name}"]
    assert (entry.mode, entry.mtime_ns) == (0o640, 1_600_000_000_123_456_789)
    for folder, folders, names in os.walk(backup):
        assert all(stat.S_IMODE(os.lstat(os.path.join(folder, n)).st_mode) == 0o700 for n in folders)
        assert all(stat.S_IMODE(os.lstat(os.path.join(folder, n)).st_mode) == 0o400 for n in names)
    assert stat.S_IMODE(backup.stat().st_mode) == 0o700


def test_a_link_costs_eligibility_and_not_completeness_and_is_named(cli: Cli, env: DocMindV2) -> None:
    (env.uploads / "elsewhere.pdf").symlink_to("/etc/hostname")

    made = cli("create", "-C", env.project, "--json")

    document = made.json()
    assert made.code == 0
    assert document["completeness"] == "complete"
    assert document["docmind_eligible"] is False
    assert any("elsewhere.pdf" in note for note in document["notes"])
    assert os.readlink(only_backup(env) / "data/uploads/elsewhere.pdf") == "/etc/hostname"


def test_names_that_are_not_utf8_survive(cli: Cli, env: DocMindV2) -> None:
    odd = os.fsencode(env.uploads) + b"/r\xe9sum\xe9\n.pdf"
    with open(odd, "wb") as file:
        file.write(b"content")

    assert cli("create", "-C", env.project).code == 0

    backup = only_backup(env)
    with open(os.fsencode(backup) + b"/data/uploads/r\xe9sum\xe9\n.pdf", "rb") as file:
        assert file.read() == b"content"
    assert sha256sum_check(backup) == 0
    assert cli("verify", "-C", env.project, "latest").code == 0


def test_damage_in_the_active_index_snapshot_is_saved_as_it_is_and_named(cli: Cli, env: DocMindV2) -> None:
    victim = env.storage / env.index_snapshot / "graph" / "docstore.json"
    victim.write_bytes(victim.read_bytes()[:-1] + b"X")
    before = snapshot_of_sources(env)

    made = cli("create", "-C", env.project, "--json")

    assert made.code == 3
    (omission,) = made.json()["omissions"]
    assert (omission["part"], omission["reason"]) == ("storage", "damaged")
    assert "docstore.json" in omission["detail"]
    assert (only_backup(env) / "data/storage" / env.index_snapshot / "graph/docstore.json").read_bytes().endswith(b"X")
    assert snapshot_of_sources(env) == before


def test_a_corrupt_chat_database_is_saved_raw_and_named(cli: Cli, env: DocMindV2) -> None:
    env.chat_db.write_bytes(b"this is not a database" * 300)

    made = cli("create", "-C", env.project, "--json")

    assert made.code == 3
    (omission,) = made.json()["omissions"]
    assert (omission["part"], omission["reason"]) == ("chat", "damaged")
    assert (only_backup(env) / "data/chat.db").read_bytes() == env.chat_db.read_bytes()


def test_a_source_that_is_gone_is_exit_14_until_it_is_accepted(cli: Cli, env: DocMindV2) -> None:
    assert cli("create", "-C", env.project).code == 0
    for upload in env.uploads.iterdir():
        upload.unlink()

    second = cli("create", "-C", env.project, "--json")
    assert second.code == 14
    assert [(o["part"], o["reason"]) for o in second.json()["omissions"]] == [("uploads", "emptied")]

    accepted = cli("create", "-C", env.project, "--accept-shrink", "--json")
    assert accepted.code == 0
    assert cli("create", "-C", env.project).code == 0


def test_an_empty_mount_point_publishes_nothing_and_says_so(cli: Cli, env: DocMindV2, tmp_path: Path) -> None:
    root = tmp_path / "backups"
    assert cli("create", "-C", env.project, "--dest", root).code == 0
    env.project.rename(tmp_path / "unmounted")
    env.data_dir.mkdir(parents=True)

    made = cli("create", "-C", env.project, "--dest", root)

    assert made.code == 14
    assert len([p for p in root.iterdir() if "backup_" in p.name]) == 1


def test_a_hard_shrink_is_published_and_evicts_nothing_until_accepted(cli: Cli, env: DocMindV2) -> None:
    keep_one = ("-C", env.project, "--keep-last", "1")
    first = cli("create", *keep_one, "--json").json()["id"]
    for upload in sorted(env.uploads.iterdir())[2:]:
        upload.unlink()

    shrunk = cli("create", *keep_one, "--json")
    assert shrunk.code == 3
    assert any("uploads" in note for note in shrunk.json()["notes"])
    assert first in [b["id"] for b in cli("list", "-C", env.project, "--json").json()]

    accepted = cli("create", *keep_one, "--accept-shrink", "--json")
    assert accepted.code == 0
    assert first in accepted.json()["pruned"]


def test_a_store_that_was_never_made_is_no_lack(cli: Cli, env: DocMindV2) -> None:
    for path in env.data_dir.glob("chat.db*"):
        path.unlink()

    made = cli("create", "-C", env.project, "--json")

    assert made.code == 0
    assert made.json()["docmind_eligible"] is False
    assert any("chat.db" in note for note in made.json()["notes"])


def test_a_collection_that_current_names_is_never_never_made(cli: Cli, env: DocMindV2, server: StandIn) -> None:
    server.delete_collection(env.image_collection)

    made = cli("create", "-C", env.project, "--json")

    assert made.code == 3
    assert [(o["source"], o["reason"]) for o in made.json()["omissions"]] == [(env.image_collection, "missing")]


def test_a_v1_environment_is_saved_with_its_exact_collections(cli: Cli, tmp_path: Path, server: StandIn) -> None:
    env = build_v1(tmp_path / "docmind", server)
    before = snapshot_of_sources(env)

    made = cli("create", "-C", env.project, "--include-uploads", "--json")

    assert made.code == 0, made.err
    document = made.json()
    assert set(document["included"]) == {"cache", "storage", "uploads", "qdrant"}
    assert snapshot_of_sources(env) == before
    assert cli("verify", "-C", env.project, "latest").code == 0


def test_v1_uploads_only_come_when_asked_for(cli: Cli, tmp_path: Path, server: StandIn) -> None:
    env = build_v1(tmp_path / "docmind", server)

    assert "uploads" not in cli("create", "-C", env.project, "--json").json()["included"]


def test_only_qdrant_saves_qdrant_alone(cli: Cli, env: DocMindV2) -> None:
    made = cli("create", "-C", env.project, "--only", "qdrant", "--json")

    assert made.code == 0
    assert made.json()["included"] == ["qdrant"]


def test_the_destination_may_not_lie_inside_a_source(cli: Cli, env: DocMindV2) -> None:
    made = cli("create", "-C", env.project, "--dest", env.uploads / "backups")

    assert made.code == 2
    assert not (env.uploads / "backups").exists()


def test_a_source_may_not_lie_inside_the_destination(cli: Cli, env: DocMindV2) -> None:
    made = cli("create", "-C", env.project, "--dest", env.project)

    assert made.code == 2
    assert "lie inside each other" in made.err
    assert not list(env.project.glob("*backup_*"))


def test_a_dry_run_writes_nothing(cli: Cli, env: DocMindV2) -> None:
    made = cli("create", "-C", env.project, "--dry-run", "--json")

    assert made.code == 0
    assert {s["part"] for s in made.json()["steps"]} >= {"uploads", "chat", "cache", "storage", "qdrant"}
    assert not env.backups.exists()


def test_a_second_run_is_told_who_holds_the_lock(cli: Cli, env: DocMindV2) -> None:
    import fcntl

    env.backups.mkdir()
    with open(env.backups / ".backup.lock", "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        made = cli("create", "-C", env.project)

    assert made.code == 11
    assert f"process {os.getpid()}" in made.err


def test_what_a_dead_run_left_is_cleaned_by_the_next(cli: Cli, env: DocMindV2) -> None:
    dead = env.backups / ".staging-20260101_000000_0123456789ab" / "data"
    dead.mkdir(parents=True)
    (dead / "file").write_text("half")

    assert cli("create", "-C", env.project).code == 0

    assert [p.name for p in env.backups.iterdir() if p.name.startswith(".staging")] == []


def test_too_little_space_is_refused_before_anything_is_touched(
    cli: Cli, env: DocMindV2, server: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCMIND_BACKUP_MIN_FREE", str(2**60))

    made = cli("create", "-C", env.project)

    assert made.code == 13
    assert "free" in made.err
    assert [p.name for p in env.backups.iterdir() if "backup_" in p.name] == []
    assert not [r for r in server.requests if r.method == "POST" and r.path.endswith("/snapshots")]


def test_the_last_event_tells_what_the_exit_code_tells(cli: Cli, env: DocMindV2) -> None:
    made = cli("create", "-C", env.project, "--json")

    last = json.loads((env.backups / "events.jsonl").read_text().splitlines()[-1])
    assert (last["event"], last["id"], last["complete"]) == ("backup_created", made.json()["id"], True)
    assert last["bytes_written"] > 0
    assert last["duration_ms"] > 0


def test_backups_switched_off_in_words_are_refused(cli: Cli, env: DocMindV2, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCMIND_BACKUP_ENABLED", "false")

    assert cli("create", "-C", env.project).code == 2
    assert cli("create", "-C", env.project, "--force").code == 0


def test_the_commands_of_the_first_documents_still_work(cli: Cli, env: DocMindV2) -> None:
    assert cli("create-backup", "-C", env.project, "--no-cleanup", "--diagnostic-no-uploads").code == 0
    assert cli("prune-backups", "-C", env.project, "--keep-last", "1").code == 0
