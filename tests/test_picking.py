"""What `restore BACKUP FILE --to DIR` promises: those files, beside all that lives and is kept, and all or nothing."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.catalogs import flip, only_backup
from tests.conftest import Cli, Result
from tests.environments import build_v2, crash
from tests.killing import look

from docmind_backup import durable
from docmind_backup.cli import main


@dataclass(frozen=True, slots=True)
class Home:
    """A copy of an environment and of its backup."""

    cli: Cli
    project: Path
    backups: Path

    @property
    def data(self) -> Path:
        return self.project / "data"

    def pick(self, *words: object) -> Result:
        return self.cli("restore", "latest", *words, "-C", self.project, "--dest", self.backups)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`docmind`, whose application was killed after its last backup, and `backups`; made once, without a server."""
    top = tmp_path_factory.mktemp("template")
    env = build_v2(top / "docmind")
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("DOCMIND_", "QDRANT_"))]:
            patch.delenv(name)
        create = ["create", "-C", str(env.project), "--dest", str(top / "backups"), "--no-qdrant-snapshot", "-q"]
        assert main([*create, "--include-uploads"]) == 0
    crash(env)
    assert {"chat.db-wal", "chat.db-shm"} <= {path.name for path in env.data_dir.iterdir()}
    return top


@pytest.fixture
def home(template: Path, tmp_path: Path, cli: Cli) -> Home:
    for name in ("docmind", "backups"):
        shutil.copytree(template / name, tmp_path / name, symlinks=True)
    return Home(cli, tmp_path / "docmind", tmp_path / "backups")


# -- where it may go -----------------------------------------------------------------------------


PLACES: dict[str, Callable[[Home], Path]] = {
    "the data directory": lambda home: home.data,
    "below it": lambda home: home.data / "not" / "there yet",
    "the artifacts": lambda home: home.project.parent / "pictures" / "of today",
    "the cache": lambda home: home.project / "cache" / "ingestion",
    "the root of the backups": lambda home: home.backups,
    "the backup": lambda home: only_backup(home.backups),
    "through a link": lambda home: home.project.parent / "link",
}


@pytest.mark.parametrize("where", PLACES)
def test_what_lives_or_is_kept_takes_no_single_file(home: Home, where: str) -> None:
    with (home.project / ".env").open("a", encoding="utf-8") as settings:
        settings.write(f"DOCMIND_ARTIFACTS__DIR={home.project.parent}/pictures\n")
    (home.project.parent / "link").symlink_to(home.data / "uploads")
    (home.data / "chat.db").unlink()
    before = look(home.project.parent)

    done, tried = (home.pick("chat.db", "--to", PLACES[where](home), *way) for way in ((), ("-n",)))

    assert (done.code, tried.code) == (2, 2)
    assert "which is in use itself" in done.err
    assert look(home.project.parent) == before
    assert home.cli("verify", "latest", "-C", home.project, "--dest", home.backups).code == 0


def test_a_path_that_leads_into_what_lives_is_refused_too(home: Home) -> None:
    """The folder of the project is not the data directory, and `data/chat.db` below it is."""
    (home.data / "chat.db").unlink()
    (home.project.parent / "beside").mkdir()
    (home.project.parent / "beside" / "uploads").symlink_to(home.data)
    before = look(home.project.parent)

    below = home.pick("data/chat.db", "--to", home.project)
    linked = home.pick("uploads/document-00.pdf", "--to", home.project.parent / "beside")
    folder = home.pick("uploads", "--to", home.project.parent / "beside")

    assert [done.code for done in (below, linked, folder)] == [2, 2, 2]
    assert "which is in use itself" in below.err
    assert "beside/uploads is a link" in linked.err
    assert look(home.project.parent) == before


SIDECARS = [("chat.db", "chat.db-wal"), ("chat.db", "chat.db-shm"), ("chat.db", "chat.db-journal")]
SIDECARS += [("cache/docmind.duckdb", "cache/docmind.duckdb.wal")]


@pytest.mark.parametrize(("name", "sidecar"), SIDECARS)
def test_a_sidecar_that_lies_where_a_database_goes_is_in_the_way(home: Home, name: str, sidecar: str) -> None:
    to = home.project.parent / "look"
    (to / sidecar).parent.mkdir(parents=True)
    shutil.copy(home.data / "chat.db-wal", to / sidecar)
    before = look(to)

    done = home.pick(name, "--to", to)

    assert done.code == 2
    assert f"{to / sidecar} is there already and would be taken for a part of {Path(name).name}; nothing" in done.err
    assert look(to) == before


def test_a_sidecar_alone_goes_beside_no_other_database(home: Home) -> None:
    assert crashed_and_saved(home) == 0
    to = home.project.parent / "look"
    (to / "cache").mkdir(parents=True)
    (to / "cache" / "docmind.duckdb").write_bytes(b"of another day")

    done = home.pick("cache/docmind.duckdb.wal", "--to", to)

    assert done.code == 2
    assert f"would be taken for a part of {to}/cache/docmind.duckdb, which is there already" in done.err
    assert not (to / "cache" / "docmind.duckdb.wal").exists()


def crashed_and_saved(home: Home) -> int:
    """A backup of now, with what the killed application left beside its databases."""
    where = ("-C", home.project, "--dest", home.backups)
    return home.cli("create", *where, "--no-qdrant-snapshot", "-q").code


# -- all or nothing ------------------------------------------------------------------------------


FOLDERS = ("deep", "deep/look", "deep/look/uploads")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of 400 kB: less than the uploads."""
    place = tmp_path / "small disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(place)]
    if os.geteuid() or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("a file system of a test's own needs root and the right to mount")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize("there", [True, False], ids=["a folder that was there", "a new folder"])
def test_a_disk_that_runs_full_is_left_as_it_was_and_the_same_command_works_with_room(
    home: Home, small_disk: Path, *, there: bool
) -> None:
    to = small_disk / "deep" / "look"
    if there:
        (to / "uploads").mkdir(parents=True)
        (to / "uploads").chmod(0o710)
        (to / "uploads" / "mine.pdf").write_bytes(b"of somebody else")
    before = look(small_disk, containers=FOLDERS)

    done = home.pick("chat.db", "uploads", "--to", to)

    assert done.code == 13
    assert "the disk is full at" in done.err
    assert "free some space, then give it again; nothing was left there" in done.err
    assert look(small_disk, containers=FOLDERS) == before

    subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
    again = home.pick("chat.db", "uploads", "--to", to)

    assert again.code == 0, again.err
    came, live = look(to / "uploads"), look(home.data / "uploads")
    assert {name: came[name] for name in live} == live


def test_what_cannot_be_removed_again_is_named(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk fails at the flush, and turned read-only by it."""
    to = home.project.parent / "look"

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "Input/output error", str(to))

    monkeypatch.setattr(durable.Flusher, "flush", fail)
    monkeypatch.setattr(os, "unlink", fail)

    done = home.pick("uploads/document-00.pdf", "--to", to)

    assert done.code == 1
    assert "could not be removed: " in done.err
    assert f"{to}/uploads/document-00.pdf" in done.err
    monkeypatch.undo()
    assert (to / "uploads" / "document-00.pdf").exists()


# -- what comes ----------------------------------------------------------------------------------


def test_a_file_under_both_of_its_names_comes_to_both_places(home: Home) -> None:
    to = home.project.parent / "look"

    done = home.pick("uploads/document-00.pdf", "data/uploads/document-00.pdf", "--to", to)

    assert done.code == 0, done.err
    original = (home.data / "uploads" / "document-00.pdf").read_bytes()
    assert [(to / name / "document-00.pdf").read_bytes() for name in ("uploads", "data/uploads")] == [original] * 2


def test_what_is_damaged_is_named_once_and_does_not_come(home: Home) -> None:
    to, names = home.project.parent / "look", ("uploads", "data/uploads")
    flip(only_backup(home.backups) / "data" / "uploads" / "document-00.pdf", 100)

    refused = home.pick(*names, "--to", to)
    done = [home.pick(*names, "--to", to, "--skip-damaged", "--json", *way).json() for way in (("-n",), ())]

    assert (refused.code, refused.err.count("document-00.pdf")) == (4, 1)
    assert done[0] == done[1]
    assert (done[0]["left_out"], done[0]["exit_code"]) == (["data/uploads/document-00.pdf"], 3)
    assert not [path for path in done[0]["files"] if "document-00" in path]
    assert sorted(done[0]["files"]) == sorted(str(p.relative_to(to)) for p in to.rglob("*") if p.is_file())
