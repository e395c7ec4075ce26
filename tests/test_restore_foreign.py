"""Backups that other tools made come back: the files and points that they hold, and in words what they cannot prove."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("qdrant_edge")

from tests.catalogs import contents, flip
from tests.conftest import Cli, Result
from tests.environments import corpus_hash_v1
from tests.foreigners import AI_MEMORY, ai_memory_at, docmind_at, v1_at
from tests.killing import look
from tests.standin import StandIn

from docmind_backup import restoring
from docmind_backup.errors import BackupError

CONTAINERS = ("data", "cache", "cache/ingestion", "data/analytics")
UPLOADS = "data/uploads"


class Target:
    """A project that has lost everything but its settings, and something that was written since."""

    def __init__(self, cli: Cli, project: Path, server: StandIn) -> None:
        self.cli, self.project, self.server = cli, project, server
        (project / "data").mkdir(parents=True)
        (project / "data/chat.db").write_bytes(b"since")
        (project / ".env").write_text(f"DOCMIND_DATABASE__QDRANT_URL={server.url}\n")
        self.before = look(project, containers=CONTAINERS)

    def run(self, command: str, *words: object) -> Result:
        result = self.cli(command, *words, "-C", self.project, "--dest", self.project / "backups")
        assert "Traceback" not in result.err
        return result

    def restore(self, *words: object) -> Result:
        return self.run("restore", *words, "--yes", "--json")

    def counts(self) -> dict[str, int]:
        return {name: self.server.count(name) for name in self.server.collections()}

    def is_as_before(self) -> bool:
        return look(self.project, containers=CONTAINERS) == self.before and not self.server.collections()


@pytest.fixture
def target(cli: Cli, tmp_path: Path, server: StandIn) -> Target:
    return Target(cli, tmp_path / "target", server)


def wrong(done: Result) -> set[str]:
    return {check["what"] for check in done.json()["checks"] if not check["right"]}


def found(done: Result) -> dict[str, str]:
    return {check["what"]: check["found"] for check in done.json()["checks"]}


def test_docminds_own_comes_back_with_its_25_text_points_and_its_image_point(target: Target, tmp_path: Path) -> None:
    backup = docmind_at(tmp_path)
    before = contents(backup.parent)

    done = target.restore(backup)

    assert (done.code, wrong(done)) == (0, set()), done.err + done.out
    assert sorted(target.counts().values()) == [1, 25]
    data, project = target.project / "data", target.project
    for folder in ("uploads", "storage", "artifacts", "analytics"):
        restored = {k: v for k, v in contents(data / folder).items() if k != ".lock"}
        assert restored == contents(backup / "data" / folder), folder
    assert (data / "chat.db").read_bytes() == (backup / "data/chat.db").read_bytes()
    cache = project / "cache/ingestion/docmind.duckdb"
    assert cache.read_bytes() == (backup / "cache/docmind.duckdb").read_bytes(), "where DocMind 2 looks for it"
    for path in (backup / UPLOADS).iterdir():
        assert (data / "uploads" / path.name).stat().st_mtime_ns == path.stat().st_mtime_ns
    assert "SECRET" not in (project / ".env").read_text()
    assert len((project / ".env").read_text().splitlines()) == 1, ".env is never taken unasked"
    assert contents(backup.parent) == before

    undone = target.run("restore", "--rollback")
    assert undone.code == 0, undone.err
    assert (data / "chat.db").read_bytes() == b"since"
    assert target.server.collections() == []


def test_the_plan_says_what_cannot_be_proved(target: Target, tmp_path: Path) -> None:
    shown = target.run("restore-plan", docmind_at(tmp_path / "a"), "--json").json()
    words = "\n".join(shown["warnings"])
    assert shown["blockers"] == []
    assert "not provable: logs: DocMind wrote down no sum of its 2 files" in words
    assert "aliases are in no snapshot" in words
    assert {check["expected"] for check in shown["checks"] if check["what"].startswith("points")} == {"25", "1"}

    shown = target.run("restore-plan", ai_memory_at(tmp_path / "b"), "--json").json()
    words = "\n".join(shown["warnings"])
    assert shown["blockers"] == []
    assert "config: not restored: a DocMind environment has no place for it" in words
    assert "logs: not restored" in words, "they are not DocMind's logs"
    assert "Qdrant's estimate" in words
    assert "which Qdrant made the snapshots" in words
    assert "21 or more" in {check["expected"] for check in shown["checks"]}

    shown = target.run("restore-plan", v1_at(tmp_path / "c"), "--json").json()
    words = "\n".join(shown["warnings"])
    assert shown["blockers"] == []
    assert "not provable: data/uploads: DocMind wrote down no sum of its 3 files" in words
    assert "cache/docmind.duckdb was copied as a file, without its log" in words
    assert "nobody wrote down how many points" in words
    assert "v1's corpus hash is made of times" in words
    assert target.is_as_before()


def test_ai_memorys_collections_come_back_and_what_has_no_place_is_named(target: Target, tmp_path: Path) -> None:
    backup = ai_memory_at(tmp_path)
    shutil.copytree(backup, target.project / "backups" / AI_MEMORY)

    done = target.restore(AI_MEMORY)

    assert (done.code, wrong(done)) == (3, {"config", "logs"}), done.err + done.out
    assert target.counts() == {"discussions": 42, "conventions": 15, "code-patterns": 8, "jira-data": 3}
    assert found(done)["points in discussions"] == "42; nobody had counted them"
    assert all(target.server.snapshots(name) == {} for name in target.server.collections())


def test_a_collection_comes_with_the_part_that_is_named_beside_it(target: Target, tmp_path: Path) -> None:
    backup = docmind_at(tmp_path)
    steps = target.run("restore-plan", backup, "--only", "qdrant", "--json").json()["steps"]
    text = max((step for step in steps if step["action"] == "upload"), key=lambda step: step["bytes"])
    name = str(text["target"]).rpartition("/")[2]

    assert target.restore(backup, "--only", "chat", "--collection", "nope").code == 2
    assert target.is_as_before()
    done = target.restore(backup, "--only", "chat", "--collection", name)

    assert done.code == 0, done.err + done.out
    assert list(target.counts()) == [name]
    assert (target.project / "data/chat.db").read_bytes() == (backup / "data/chat.db").read_bytes()
    assert not (target.project / UPLOADS).exists()


def test_with_to_what_has_no_place_can_be_looked_at(target: Target, tmp_path: Path) -> None:
    backup = ai_memory_at(tmp_path)

    done = target.restore(backup, "--to", tmp_path / "beside", "--include-env")

    assert done.code == 0, done.err + done.out
    for folder in ("config", "logs"):
        assert contents(tmp_path / "beside" / folder) == contents(backup / folder)
    assert target.is_as_before()
    blocked = target.restore(backup, "--only", "logs")
    assert (blocked.code, "nothing of it has a place" in blocked.err) == (1, True)


def test_a_v1_backup_comes_back_with_its_times_and_its_points_are_counted(target: Target, tmp_path: Path) -> None:
    backup = v1_at(tmp_path)
    shutil.copy(tmp_path / "docmind/.env", target.project)
    with (target.project / ".env").open("a") as env:
        env.write(f"DOCMIND_DATABASE__QDRANT_URL={target.server.url}\n")

    done = target.restore(backup)

    assert (done.code, wrong(done)) == (0, set()), done.err + done.out
    assert target.counts() == {"docmind_docs": 25}
    uploads = [one.path for one in target.server.requests if "/snapshots/upload" in one.path]
    assert len(uploads) == 2, "a collection that nobody counted is counted under a name of ours first"
    assert "docmind-backup-scratch-" in uploads[0]
    assert found(done)["points in docmind_docs"] == "25; nobody had counted them"
    data = target.project / "data"
    assert corpus_hash_v1(data / "uploads") == corpus_hash_v1(tmp_path / "docmind/data/uploads")
    assert (target.project / "cache/docmind.duckdb").read_bytes() == (backup / "cache/docmind.duckdb").read_bytes()
    assert (data / "docmind.db").read_bytes() == (backup / "data/docmind.db").read_bytes()


# -- damaged -------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["altered", "gone", "all gone", "index"])
def test_a_damaged_one_is_refused_and_brought_back_without_what_is_damaged(
    target: Target, tmp_path: Path, how: str
) -> None:
    backup = docmind_at(tmp_path)
    upload = next(iter(sorted((backup / UPLOADS).iterdir())))
    damaged = {f"{UPLOADS}/{upload.name}"}
    match how:
        case "altered":
            flip(upload, 10)
        case "gone":
            upload.unlink()
        case "all gone":
            damaged = {f"{UPLOADS}/{path.name}" for path in (backup / UPLOADS).iterdir()}
            shutil.rmtree(backup / UPLOADS)
        case _:
            meta = next(backup.glob("data/storage/*/manifest.checksum"))
            meta.write_text(meta.read_text().replace('"manifest_sha256":"', '"manifest_sha256":"0'))
            damaged = {meta.parent.relative_to(backup).as_posix()}

    refused = target.restore(backup)
    assert refused.code == 4, refused.err
    assert sorted(damaged)[0] in refused.err
    assert target.is_as_before()

    done = target.restore(backup, "--skip-damaged")
    assert done.code == 3, done.err
    assert {*done.json()["left_out"], *wrong(done)} == damaged
    assert sorted(target.counts().values()) == [1, 25]


def test_a_stray_log_beside_a_database_stays_out(target: Target, tmp_path: Path) -> None:
    backup = docmind_at(tmp_path)
    (backup / "cache/docmind.duckdb.wal").write_bytes(b"replayed into it")

    done = target.restore(backup)

    assert done.code == 0, done.err
    assert not (target.project / "cache/ingestion/docmind.duckdb.wal").exists()


# -- interrupted ---------------------------------------------------------------------------------


def cut_short(monkeypatch: pytest.MonkeyPatch, target: Target, backup: Path, where: str) -> None:
    """As a kill at that moment would leave it: nothing is taken back."""

    def cut(*_: Any, **__: Any) -> Any:
        raise BackupError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(restoring.Restoration, "_give_up", lambda *_: None)
        if where == "before it is described":
            patch.setattr(restoring, "_remove_tree", cut)
        elif where == "while it is staged":
            patch.setattr(restoring, "bring", cut)
        else:
            patch.setattr(restoring, "check_files", cut)
        assert target.restore(backup).code == 1


MOMENTS = ("before it is described", "while it is staged", "after the swap")


@pytest.mark.parametrize("where", MOMENTS)
def test_an_interrupted_one_is_finished(
    target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    backup = docmind_at(tmp_path)
    cut_short(monkeypatch, target, backup, where)

    done = target.run("restore", "--resume", "--json")

    assert (done.code, wrong(done)) == (0, set()), done.err
    assert contents(target.project / UPLOADS) == contents(backup / UPLOADS)
    assert sorted(target.counts().values()) == [1, 25]
    assert target.run("restore", "--discard-rollback", "--yes").code == 0
    assert not (target.project / "data/.docmind-restore").exists()


@pytest.mark.parametrize("where", MOMENTS)
def test_an_interrupted_one_is_taken_back_also_when_the_backup_is_gone(
    target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    backup = docmind_at(tmp_path)
    cut_short(monkeypatch, target, backup, where)
    shutil.rmtree(backup)

    done = target.run("restore", "--rollback")

    assert done.code == 0, done.err
    assert target.is_as_before()


# -- the rest of the command ---------------------------------------------------------------------


def test_a_plan_in_a_file_is_of_this_backup_as_it_was(target: Target, tmp_path: Path) -> None:
    backup, plan = v1_at(tmp_path), tmp_path / "plan.json"
    assert target.run("restore-plan", backup, "--only", "uploads", "--out", plan).code == 0
    next((backup / UPLOADS).iterdir()).touch()

    assert target.restore("--plan", plan).code == 17
    assert target.is_as_before()


def test_what_is_proposed_finds_it_again(target: Target, tmp_path: Path) -> None:
    """By its path; where it lies in the root, by its name."""
    backup = docmind_at(tmp_path / "other disk")
    root = target.project / "backups"
    shutil.copytree(backup, root / "theirs")

    by_path, by_name = target.run("restore", backup, "-n"), target.run("restore-plan", root / "theirs")

    assert f"next: docmind-backup restore '{backup}' -C" in by_path.err
    assert "next: docmind-backup restore theirs -C" in by_name.err
    assert target.run("restore", "theirs", "-n").code == 0


def test_single_files_come_out_and_a_script_is_refused(target: Target, tmp_path: Path) -> None:
    backup = docmind_at(tmp_path)
    name = sorted((backup / UPLOADS).iterdir())[0].name

    done = target.run("restore", backup, f"uploads/{name}", "logs", "--to", tmp_path / "out")

    assert done.code == 0, done.err
    assert (tmp_path / "out/uploads" / name).read_bytes() == (backup / UPLOADS / name).read_bytes()
    assert contents(tmp_path / "out/logs") == contents(backup / "logs")
    refused = target.run("restore-plan", backup, "--script")
    assert (refused.code, "has none" in refused.err) == (2, True)


def test_one_whose_manifest_cannot_be_read_is_damaged(target: Target, tmp_path: Path) -> None:
    backup = docmind_at(tmp_path)
    manifest = json.loads((backup / "manifest.json").read_bytes())
    (backup / "manifest.json").write_text(json.dumps({**manifest, "created_at": 5}))

    assert target.restore(backup).code == 4
    assert target.is_as_before()
