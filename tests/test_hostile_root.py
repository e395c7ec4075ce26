"""Whatever somebody planted beside the backups: no link leads out of the root, nothing is waited for, nothing eaten."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.catalogs import backups
from tests.conftest import Cli
from tests.environments import DocMindV2
from tests.killing import DEAD

from docmind_backup.catalog import Catalog
from docmind_backup.errors import BackupError

ENDED = """
import resource, signal, sys
signal.alarm(120)
resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
from docmind_backup.cli import main
sys.exit(main(sys.argv[1:]))
"""
"""A command that hangs is ended by SIGALRM, one that reads gigabytes by a MemoryError."""


def ended(project: Path, *words: object) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own, that ends whatever it waits for or reads."""
    argv = [sys.executable, "-c", ENDED, *map(str, words), "-C", str(project)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode >= 0, f"ended by signal {-done.returncode}"
    assert "Traceback" not in done.stderr
    return done


# -- links ---------------------------------------------------------------------------------------


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """Somebody else's folder, with files in it that are named as `durable.replace` names what it writes."""
    folder = tmp_path / "elsewhere"
    (folder / "sub").mkdir(parents=True)
    for path in (f".notes.{DEAD}.tmp", f"sub/.a.{DEAD}.tmp", "sub/precious.json"):
        (folder / path).write_text("mine")
    return folder


def tree(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): p.read_text() if p.is_file() else "" for p in sorted(folder.rglob("*"))}


def linked(root: Path, kind: str, target: Path) -> Path:
    """`.state`, or a folder in it, as a link to `target`."""
    planted = root / ".state" / kind
    if planted.exists():
        planted.rename(root.parent / "as it was")
    planted.parent.mkdir(exist_ok=True)
    planted.symlink_to(target)
    return planted


LINKED = pytest.mark.parametrize("kind", ["", "seals", "holds", "servers", "scratch"])


@LINKED
@pytest.mark.parametrize("command", [("create", "--only", "identity"), ("prune", "--keep-last", "1"), ("hold",)])
def test_who_writes_refuses_a_link_in_place_of_what_is_remembered(
    cli: Cli, offline: DocMindV2, first: Path, elsewhere: Path, kind: str, command: tuple[str, ...]
) -> None:
    planted, before = linked(first.parent, kind, elsewhere), tree(elsewhere)
    more = (first, "--reason", "why") if command == ("hold",) else ()

    result = cli(*command, *more, "-C", offline.project)

    assert (result.code, "a link, not a folder" in result.err, str(planted) in result.err) == (1, True, True)
    assert tree(elsewhere) == before
    assert backups(first.parent) == [first]


@LINKED
@pytest.mark.parametrize("command", ["verify", "list", "show", "leftovers"])
def test_who_reads_goes_on_without_what_lies_behind_a_link(
    cli: Cli, offline: DocMindV2, first: Path, elsewhere: Path, kind: str, command: str
) -> None:
    linked(first.parent, kind, elsewhere)
    before = tree(elsewhere)

    result = cli(command, *((first,) if command in ("verify", "show") else ()), "-C", offline.project)

    assert result.code == (5 if command == "leftovers" else 0)
    assert tree(elsewhere) == before


def test_cleaning_by_itself_follows_no_link_either(first: Path, elsewhere: Path) -> None:
    linked(first.parent, "", elsewhere)
    before = tree(elsewhere)

    assert Catalog(first.parent).clean() == ()

    assert tree(elsewhere) == before


def test_what_cannot_be_looked_up_behind_a_link_is_held(
    cli: Cli, offline: DocMindV2, first: Path, elsewhere: Path
) -> None:
    """Nobody can say which backups are held: prune may not take one of them."""
    linked(first.parent, "holds", elsewhere)

    assert [item.held for item in Catalog(first.parent).backups()] == ["unreadable hold"]
    assert cli("prune", "-n", "--keep-last", "1", "-C", offline.project).code == 0


def test_a_backup_is_not_moved_through_a_trash_that_is_a_link(first: Path, elsewhere: Path) -> None:
    (first.parent / ".trash").symlink_to(elsewhere)
    before, catalog = tree(elsewhere), Catalog(first.parent)

    removed, refused = catalog.discard(catalog.backups())

    assert (removed, [why for _, why in refused]) == ([], ["a link, not a folder"])
    assert first.is_dir()
    assert tree(elsewhere) == before


def test_the_lock_names_the_link(first: Path, elsewhere: Path) -> None:
    linked(first.parent, "servers", elsewhere)

    with (
        pytest.raises(BackupError, match="servers is a link, not a folder"),
        Catalog(first.parent).lock(),
    ):
        pytest.fail("went on behind a link")


# -- pipes and giants ----------------------------------------------------------------------------


def giant(path: Path) -> None:
    path.touch()
    os.truncate(path, 3 << 30)


PLANTED = pytest.mark.parametrize("plant", [os.mkfifo, giant], ids=["pipe", "giant"])
Plant = Callable[[Path], None]
BESIDE = ("servers/x.json", "scratch/0123456789abcdef.json", "seals/x.json", "holds/x.json", "briefs.json")


@pytest.fixture
def planted(first: Path) -> Callable[[Plant], None]:
    def everywhere(plant: Plant) -> None:
        name = f"{Catalog(first.parent).read(first).id}.json"
        for path in BESIDE:
            place = first.parent / ".state" / path.replace("x.json", name)
            place.parent.mkdir(exist_ok=True)
            place.unlink(missing_ok=True)
            plant(place)

    return everywhere


@PLANTED
@pytest.mark.parametrize(
    ("command", "code"),
    [
        (("leftovers",), 5),
        (("create", "--only", "identity"), 0),
        (("verify",), 0),
        (("verify", "--rehearse"), 0),
        (("prune", "--keep-last", "1"), 0),
        (("list",), 0),
    ],
)
def test_nothing_beside_the_backups_is_waited_for_or_eaten(
    offline: DocMindV2, planted: Callable[[Plant], None], plant: Plant, command: tuple[str, ...], code: int
) -> None:
    planted(plant)

    assert ended(offline.project, *command).returncode == code


@pytest.mark.parametrize(("command", "code"), [("create", 0), ("verify", 4), ("show", 0), ("restore-plan", 0)])
def test_an_inventory_that_became_a_pipe_is_not_waited_for(
    offline: DocMindV2, first: Path, command: str, code: int
) -> None:
    (first / "inventory.jsonl").unlink()
    os.mkfifo(first / "inventory.jsonl")
    words = ("--only", "identity") if command == "create" else (first,)

    assert ended(offline.project, command, *words).returncode == code

    assert len(backups(first.parent)) == (2 if command == "create" else 1)
