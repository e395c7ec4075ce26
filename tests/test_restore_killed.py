"""Killed at any of its steps, a restore is finished or taken back by the next command: old or new, never a mix."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import duckdb
import pytest
from tests.killing import CONTAINERS, Tree, look

from docmind_backup.cli import main

SNAPSHOT = "20260101T000000-deadbeef"
SHM = Path("/dev/shm")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`docmind`, `artifacts` and `backups`: an environment that changed since its backup was made."""
    top = tmp_path_factory.mktemp("template")
    data = top / "docmind" / "data"
    _build(top)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOCMIND_ARTIFACTS__DIR", str(top / "artifacts"))
        create = ["create", "-C", str(top / "docmind"), "--dest", str(top / "backups"), "--no-qdrant-snapshot", "-q"]
        assert main(create) == 3  # its index snapshot is none, for the sake of few steps
    shutil.copytree(top / "docmind", top / "new", symlinks=True)
    shutil.copytree(top / "artifacts", top / "new-artifacts", symlinks=True)
    _change(data, top)
    return top


def _build(top: Path) -> None:
    data = top / "docmind" / "data"
    (data / "storage" / SNAPSHOT).mkdir(parents=True)
    (data / "storage" / "CURRENT").write_text(f"{SNAPSHOT}\n")
    (data / "storage" / ".lock").touch()
    for name in ("manifest.jsonl", "manifest.meta.json", "manifest.checksum"):
        (data / "storage" / SNAPSHOT / name).write_text("{}")
    (data / ".deployment-id").write_text("7295b7ce-9917-45d7-9749-7bd9ce6723cc\n")
    (data / "uploads" / "deep").mkdir(parents=True)
    (data / "uploads" / "deep" / "a.pdf").write_bytes(b"%PDF a")
    (data / "uploads" / "link.pdf").symlink_to("deep/a.pdf")
    (top / "artifacts").mkdir()
    (top / "artifacts" / "p.webp").write_bytes(b"picture")
    with closing(sqlite3.connect(data / "chat.db")) as db:
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("CREATE TABLE chat(t TEXT)")
        db.commit()
    cache = top / "docmind" / "cache" / "ingestion" / "docmind.duckdb"
    cache.parent.mkdir(parents=True)
    with duckdb.connect(str(cache)) as db:
        db.execute("CREATE TABLE keyvalue(key VARCHAR)")
    (top / "docmind" / ".env").write_text("")


def _change(data: Path, top: Path) -> None:
    """Each source is another one now, and the databases have sidecars that must not meet what comes back."""
    (data / ".deployment-id").write_text("00000000-9917-45d7-9749-7bd9ce6723cc\n")
    (data / "storage" / SNAPSHOT / "manifest.jsonl").write_text("[]")
    (data / "uploads" / "deep" / "a.pdf").write_bytes(b"%PDF other")
    (data / "uploads" / "new.pdf").write_bytes(b"%PDF new")
    (top / "artifacts" / "p.webp").unlink()
    (data / "chat.db-wal").write_bytes(b"stale")
    (data / "chat.db-shm").write_bytes(b"stale")
    cache = top / "docmind" / "cache" / "ingestion"
    (cache / "docmind.duckdb").write_bytes(b"not a database")
    (cache / "docmind.duckdb.wal").write_bytes(b"stale")


@pytest.fixture
def work() -> Iterator[Path]:
    """Where the cases lie: in memory where there is such a file system, another one than `tmp_path`'s."""
    folder = Path(tempfile.mkdtemp(dir=SHM if SHM.is_dir() else None))
    yield folder
    shutil.rmtree(folder)


def states(template: Path) -> tuple[Tree, Tree]:
    """The environment as it was before the restore, and as it is after it."""

    def state(project: Path, artifacts: Path) -> Tree:
        found = look(project, containers=CONTAINERS)
        found |= {f"artifacts/{path}": what for path, what in look(artifacts).items()}
        return json.loads(json.dumps(found))

    old = state(template / "docmind", template / "artifacts")
    return old, state(template / "new", template / "new-artifacts")


def swept(template: Path, work: Path, elsewhere: Path, verb: str) -> list[dict[str, Any]]:
    """Every case of a sweep; each was killed where it should be."""
    command = [sys.executable, "-m", "tests.killing", *map(str, (template, work, elsewhere)), verb]
    here = Path(__file__).parent.parent
    done = subprocess.run(command, capture_output=True, text=True, cwd=here, env={**os.environ, "PYTHONPATH": PATH})
    assert done.returncode == 0, done.stderr[-3000:]
    cases = [json.loads(line) for line in done.stdout.splitlines()]
    assert {case["killed"] for case in cases} == {-9}, Counter(case["killed"] for case in cases)
    assert {case["at"] for case in cases} == set(range(1, cases[0]["of"] + 1))
    assert len(cases) > 20
    assert not any(case["journal"] for case in cases if case["code"] == 0), "something stays unfinished"
    assert {case["pruned"] for case in cases} == {11}
    assert {case["code"] for case in cases} <= {0, 2}, done.stderr[-3000:]
    return cases


PATH = os.pathsep.join([str(Path(__file__).parent.parent / "src"), str(Path(__file__).parent.parent)])


def differences(tree: Tree, expected: Tree) -> dict[str, Any]:
    paths = {*tree, *expected}
    return {path: (tree.get(path), expected.get(path)) for path in paths if tree.get(path) != expected.get(path)}


def test_a_restore_killed_at_any_step(template: Path, work: Path, tmp_path: Path) -> None:
    old, new = states(template)

    for case in swept(template, work, tmp_path, "restore"):
        resumed = case["unfinished"] and case["way"] == "--resume"
        ended = case["code"] == 2 and case["tree"] == new
        assert differences(case["tree"], new if resumed or ended else old) == {}, (case["at"], case["way"])
        if case["unfinished"] and not resumed:
            assert case["left"] == [], (case["at"], case["way"])


def test_a_rollback_killed_at_any_step(template: Path, work: Path, tmp_path: Path) -> None:
    old, new = states(template)

    for case in swept(template, work, tmp_path, "rollback"):
        not_begun = not case["unfinished"] and case["way"] == "--resume" and case["tree"] == new
        assert differences(case["tree"], new if not_begun else old) == {}, (case["at"], case["way"])


def test_discarding_what_was_there_killed_at_any_step(template: Path, work: Path, tmp_path: Path) -> None:
    old, new = states(template)

    for case in swept(template, work, tmp_path, "discard"):
        taken_back = case["way"] == "--rollback" and not case["unfinished"] and case["code"] == 0
        assert case["code"] == 0 or not case["unfinished"] or case["way"] == "--rollback"
        assert differences(case["tree"], old if taken_back else new) == {}, (case["at"], case["way"])
