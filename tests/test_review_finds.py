"""What a stranger found wrong once: each stays mended."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

import pytest
from tests.conftest import Cli
from tests.environments import DocMindV2, build_v2
from tests.standin import StandIn


def flip(path: Path) -> None:
    """One bit of the first byte."""
    content = path.read_bytes()
    path.chmod(0o600)
    path.write_bytes(bytes([content[0] ^ 1]) + content[1:])


def test_another_environment_in_the_same_root_keeps_its_history(cli: Cli, env: DocMindV2, tmp_path: Path) -> None:
    other = build_v2(tmp_path / "other")
    root = tmp_path / "shared"
    for _ in range(3):
        assert cli("create", "-C", other.project, "--dest", root, "--keep-last", "30", "--only", "chat").code == 0
    before = {b["id"] for b in cli("list", "-C", other.project, "--dest", root, "--json").json()}

    for _ in range(2):
        assert cli("create", "-C", env.project, "--dest", root, "--keep-last", "1", "--only", "chat").code == 0
    assert cli("prune", "-C", env.project, "--dest", root, "--keep-last", "1").code == 0

    after = {b["id"] for b in cli("list", "-C", env.project, "--dest", root, "--json").json()}
    assert before <= after
    assert len(after) == len(before) + 1


def test_verify_latest_names_a_newer_backup_whose_record_is_broken(cli: Cli, env: DocMindV2) -> None:
    cli("create", "-C", env.project, "--only", "chat")
    newest = Path(cli("create", "-C", env.project, "--only", "chat").out.strip())
    flip(newest / "backup.json")

    found = cli("verify", "-C", env.project, "latest")

    assert found.code == 4
    assert "backup.json" in found.out
    assert newest.name in cli("show", "-C", env.project, "latest").err


def test_verify_latest_of_only_a_broken_one_is_damage_and_not_absence(cli: Cli, env: DocMindV2) -> None:
    flip(Path(cli("create", "-C", env.project, "--only", "chat").out.strip()) / "backup.json")

    assert cli("verify", "-C", env.project).code == 4


def test_verify_all_does_not_pass_over_a_destroyed_backup(cli: Cli, env: DocMindV2) -> None:
    backup = Path(cli("create", "-C", env.project, "--only", "chat").out.strip())
    cli("create", "-C", env.project, "--only", "chat")
    for name in ("backup.json", "inventory.jsonl"):
        (backup / name).unlink()

    found = cli("verify", "-C", env.project, "--all")

    assert found.code == 5
    assert backup.name in found.err


def test_verify_all_of_an_empty_catalog_is_not_intact(cli: Cli, env: DocMindV2) -> None:
    assert cli("verify", "-C", env.project, "--all").code == 10


def test_required_means_that_every_collection_was_saved(cli: Cli, env: DocMindV2, server: StandIn) -> None:
    server.delete_collection(env.image_collection)
    assert cli("create", "-C", env.project, "--qdrant-snapshot").code == 15

    (env.storage / "CURRENT").unlink()
    assert cli("create", "-C", env.project, "--qdrant-snapshot").code == 15


@pytest.mark.parametrize(
    "flags",
    [
        ("--only", "chat", "--qdrant-snapshot"),
        ("--collection", "x", "--no-qdrant-snapshot"),
        ("--collection", "x", "--qdrant-path", "somewhere"),
    ],
)
def test_flags_that_contradict_each_other_are_refused(cli: Cli, env: DocMindV2, flags: tuple[str, ...]) -> None:
    assert cli("create", "-C", env.project, *flags).code == 2


def test_an_embedded_storage_that_is_not_there_is_a_lack(cli: Cli, env: DocMindV2, tmp_path: Path) -> None:
    (env.storage / "CURRENT").unlink()

    made = cli("create", "-C", env.project, "--qdrant-path", tmp_path / "typo", "--json")

    assert made.code == 3
    assert ("qdrant", "missing") in [(o["part"], o["reason"]) for o in made.json()["omissions"]]


def test_a_database_under_another_name_is_still_missed(
    cli: Cli, env: DocMindV2, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli("create", "-C", env.project).code == 0
    monkeypatch.setenv("DOCMIND_CHAT__SQLITE_PATH", "chats.db")

    assert cli("create", "-C", env.project).code == 14


def test_a_collection_asked_for_twice_is_saved_once(cli: Cli, env: DocMindV2) -> None:
    name = env.text_collection

    assert cli("create", "-C", env.project, "--collection", name, "--collection", name).code == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="gives root's rights away for a moment")
@pytest.mark.parametrize("closed", ["data/storage", "cache/ingestion", "data/uploads"])
def test_a_source_that_may_not_be_read_is_a_lack_and_no_traceback(cli: Cli, server: StandIn, closed: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        env = build_v2(Path(folder, "docmind"), server)
        assert cli("create", "-C", env.project, "--dest", Path(folder, "b")).code == 0
        subprocess.run(["chown", "-R", "65534", folder], check=True)
        (env.project / closed).chmod(0)
        os.seteuid(65534)
        try:
            made = cli("create", "-C", env.project, "--dest", Path(folder, "b"))
            planned = cli("restore-plan", "-C", env.project, "--dest", Path(folder, "b"))
            tried = cli("restore", "latest", "-n", "-C", env.project, "--dest", Path(folder, "b"))
        finally:
            os.seteuid(0)

    assert made.code in (3, 14), made.err
    assert "lacks" in made.err
    assert planned.code in (0, 3), planned.err
    assert tried.code in (1, 3), tried.err
    assert "next: docmind-backup" not in planned.err + tried.err
