"""What taking single files out of a backup promises: what is recorded or nothing, and on the disk when it says so."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.catalogs import flip, only_backup, record
from tests.environments import build_v2

from docmind_backup import durable
from docmind_backup.catalog import reading
from docmind_backup.cli import main
from docmind_backup.copying import Copier
from docmind_backup.core.model import Backup
from docmind_backup.errors import DamageFound
from docmind_backup.opening import Opened
from docmind_backup.picking import pick

ROTTEN, SOUND = "uploads/document-00.pdf", "uploads/document-01.pdf"


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    top = tmp_path_factory.mktemp("made")
    build_v2(top / "docmind", analytics=False)
    create = ["create", "-C", str(top / "docmind"), "--dest", str(top / "root"), "--only", "uploads", "--quiet"]
    assert main(create) == 0
    return only_backup(top / "root")


@pytest.fixture
def opened(pristine: Path, tmp_path: Path) -> Opened:
    backup = tmp_path / "root" / pristine.name
    shutil.copytree(pristine, backup, symlinks=True)
    return Opened(Backup(backup, record(backup)))


def rot(opened: Opened) -> None:
    flip(opened.backup.directory / "data" / ROTTEN, at=100)


def test_a_file_that_rotted_is_named_and_nothing_is_written(opened: Opened, tmp_path: Path) -> None:
    rot(opened)

    with pytest.raises(DamageFound, match=f"data/{ROTTEN}; nothing was written") as raised:
        pick(opened, ["uploads"], tmp_path / "to", in_use=(), skip_damaged=False)

    assert raised.value.exit_code == 4
    assert not (tmp_path / "to").exists()


def test_without_the_file_that_rotted_it_is_3(opened: Opened, tmp_path: Path) -> None:
    rot(opened)

    done = pick(opened, ["uploads"], tmp_path / "to", in_use=(), skip_damaged=True)

    assert (done.exit_code, done.damaged) == (3, (f"data/{ROTTEN}",))
    assert SOUND in done.paths
    assert (tmp_path / "to" / SOUND).exists()
    assert not (tmp_path / "to" / ROTTEN).exists()


def test_a_file_that_rots_between_the_look_and_the_copy_does_not_come(
    opened: Opened, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before(monkeypatch, Copier, "copy", lambda *_: rot(opened))

    with pytest.raises(DamageFound, match=f"data/{ROTTEN} changed while it was read"):
        pick(opened, [ROTTEN], tmp_path / "to", in_use=(), skip_damaged=False)

    assert not (tmp_path / "to" / ROTTEN).exists()


def test_what_came_is_flushed_and_meanwhile_nobody_removes_the_backup(
    opened: Opened, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, bool]] = []

    def note(what: str) -> None:
        with pytest.raises(OSError, match="being read"), reading(opened.backup.directory, exclusive=True):
            pass
        seen.append((what, (tmp_path / "to" / SOUND).exists()))

    before(monkeypatch, Copier, "hash", lambda *_: note("look"))
    before(monkeypatch, durable.Flusher, "flush", lambda _, below: note(f"flush {below}"))

    pick(opened, [SOUND], tmp_path / "to", in_use=(), skip_damaged=False)

    assert seen == [("look", False), (f"flush {tmp_path / 'to'}", True)]
    with reading(opened.backup.directory, exclusive=True):
        pass


def before(patch: pytest.MonkeyPatch, owner: type, name: str, act: Callable[..., object]) -> None:
    """Call `act`, with the same arguments, before each call of a method."""
    really = getattr(owner, name)

    def first(*args: Any, **more: Any) -> Any:
        act(*args, **more)
        return really(*args, **more)

    patch.setattr(owner, name, first)
