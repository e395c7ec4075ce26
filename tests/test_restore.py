"""What `restore` promises: the environment as it was, what was there kept, and a no before anything is written."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import duckdb
import pytest
from tests.catalogs import flip, held_by_another, only_backup, overwrite, record, reseal, write_record
from tests.conftest import Cli, Result
from tests.environments import build_v1, build_v2, holding_duckdb, live
from tests.killing import DEAD, Tree, look

from docmind_backup import compose, durable, restoring
from docmind_backup.cli import main
from docmind_backup.core.model import Part
from docmind_backup.sample import build_sample

CONTAINERS = ("data", "cache", "cache/ingestion", "data/analytics", "logs")
IN_FLIGHT = ("data/.pending-uploads", "data/.upload-transactions", "data/.quarantine")
RESTORE_FOLDER = "data/.docmind-restore"


@dataclass(frozen=True, slots=True)
class Place:
    """An environment, its backup, and how it was before."""

    cli: Cli
    project: Path
    backups: Path
    options: tuple[str, ...]
    before: Tree

    @property
    def data(self) -> Path:
        return self.project / "data"

    @property
    def backup(self) -> Path:
        return only_backup(self.backups)

    def restore(self, *words: object) -> Result:
        return self.cli("restore", *words, "-C", self.project, "--dest", self.backups, *self.options)

    def look(self) -> Tree:
        return look(self.project, containers=CONTAINERS)

    def wipe(self) -> None:
        """The disk died: only the settings and the backups are there."""
        for path in (*self.project.iterdir(), *self.data.iterdir()):
            if path not in (self.project / ".env", self.data, self.backups):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        if self.backups.parent != self.data:
            self.data.rmdir()


KINDS: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "v2": (lambda project: build_v2(project), ()),
    "v1": (lambda project: build_v1(project), ()),
    "embedded": (lambda project: build_sample(project, documents=3), ("--qdrant-path", "data/qdrant-embedded")),
}


@pytest.fixture(scope="module")
def templates(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A folder with `docmind` and `backups` of each kind, made once."""
    made: dict[str, Path] = {}

    def template(kind: str) -> Path:
        if kind not in made:
            top = made[kind] = tmp_path_factory.mktemp(kind)
            build, options = KINDS[kind]
            build(top / "docmind")
            link = top / "docmind" / "data" / "uploads" / "elsewhere.pdf"
            link.symlink_to("/etc/hostname")
            (top / "docmind" / "data" / "uploads" / "empty").mkdir(mode=0o750)
            where = [f"{top}/docmind/{word}" if word.startswith("data/") else word for word in options]
            with pytest.MonkeyPatch.context() as patch:
                for name in [name for name in os.environ if name.startswith("DOCMIND_")]:
                    patch.delenv(name)
                create = ["create", "-C", str(top / "docmind"), "--dest", str(top / "backups"), "-q", *where]
                create += ["--include-uploads", "--include-logs", "--include-env"]
                assert main(create if options else [*create, "--no-qdrant-snapshot"]) == 0
        return made[kind]

    return template


Make = Callable[..., Place]


@pytest.fixture
def make(templates: Callable[[str], Path], tmp_path: Path, cli: Cli) -> Make:
    """A copy of an environment of its own; `inside`: its backups lie in its data directory."""

    def place(kind: str = "v2", *, inside: bool = False) -> Place:
        project = tmp_path / "docmind"
        backups = project / "data" / "backups" if inside else tmp_path / "backups"
        shutil.copytree(templates(kind) / "docmind", project, symlinks=True)
        before = look(project, containers=CONTAINERS)
        shutil.copytree(templates(kind) / "backups", backups, symlinks=True)
        options = tuple(f"{project}/{word}" if word.startswith("data/") else word for word in KINDS[kind][1])
        return Place(cli, project, backups, options, before)

    return place


@pytest.fixture
def place(make: Make) -> Place:
    return make()


def rows(path: Path) -> list[Any]:
    """Everything in a SQLite or DuckDB database, without leaving anything beside it."""
    if path.suffix == ".duckdb":
        with duckdb.connect(str(path), read_only=True) as db:
            return [
                db.execute(f"SELECT * FROM {name} ORDER BY ALL").fetchall()
                for (name,) in db.execute("SHOW TABLES").fetchall()
            ]
    with closing(sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)) as db:
        return list(db.iterdump())


def databases(project: Path) -> dict[str, list[Any]]:
    found = [
        path
        for path in project.rglob("*")
        if path.suffix in (".db", ".duckdb", ".sqlite") and "backups" not in path.parts
    ]
    return {path.relative_to(project).as_posix(): rows(path) for path in found if ".docmind-restore" not in path.parts}


def same(place: Place, expected: Tree | None = None) -> None:
    """The environment is as it was; what differs is what the assertion shows."""
    now, before = place.look(), expected if expected is not None else place.before
    now = {path: what for path, what in now.items() if not path.startswith("data/in-flight-from-")}
    assert {path: (what, before.get(path)) for path, what in now.items() if what != before.get(path)} == {}
    assert before.keys() == now.keys()


# -- there and back ------------------------------------------------------------------------------------


@pytest.mark.parametrize("inside", [False, True], ids=["elsewhere", "inside"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_wiped_environment_comes_back_byte_for_byte(make: Make, kind: str, *, inside: bool) -> None:
    place = make(kind, inside=inside)
    before = databases(place.project)
    backups = look(place.backups, without=(".backup.lock", ".state", "events.jsonl"), containers=(".",))
    place.wipe()

    done = place.restore("latest", "--yes")

    assert done.code == 0, done.err
    same(place)
    assert databases(place.project) == before != {}
    assert look(place.backups, without=(".backup.lock", ".state", "events.jsonl"), containers=(".",)) == backups
    assert done.err.splitlines()[-1].startswith("next: docmind-backup restore --rollback")


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_there_is_kept_and_comes_back(make: Make, kind: str) -> None:
    place = make(kind)
    changed = change(place)

    assert place.restore("latest", "--yes").code == 0
    same(place)
    (kept,) = (place.project / RESTORE_FOLDER).glob("rollback-*")
    assert (kept / "old/data-uploads/uploads/written-since.pdf").read_bytes() == b"%PDF since"
    assert not list(place.project.rglob("chat.db-wal")) or kind == "v1" or (kept / "old/data-chat.db").is_dir()

    assert place.restore("--rollback").code == 0
    same(place, changed)
    assert place.restore("--discard-rollback", "--yes").code == 0
    assert not (place.project / RESTORE_FOLDER).exists()
    same(place, changed)


def change(place: Place) -> Tree:
    """Life went on after the backup, and the application died: sidecars lie about. The environment as it is now."""
    (place.data / "uploads" / "written-since.pdf").write_bytes(b"%PDF since")
    (place.data / "uploads" / "elsewhere.pdf").unlink()
    for database, suffixes in {
        "data/chat.db": ("-wal", "-journal"),
        "cache/ingestion/docmind.duckdb": (".wal",),
    }.items():
        for suffix in suffixes if (place.project / database).exists() else ():
            (place.project / f"{database}{suffix}").write_bytes(b"stale")
    return place.look()


def test_no_stale_sidecar_meets_a_restored_database(place: Place) -> None:
    change(place)

    assert place.restore("latest", "--yes").code == 0

    assert sorted(path.name for path in place.data.glob("chat.db*")) == ["chat.db"]
    assert [path.name for path in (place.project / "cache/ingestion").iterdir()] == ["docmind.duckdb"]
    assert len(rows(place.project / "cache/ingestion/docmind.duckdb")[0]) == 12


def test_nothing_restored_is_a_link_to_the_backup(place: Place) -> None:
    assert place.restore("latest", "--yes").code == 0

    stored = {(found.st_dev, found.st_ino) for path in place.backup.rglob("*") if (found := path.lstat())}
    restored = {(found.st_dev, found.st_ino) for path in place.data.rglob("*") if (found := path.lstat())}
    assert not stored & restored


def test_a_rollback_keeps_what_was_written_after_the_restore(place: Place) -> None:
    changed = change(place)
    assert place.restore("latest", "--yes").code == 0
    (place.data / "uploads" / "after.pdf").write_bytes(b"%PDF after")
    (place.data / "chat.db-wal").write_bytes(b"of the restored one")

    done = place.restore("--rollback")

    assert done.code == 0
    same(place, changed)
    (kept,) = (place.project / RESTORE_FOLDER).glob("rollback-*")
    assert (kept / "new/data-uploads/uploads/after.pdf").read_bytes() == b"%PDF after"
    assert (kept / "new/data-chat.db/chat.db-wal").read_bytes() == b"of the restored one"


def test_they_are_taken_back_in_the_order_in_which_they_were_made_whatever_the_clock_did(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = change(place)
    clock = datetime(2026, 11, 21, 12, tzinfo=UTC)
    for since, hours in (("first.pdf", 0), ("second.pdf", -1), ("third.pdf", -1)):
        monkeypatch.setattr(compose, "now", lambda hours=hours: clock + timedelta(hours=hours))
        assert place.restore("latest", "--yes").code == 0
        (place.data / "uploads" / since).write_bytes(b"%PDF since")

    for before in ("second.pdf", "first.pdf"):
        assert place.restore("--rollback").code == 0
        assert (place.data / "uploads" / before).exists()
    assert place.restore("--rollback").code == 0
    same(place, changed)
    assert place.restore("--rollback").code == 2


SHM = Path("/dev/shm")


two_file_systems = pytest.mark.skipif(
    not SHM.is_dir() or SHM.stat().st_dev == Path("/tmp").stat().st_dev, reason="one file system only"
)


@two_file_systems
def test_what_lies_on_another_file_system_is_copied_there_and_swapped_there(place: Place) -> None:
    """A rename does not cross: staged, hashed and kept where it is going to live."""
    with TemporaryDirectory(dir=SHM) as elsewhere:
        cache = Path(elsewhere, "ingestion", "docmind.duckdb")
        cache.parent.mkdir()
        cache.write_bytes(b"what was there")
        with (place.project / ".env").open("a") as env:
            env.write(f"DOCMIND_CACHE__DIR={elsewhere}\n")
        before = place.look()

        assert place.restore("latest", "--yes", "--only", "cache").code == 0
        assert rows(cache) == rows(place.backup / "cache" / "docmind.duckdb")
        assert place.restore("--rollback").code == 0
        assert cache.read_bytes() == b"what was there"
        assert place.restore("--discard-rollback", "--yes").code == 0
        assert [path.name for path in Path(elsewhere).rglob("*")] == ["ingestion", "docmind.duckdb"]
        assert place.look() == before


# -- a plan in a file ----------------------------------------------------------------------------------


def test_a_plan_is_carried_out_as_long_as_nothing_changed(place: Place, tmp_path: Path) -> None:
    change(place)
    options = ("-C", place.project, "--dest", place.backups)
    assert place.cli("restore-plan", *options, "--only", "uploads", "--json", "--out", tmp_path / "plan.json").code == 0

    done = place.restore("--plan", tmp_path / "plan.json", "--yes")

    assert done.code == 0, done.err
    assert not (place.data / "uploads" / "written-since.pdf").exists()
    assert (place.data / "chat.db-wal").exists()


CHANGES: dict[str, Callable[[Path], object]] = {
    "a file more": lambda data: (data / "uploads" / "late.pdf").write_bytes(b"late"),
    "a file less": lambda data: (data / "uploads" / "document-00.pdf").unlink(),
    "another time": lambda data: os.utime(data / "uploads" / "document-00.pdf"),
    "a sidecar": lambda data: (data / "chat.db-wal").write_bytes(b""),
    "another deployment": lambda data: (data / ".deployment-id").write_text("other"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_plan_that_no_longer_fits_is_17_and_nothing_is_written(place: Place, tmp_path: Path, what: str) -> None:
    plan = tmp_path / "plan.json"
    assert place.cli("restore-plan", "-C", place.project, "--dest", place.backups, "--out", plan).code == 0
    CHANGES[what](place.data)
    now = place.look()

    done = place.restore("--plan", plan, "--yes")

    assert done.code == 17
    assert "nothing was written" in done.err
    assert place.look() == now
    assert not (place.project / RESTORE_FOLDER).exists()


def test_what_is_no_plan_is_said(place: Place, tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text('{"directory": 3}')

    assert place.restore("--plan", tmp_path / "plan.json", "--yes").code == 2


def test_nobody_to_ask_is_2_and_a_dry_run_writes_nothing(place: Place) -> None:
    now = place.look()

    assert place.restore("latest").code == 2
    shown = place.restore("latest", "--dry-run")
    assert shown.code == 0
    assert place.restore("latest", "-n", "--json").json()["backup"] in shown.out
    assert place.look() == now
    assert not (place.project / RESTORE_FOLDER).exists()


# -- a part of it --------------------------------------------------------------------------------------


def test_only_a_part(place: Place) -> None:
    change(place)

    done = place.restore("latest", "--yes", "--only", "chat,identity", "--json")

    assert {p["what"] for p in done.json()["places"]} == {"data/chat.db", "data/.deployment-id"}
    assert (place.data / "uploads" / "written-since.pdf").exists()
    assert not (place.data / "chat.db-wal").exists()


def test_single_files_to_a_folder(place: Place, tmp_path: Path) -> None:
    to = tmp_path / "look"

    done = place.restore("latest", "uploads/document-00.pdf", "cache/docmind.duckdb", "--to", to, "--json")

    assert done.json()["files"] == ["data/uploads/document-00.pdf".removeprefix("data/"), "cache/docmind.duckdb"]
    original = place.data / "uploads" / "document-00.pdf"
    taken = to / "uploads" / "document-00.pdf"
    assert taken.read_bytes() == original.read_bytes()
    assert taken.stat().st_mtime_ns == original.stat().st_mtime_ns
    assert taken.stat().st_mode == original.stat().st_mode
    assert place.restore("latest", "uploads/document-00.pdf", "--to", to).code == 2
    assert place.restore("latest", "uploads/nothing.pdf", "--to", to).code == 10
    assert place.restore("latest", "../docmind", "--to", to).code == 2
    assert place.restore("latest", "uploads/document-00.pdf").code == 2


def test_a_whole_environment_beside_the_live_one(place: Place, tmp_path: Path) -> None:
    changed = change(place)
    to = tmp_path / "look"

    done = place.restore("latest", "--to", to, "--yes", "--include-env")

    assert done.code == 0, done.err
    beside = {p: w for p, w in look(to, containers=CONTAINERS).items() if not p.startswith("data/in-flight")}
    assert {p: (w, place.before.get(p)) for p, w in beside.items() if w != place.before.get(p)} == {}
    assert place.before.keys() - beside.keys() <= set(IN_FLIGHT)
    assert (to / ".env").read_bytes() == (place.project / ".env").read_bytes()
    assert sorted(os.listdir(to)) == [".env", "cache", "data", "logs"]
    same(place, changed)


@pytest.mark.parametrize("what", ["not empty", "a link", "the root"])
def test_a_folder_that_is_not_new_is_refused(place: Place, tmp_path: Path, what: str) -> None:
    to = tmp_path / "there"
    match what:
        case "not empty":
            to.mkdir()
            (to / "precious").write_text("mine")
        case "a link":
            (tmp_path / "empty").mkdir()
            to.symlink_to(tmp_path / "empty")
        case _:
            to = Path("/")

    done = place.restore("latest", "--to", to, "--yes")

    assert done.code == 2
    assert not (tmp_path / "empty" / "data").exists()


def test_env_is_compared_without_values_and_written_only_on_demand(place: Place) -> None:
    env = place.project / ".env"
    env.write_text("DOCMIND_DATA_DIR=./data\nMINE=topsecretvalue\n")

    done = place.restore("latest", "--yes", "--include-env", "--only", "env,identity")

    assert done.code == 0, done.err
    assert "MINE: only here" in done.out
    assert "topsecretvalue" not in done.out + done.err
    assert env.read_text() == "DOCMIND_DATA_DIR=./data\nMINE=topsecretvalue\n"

    assert place.restore("latest", "--yes", "--include-env", "--force", "--only", "env").code == 0
    assert env.read_bytes() == (place.backup / ".env").read_bytes()
    assert env.stat().st_mode & 0o777 == 0o600


def test_uploads_in_flight_go_to_a_folder_beside(tmp_path: Path, cli: Cli) -> None:
    env = build_v2(tmp_path / "docmind", in_flight=True)
    assert cli("create", "-C", env.project, "--no-qdrant-snapshot").code == 0
    live_one = look(env.data_dir / ".pending-uploads")

    assert cli("restore", "latest", "-C", env.project, "--yes").code == 0

    (beside,) = env.data_dir.glob("in-flight-from-*")
    assert sorted(path.name for path in beside.iterdir()) == [".pending-uploads", ".quarantine", ".upload-transactions"]
    assert look(env.data_dir / ".pending-uploads") == live_one == look(beside / ".pending-uploads")


# -- refusals --------------------------------------------------------------------------------------------


@pytest.fixture
def untouched(place: Place) -> Iterator[Place]:
    """Whatever is refused, nothing is written."""
    change(place)
    now = place.look()
    yield place
    assert place.look() == now
    assert not (place.project / RESTORE_FOLDER).exists()


def test_a_lock_on_the_storage_is_the_application(untouched: Place) -> None:
    with held_by_another(untouched.data / "storage" / ".lock") as pid:
        done = untouched.restore("latest", "--yes")

    assert done.code == 11
    assert f"process {pid}" in done.err
    assert "stop DocMind" in done.err


def test_an_open_embedded_storage_is_the_application(make: Make) -> None:
    place = make("embedded")

    with held_by_another(place.data / "qdrant-embedded" / ".lock") as pid:
        done = place.restore("latest", "--yes", "--only", "qdrant")

    assert done.code == 11
    assert f"process {pid}" in done.err
    same(place)


def test_an_interrupted_restore_waits_while_the_application_runs(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed in the middle of the swap; somebody started DocMind on what was there then."""
    changed = change(place)
    with monkeypatch.context() as patch:
        patch.setattr(restoring.Restoration, "_check", fail)
        patch.setattr(restoring.Restoration, "_give_up", lambda *_: None)
        assert place.restore("latest", "--yes").code == 1
    journal = place.project / RESTORE_FOLDER / "journal.json"
    before = journal.read_bytes()

    with held_by_another(place.data / "storage" / ".lock"):
        assert place.restore("--resume").code == 11
        assert place.restore("--rollback").code == 11
        assert place.restore("latest", "--yes").code == 11
        assert journal.read_bytes() == before

    assert place.restore("--rollback").code == 0
    same(place, changed)


@pytest.mark.parametrize("lock", ["../backups/.backup.lock", f"{RESTORE_FOLDER}/lock"])
def test_an_interrupted_restore_is_finished_by_one_command_at_a_time(
    place: Place, monkeypatch: pytest.MonkeyPatch, lock: str
) -> None:
    """Another one is at it already, or a backup is being made or removed."""
    with monkeypatch.context() as patch:
        patch.setattr(restoring.Restoration, "_check", fail)
        patch.setattr(restoring.Restoration, "_give_up", lambda *_: None)
        assert place.restore("latest", "--yes", "--only", "chat").code == 1
    journal = place.project / RESTORE_FOLDER / "journal.json"
    before = journal.read_bytes()

    with held_by_another(place.project / lock) as pid:
        done = place.restore("--resume")

        assert done.code == 11
        assert f"process {pid}" in done.err
        assert journal.read_bytes() == before
    assert place.restore("--resume").code == 0


def fail(*_: object) -> None:
    raise OSError(5, "Input/output error")


def test_an_application_that_starts_while_files_are_staged_is_found(
    untouched: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was not there when the restore began."""
    really = restoring.bring

    with ExitStack() as running:

        def bring_and_start(*words: Any) -> Any:
            brought = really(*words)
            running.enter_context(held_by_another(untouched.data / "uploads" / "document-00.pdf", "SH"))
            return brought

        monkeypatch.setattr(restoring, "bring", bring_and_start)
        done = untouched.restore("latest", "--yes")

    assert done.code == 11
    assert "document-00.pdf open" in done.err


def test_the_application_cannot_start_from_the_first_rename_to_the_last_check(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The index it locks when it starts, the one that leaves and the one that comes."""
    told: list[tuple[str, bool]] = []
    really, check = os.rename, restoring.check_rows

    def locked(when: str) -> None:
        for path in place.project.rglob("storage/.lock"):
            with path.open("rb") as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    told.append((when, False))
                except BlockingIOError:
                    told.append((when, True))

    def renamed(source: Any, target: Any, **more: Any) -> None:
        if f"{RESTORE_FOLDER}/" in f"{source} {target}":
            locked("before a rename")
            really(source, target, **more)
            locked("after it")
        else:
            really(source, target, **more)

    def checked(*words: Any) -> Any:
        locked("checking")
        return check(*words)

    monkeypatch.setattr(os, "rename", renamed)
    monkeypatch.setattr(restoring, "check_rows", checked)

    assert place.restore("latest", "--yes").code == 0
    assert {when for when, _ in told} == {"before a rename", "after it", "checking"}
    assert all(held for _, held in told), told


def test_a_file_that_is_open_is_the_application(untouched: Place) -> None:
    with held_by_another(untouched.data / "uploads" / "document-00.pdf", "SH") as pid:
        done = untouched.restore("latest", "--yes")

    assert done.code == 11
    assert f"kill {pid}" in done.err


def test_an_idle_sqlite_connection_is_the_application(tmp_path: Path, cli: Cli) -> None:
    env = build_v2(tmp_path / "docmind")
    assert cli("create", "-C", env.project, "--no-qdrant-snapshot").code == 0

    with live(env) as writer:
        done = cli("restore", "latest", "-C", env.project, "--yes")

        assert done.code == 11
        assert f"process {writer.process.pid}" in done.err
        assert "chat.db" in done.err


def test_an_open_duckdb_is_the_application(tmp_path: Path, cli: Cli) -> None:
    env = build_v2(tmp_path / "docmind")
    assert cli("create", "-C", env.project, "--no-qdrant-snapshot").code == 0

    with holding_duckdb(env) as writer:
        done = cli("restore", "latest", "-C", env.project, "--yes", "--only", "cache")

        assert done.code == 11
        assert f"process {writer.process.pid}" in done.err


def test_a_damaged_backup_is_refused_and_its_files_are_named(untouched: Place) -> None:
    flip(untouched.backup / "data" / "uploads" / "document-00.pdf", at=100)

    done = untouched.restore("latest", "--yes")

    assert done.code == 4
    assert "data/uploads/document-00.pdf" in done.err
    assert "nothing was changed" in done.err


def test_a_backup_known_to_be_damaged_is_refused_before_anything_is_read(untouched: Place) -> None:
    flip(untouched.backup / "data" / "uploads" / "document-00.pdf", at=100)
    assert untouched.cli("verify", untouched.backup, "--dest", untouched.backups).code == 4

    assert untouched.restore(untouched.backup, "--yes").code == 4


def test_skipping_what_is_damaged_is_3_and_says_what(place: Place) -> None:
    flip(place.backup / "data" / "uploads" / "document-00.pdf", at=100)
    flip(place.backup / "data" / "chat.db", at=5000)
    chat = (place.data / "chat.db").stat()

    done = place.restore("latest", "--yes", "--skip-damaged", "--json")

    assert done.code == 3
    assert sorted(done.json()["left_out"]) == ["data/chat.db", "data/uploads/document-00.pdf"]
    assert not (place.data / "uploads" / "document-00.pdf").exists()
    assert (place.data / "uploads" / "document-01.pdf").exists()
    assert (place.data / "chat.db").stat().st_ino == chat.st_ino, "a damaged database replaces nothing"


def test_what_is_counted_is_what_came(make: Make) -> None:
    """A tree without one of its files, and a database that stays out with its log."""
    place = make("v2")
    for path in ("data/uploads/document-00.pdf", "data/chat.db"):
        flip(place.backup / path, at=100)
    whole = place.restore("latest", "-n", "--skip-damaged", "--json").json()
    chat = next(s for s in record(place.backup).sources if s.stored == "data/chat.db").totals
    lost = (place.backup / "data/uploads/document-00.pdf").stat().st_size
    everything = record(place.backup).totals
    planned = [step["what"] for step in whole["steps"] if step["action"] == "copy"]

    done = place.restore("latest", "--yes", "--skip-damaged", "--json")
    document = done.json()
    words = place.restore("latest", "--yes", "--skip-damaged")

    env = next(s for s in record(place.backup).sources if s.stored == ".env").totals
    files, size = everything.files - env.files - chat.files - 1, everything.bytes - env.bytes - chat.bytes - lost
    assert (document["files"], document["bytes"]) == (files, size)
    assert [one["what"] for one in document["places"]] == [what for what in planned if what != "data/chat.db"]
    assert next(c["found"] for c in document["checks"] if c["what"] == "files").startswith(f"{files} as in the backup")
    assert f": {files} files, " in words.out
    assert f"files: {files} as in the backup" in words.err


def test_taking_back_what_lacked_damaged_files_is_0(place: Place) -> None:
    flip(place.backup / "data" / "uploads" / "document-00.pdf", at=100)
    assert place.restore("latest", "--yes", "--skip-damaged").code == 3

    done = place.restore("--rollback", "--json")

    assert (done.code, done.json()["exit_code"], done.json()["state"]) == (0, 0, "undone")
    assert place.look() == place.before


def test_a_hostile_inventory_leads_nowhere(untouched: Place, tmp_path: Path) -> None:
    """A link, and then a file below it."""
    inventory = untouched.backup / "inventory.jsonl"
    lines = inventory.read_bytes().replace(b'"path":"data/uploads/empty"', b'"path":"data/uploads/elsewhere.pdf/x"')
    overwrite(inventory, lines)
    reseal(untouched.backup)

    done = untouched.restore("latest", "--yes")

    assert done.code == 4
    assert "into what is no folder" in done.err


LOST: dict[str, Callable[[bytes], bytes]] = {
    "lines at the end": lambda raw: raw[: raw.index(b"\n", len(raw) // 2) + 1],
    "all lines": lambda _: b"",
    "a bit of a mode": lambda raw: raw.replace(b'"mode":"0644"', b'"mode":"0664"', 1),
}


@pytest.mark.parametrize(
    ("lost", "sealed"), [*((lost, False) for lost in LOST), ("lines at the end", True), ("all lines", True)]
)
def test_an_inventory_that_is_not_as_it_was_written_restores_nothing(
    untouched: Place, tmp_path: Path, lost: str, *, sealed: bool
) -> None:
    """What has no line any more would be taken out of its place, and nobody would hear of it."""
    inventory = untouched.backup / "inventory.jsonl"
    overwrite(inventory, LOST[lost](inventory.read_bytes()))
    if sealed:
        reseal(untouched.backup)
    before = untouched.look()

    done = untouched.restore("latest", "--yes")
    beside = untouched.restore("latest", "--yes", "--to", tmp_path / "beside")

    assert (done.code, beside.code) == (4, 4)
    assert str(inventory) in done.err
    assert untouched.look() == before
    assert not (untouched.project / RESTORE_FOLDER).exists()
    if not sealed:
        one = untouched.restore("latest", "data/uploads", "--to", tmp_path / "one")
        assert one.code == 4
        assert not (tmp_path / "one").exists()


@pytest.fixture
def mounted(untouched: Place) -> Iterator[Place]:
    """The uploads lie on a file system of their own."""
    at = untouched.data / "uploads"
    if (
        os.geteuid()
        or subprocess.run(["mount", "-t", "tmpfs", "tmpfs", at], capture_output=True, check=False).returncode
    ):
        pytest.skip("nothing can be mounted here")
    try:
        yield untouched
    finally:
        subprocess.run(["umount", at], check=True)


def test_a_mount_point_is_refused_before_anything_is_staged(mounted: Place) -> None:
    done = mounted.restore("latest", "--yes", "--only", "uploads")

    assert done.code == 1
    assert f"{mounted.data / 'uploads'} is a mount point: it cannot be swapped" in done.err
    assert not (mounted.project / RESTORE_FOLDER).exists()


def test_a_folder_that_takes_nothing_new_is_refused_before_anything_is_staged(
    untouched: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told by the system, and not found out in the middle: root would not be refused."""
    cache, really = untouched.project / "cache" / "ingestion", os.access

    def access(path: Any, mode: int, **more: Any) -> bool:
        return Path(path) != cache and really(path, mode, **more)

    monkeypatch.setattr(os, "access", access)

    done = untouched.restore("latest", "--yes")

    assert done.code == 1
    assert f"cannot write to {cache}; nothing was changed" in done.err


def test_what_lies_in_a_place_that_would_be_replaced_is_safe(untouched: Place) -> None:
    """An artifacts folder that holds the whole environment."""
    with (untouched.project / ".env").open("a") as env:
        env.write(f"DOCMIND_ARTIFACTS__DIR={untouched.project.parent}\n")

    done = untouched.restore("latest", "--yes", "--only", "artifacts")

    assert done.code == 2
    assert "would be replaced" in done.err
    text = (untouched.project / ".env").read_text().replace(f"DOCMIND_ARTIFACTS__DIR={untouched.project.parent}\n", "")
    (untouched.project / ".env").write_text(text)


def test_a_place_that_only_the_backup_names_is_refused(make: Make, tmp_path: Path) -> None:
    """Its record was forged, and agrees with itself: where a part came from is somebody's home now."""
    place = replace(make("embedded"), options=())
    precious = tmp_path / "home" / "precious"
    precious.mkdir(parents=True)
    (precious / "letter.txt").write_text("mine")
    was = record(place.backup)
    forged = tuple(replace(s, origin=str(precious)) if s.part is Part.QDRANT else s for s in was.sources)
    write_record(place.backup, replace(was, sources=forged))

    done = place.restore("latest", "--yes")

    assert done.code == 2
    assert f"came from {precious}" in done.err
    assert (precious / "letter.txt").read_text() == "mine"
    same(place)


def test_no_room_is_13(untouched: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    really = os.statvfs

    def full(path: Any) -> os.statvfs_result:
        found = list(really(path))
        found[4] = 1
        return os.statvfs_result(found)

    monkeypatch.setattr(os, "statvfs", full)

    assert untouched.restore("latest", "--yes").code == 13


def test_two_ways_at_once_are_refused(untouched: Place) -> None:
    assert untouched.restore("latest", "--resume").code == 2
    assert untouched.restore().code == 2
    assert untouched.restore("--resume").code == 2
    assert untouched.restore("--rollback").code == 2
    assert untouched.restore("--discard-rollback", "--yes").code == 2


def test_a_rollback_folder_with_a_catalog_is_not_deleted(place: Place) -> None:
    assert place.restore("latest", "--yes").code == 0
    (kept,) = (place.project / RESTORE_FOLDER).glob("rollback-*")
    shutil.copytree(place.backup, kept / "old" / "data-uploads" / "uploads" / place.backup.name)

    done = place.restore("--discard-rollback", "--yes")

    assert done.code == 1
    assert "holds backups" in done.err
    assert (kept / "old" / "data-uploads" / "uploads" / place.backup.name / "backup.json").exists()


def test_what_is_half_deleted_is_never_taken_for_the_earlier_state(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The deletion of what a restore keeps was begun and broke off."""
    change(place)
    assert place.restore("latest", "--yes").code == 0
    now = place.look()
    (kept,) = (place.project / RESTORE_FOLDER).glob("rollback-*")

    def break_off(folder: Path) -> None:
        shutil.rmtree(folder / "old" / "data-uploads")
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(restoring, "_remove_tree", break_off)
        assert place.restore("--discard-rollback", "--yes").code == 1

    assert kept.is_dir()
    refused = place.restore("--rollback")
    assert refused.code == 2
    assert "being deleted already" in refused.err
    assert place.look() == now
    assert place.restore("--resume").code == 0
    assert not (place.project / RESTORE_FOLDER).exists()
    assert place.look() == now


def test_create_and_prune_wait_for_an_unfinished_restore(place: Place) -> None:
    (place.project / RESTORE_FOLDER).mkdir()
    (place.project / RESTORE_FOLDER / "journal.json").write_text("{}")
    for command in ("create", "prune"):
        done = place.cli(command, "-C", place.project, "--dest", place.backups, "--keep-last", "5")
        assert done.code == 11
        assert "restore --resume" in done.err
        assert "restore --rollback" in done.err
    assert json.loads((place.project / RESTORE_FOLDER / "journal.json").read_text()) == {}


@pytest.mark.parametrize("command", [("create", "--only", "chat"), ("prune", "--keep-last", "5")])
def test_what_a_restore_left_that_was_killed_before_it_began_goes(place: Place, command: tuple[str, ...]) -> None:
    folder = place.project / RESTORE_FOLDER
    folder.mkdir()
    (folder / "lock").touch()
    (folder / f".journal.json.{DEAD}.tmp").write_text("{")

    done = place.cli(*command, "-C", place.project, "--dest", place.backups)

    assert done.code == 0, done.err
    assert not folder.exists()


def test_the_folder_of_a_restore_is_no_link(place: Place, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / f".journal.json.{DEAD}.tmp").write_text("{")
    (place.project / RESTORE_FOLDER).symlink_to(tmp_path / "elsewhere")

    assert place.restore("latest", "--yes").code == 1
    assert place.cli("create", "-C", place.project, "--dest", place.backups, "--only", "chat").code == 0

    assert len(list((tmp_path / "elsewhere").iterdir())) == 1


@pytest.fixture
def deeds(place: Place, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What reaches the disk, in order: `flush` and `fsync` of a path, `old` and `new` as they are moved."""
    told: list[tuple[str, str]] = []
    really = {name: getattr(os, name) for name in ("rename", "replace", "fsync")}
    flush = durable.Flusher.flush

    def moved(name: str, source: Any, target: Any, **more: Any) -> None:
        really[name](source, target, **more)
        kind = "old" if "/old/" in str(target) else "new" if "/new/" in str(source) else name
        told.append((kind, str(target)))

    def fsynced(fd: int) -> None:
        told.append(("fsync", os.readlink(f"/proc/self/fd/{fd}")))
        really["fsync"](fd)

    def flushed(flusher: durable.Flusher, below: Path) -> None:
        flush(flusher, below)
        told.append(("flush", str(below)))

    monkeypatch.setattr(os, "rename", partial(moved, "rename"))
    monkeypatch.setattr(os, "replace", partial(moved, "replace"))
    monkeypatch.setattr(os, "fsync", fsynced)
    monkeypatch.setattr(durable.Flusher, "flush", flushed)
    change(place)
    return told


def test_everything_is_on_the_disk_before_anything_is_moved(place: Place, deeds: list[tuple[str, str]]) -> None:
    """What comes, and then a journal that says that the swap has begun."""
    assert place.restore("latest", "--yes").code == 0

    before = deeds[: next(i for i, (kind, _) in enumerate(deeds) if kind == "old")]
    journal = f"{place.project}/{RESTORE_FOLDER}/journal.json"
    written = [i for i, deed in enumerate(before) if deed == ("replace", journal)]
    (staged,) = (i for i, (kind, _) in enumerate(before) if kind == "flush")
    assert written[0] < staged < written[-1]
    for i in written:
        assert before[i - 1][0] == "fsync"
        assert before[i - 1][1].startswith(f"{Path(journal).parent}/.journal.json.")
        assert before[i + 1] == ("fsync", str(Path(journal).parent))


@two_file_systems
def test_everything_is_on_each_of_its_disks_before_anything_is_moved(
    place: Place, deeds: list[tuple[str, str]]
) -> None:
    with TemporaryDirectory(dir=SHM) as elsewhere:
        with (place.project / ".env").open("a") as env:
            env.write(f"DOCMIND_CACHE__DIR={elsewhere}\n")
        assert place.restore("latest", "--yes", "--only", "cache,chat").code == 0

        before = deeds[: next(i for i, (kind, _) in enumerate(deeds) if kind in ("old", "new"))]
        flushed = [path for kind, path in before if kind == "flush"]
        assert len(flushed) == 2
        for top in (elsewhere, str(place.project)):
            assert [path for path in flushed if path.startswith(f"{top}/")]


def test_folders_that_had_to_be_made_are_on_the_disk_before_anything_comes(
    place: Place, deeds: list[tuple[str, str]]
) -> None:
    """A file in a folder whose own name a power cut takes is lost with it."""
    place.wipe()

    assert place.restore("latest", "--yes").code == 0

    before = deeds[: next(i for i, (kind, _) in enumerate(deeds) if kind == "new")]
    assert {("fsync", str(place.project)), ("fsync", f"{place.project}/cache")} <= set(before)


def test_the_end_of_a_restore_is_on_the_disk(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a power cut brings back a journal that says it is in the middle."""
    folder, really, ended = place.project / RESTORE_FOLDER, os.fsync, list[bool]()

    def fsync(fd: int) -> None:
        if os.readlink(f"/proc/self/fd/{fd}") == str(folder):
            ended.append(not (folder / "journal.json").exists())
        really(fd)

    monkeypatch.setattr(os, "fsync", fsync)

    assert place.restore("latest", "--yes").code == 0
    assert ended[-1]


def test_all_of_the_old_leaves_before_anything_new_comes(place: Place, deeds: list[tuple[str, str]]) -> None:
    assert place.restore("latest", "--yes").code == 0

    moved = [kind for kind, _ in deeds if kind in ("old", "new")]
    assert moved == ["old"] * moved.count("old") + ["new"] * moved.count("new")
    assert min(moved.count("old"), moved.count("new")) > 3
    for i, (kind, target) in enumerate(deeds):
        if kind in ("old", "new"):
            assert ("fsync", str(Path(target).parent)) in deeds[i : i + 3]


def test_a_failure_in_the_middle_of_the_swap_brings_everything_back(
    untouched: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    really, calls = os.rename, iter(range(1000))

    def fail_once(source: Any, target: Any, **more: Any) -> None:
        if "/new/" in str(source) and next(calls) == 2:
            raise OSError(5, "Input/output error")
        really(source, target, **more)

    monkeypatch.setattr(os, "rename", fail_once)

    done = untouched.restore("latest", "--yes")

    assert done.code == 1
    assert "Input/output error" in done.err
    assert next(calls) > 2


def test_what_appears_where_something_just_left_is_not_overwritten(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program that knows nothing of the restore writes a new chat.db in the middle of the swap."""
    chats, really = place.data / "chat.db", os.rename

    def write_another(source: Any, target: Any, **more: Any) -> None:
        really(source, target, **more)
        if str(source) == str(chats) and "/old/" in str(target):
            chats.write_bytes(b"somebody's new chats")

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", write_another)
        done = place.restore("latest", "--yes")

    assert done.code == 1
    assert f"{chats} appeared while it was being replaced" in done.err
    assert chats.read_bytes() == b"somebody's new chats"
    chats.unlink()
    assert place.restore("--rollback").code == 0
    same(place)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_in_the_middle_of_the_swap_brings_everything_back(
    number: signal.Signals, code: int, untouched: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    really, calls = os.rename, iter(range(1000))

    def signal_once(source: Any, target: Any, **more: Any) -> None:
        if "/new/" in str(source) and next(calls) == 2:
            os.kill(os.getpid(), number)
        really(source, target, **more)

    monkeypatch.setattr(os, "rename", signal_once)

    done = untouched.restore("latest", "--yes")

    assert done.code == code
    assert "Traceback" not in done.err
    assert next(calls) > 2


def relink(path: Path) -> None:
    path.unlink()
    path.symlink_to("/etc/passwd")


OTHERWISE: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "content": ("document-00.pdf", lambda path: flip(path, at=100), "it is not what was restored (sha256)"),
    "mode": ("document-00.pdf", lambda path: path.chmod(0o600), "its mode is another one"),
    "time": ("document-00.pdf", lambda path: os.utime(path, ns=(0, 0)), "its time is another one"),
    "link": ("elsewhere.pdf", relink, "it is not the link that was restored"),
}


@pytest.mark.parametrize("what", OTHERWISE)
def test_what_the_disk_returns_otherwise_is_found_and_the_old_state_comes_back(
    untouched: Place, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """One thing of it changes after it was written, all else does not."""
    name, change_it, words = OTHERWISE[what]

    def rot(_used: object) -> None:
        for staged in untouched.project.glob(f"{RESTORE_FOLDER}/rollback-*/new/data-uploads/uploads/{name}"):
            change_it(staged)

    monkeypatch.setattr(restoring, "refuse_used", rot)

    done = untouched.restore("latest", "--yes", "--only", "uploads")

    assert done.code == 1
    assert f"{name}: {words}" in done.err
