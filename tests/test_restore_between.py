"""What changes while a command waits, for its lock or an answer, is not acted on as it was before."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.catalogs import backups
from tests.conftest import Cli, Result
from tests.environments import DocMindV2
from tests.killing import Tree, look

from docmind_backup import cli_restore, executor, restores, restoring

PARTS = "identity,chat,uploads,artifacts"
SINCE = b"%PDF since"


@dataclass(frozen=True, slots=True)
class Home:
    """An environment with one backup, in which life went on since."""

    cli: Cli
    env: DocMindV2
    saved: Tree
    """As it was when the backup was made."""
    since: Tree
    """As it is now."""

    def __call__(self, *words: object) -> Result:
        return self.cli(*words, "-C", self.env.project)

    def restore(self, *words: object) -> Result:
        return self("restore", *words, "--yes")

    def look(self) -> Tree:
        return look(self.env.project, containers=("data", "cache/ingestion", "cache"))

    @property
    def own(self) -> Path:
        return self.env.data_dir / ".docmind-restore"

    def kept(self) -> list[str]:
        return sorted(path.name for path in self.own.glob("rollback-*"))


@pytest.fixture
def home(offline: DocMindV2, cli: Cli) -> Home:
    before = Home(cli, offline, {}, {})
    assert before("create", "--only", PARTS, "-q").code == 0
    saved = before.look()
    (offline.data_dir / "uploads" / "since.pdf").write_bytes(SINCE)
    return Home(cli, offline, saved, before.look())


Meanwhile = Callable[[Callable[[], object]], None]


@pytest.fixture
def meanwhile(monkeypatch: pytest.MonkeyPatch) -> Meanwhile:
    """Do this once, while the next command waits for its locks."""

    def arrange(act: Callable[[], object]) -> None:
        really, todo = restores._ours, iter([act])

        @contextmanager
        def ours(*args: Any) -> Iterator[None]:
            for do in todo:
                do()
            with really(*args):
                yield

        monkeypatch.setattr(restores, "_ours", ours)

    return arrange


def fail(*_: object) -> None:
    raise OSError(5, "Input/output error")


def interrupt(home: Home, monkeypatch: pytest.MonkeyPatch, at: str) -> None:
    """As a kill leaves it: nothing is taken back."""
    with monkeypatch.context() as patch:
        patch.setattr(restoring.Restoration, at, fail)
        patch.setattr(restoring.Restoration, "_give_up", lambda *_: None)
        assert home.restore("latest").code == 1
    assert (home.own / "journal.json").exists()


# -- two commands at once --------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["--rollback", "--resume"])
def test_what_another_command_finished_meanwhile_is_left_as_it_is(
    home: Home, meanwhile: Meanwhile, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    interrupt(home, monkeypatch, "_swap")
    ended: list[int] = []
    meanwhile(lambda: ended.append(home.restore("--resume").code))

    done = home.restore(way)

    assert ended == [0]
    assert done.code == 11
    assert "went on with this restore" in done.err
    assert home.look() == home.saved
    assert home.restore("--rollback").code == 0
    assert home.look() == home.since


def test_what_was_accepted_meanwhile_is_not_taken_back(home: Home, meanwhile: Meanwhile) -> None:
    assert home.restore("latest").code == 0
    meanwhile(lambda: home.restore("--discard-rollback"))

    done = home.restore("--rollback")

    assert done.code == 11
    assert home.look() == home.saved


def test_only_what_was_shown_is_deleted(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the question waits for its answer, another restore ends."""
    assert home.restore("latest").code == 0
    shown = home.kept()
    (home.env.data_dir / "uploads" / "later.pdf").write_bytes(SINCE)

    def answered(*_: object) -> None:
        monkeypatch.undo()
        assert home.restore("latest").code == 0

    monkeypatch.setattr(cli_restore._Asked, "_ask", answered)
    done = home.restore("--discard-rollback")

    assert done.code == 11
    assert len(home.kept()) == len(shown) + 1
    assert home.restore("--rollback").code == 0
    assert (home.env.data_dir / "uploads" / "later.pdf").read_bytes() == SINCE


def test_a_plan_whose_target_changes_while_it_waits_is_17(home: Home, meanwhile: Meanwhile, tmp_path: Path) -> None:
    assert home("restore-plan", "latest", "--out", tmp_path / "plan.json").code == 0
    later = home.env.data_dir / "uploads" / "later.pdf"
    meanwhile(lambda: later.write_bytes(SINCE))

    done = home.restore("--plan", tmp_path / "plan.json")

    assert done.code == 17, done.err
    assert not home.own.exists()
    later.unlink()
    assert home.look().keys() == home.since.keys()


# -- a backup and a restore at once ----------------------------------------------------------------


@pytest.fixture
def elsewhere(home: Home, tmp_path: Path) -> Path:
    """A copy of the catalog: a restore from it holds that one's lock."""
    return Path(shutil.copytree(home.env.backups, tmp_path / "elsewhere", symlinks=True))


def after_capture(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object], times: int) -> None:
    """`act` comes when everything was captured, and nothing was looked at again."""
    really, left = executor._Capture._both, iter(range(times))

    def both(capture: Any) -> Any:
        captured = really(capture)
        for _ in left:
            act()
            break
        return captured

    monkeypatch.setattr(executor._Capture, "_both", both)


def files_of(backup: Path) -> set[str]:
    lines = (backup / "inventory.jsonl").read_text().splitlines()
    return {str(json.loads(line)["path"]) for line in lines}


def test_a_backup_during_which_a_restore_ended_is_made_again(
    home: Home, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (first,) = backups(home.env.backups)
    (home.env.data_dir / "artifacts" / "since.bin").write_bytes(SINCE)
    after_capture(monkeypatch, lambda: home.restore("latest", "--dest", elsewhere), times=1)

    made = home("create", "--only", PARTS, "--json")

    assert made.code == 0, made.err
    assert files_of(Path(made.json()["directory"])) == files_of(first)


def test_where_restores_never_stop_the_backup_says_what_it_is(
    home: Home, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    after_capture(monkeypatch, lambda: home.restore("latest", "--dest", elsewhere), times=2)

    made = home("create", "--only", PARTS, "--json")

    assert made.code == 3, made.err
    assert [(o["source"], o["reason"]) for o in made.json()["omissions"]] == [("the environment", "moved")]


def test_while_a_restore_is_under_way_nothing_is_published(
    home: Home, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = backups(home.env.backups)

    def begun() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(restoring.Restoration, "_check", fail)
            patch.setattr(restoring.Restoration, "_give_up", lambda *_: None)
            assert home.restore("latest", "--dest", elsewhere).code == 1

    after_capture(monkeypatch, begun, times=1)

    made = home("create", "--only", PARTS)

    assert made.code == 11, made.err
    assert "--rollback" in made.err
    assert backups(home.env.backups) == before
    assert not list(home.env.backups.glob(".staging-*"))


# -- another place ---------------------------------------------------------------------------------


def refused(home: Home, way: str, words: str) -> None:
    before = home.look()
    done = home.restore(way)
    assert done.code == 1, done.out
    assert words in done.err
    assert "nothing was changed" in done.err
    assert home.look() == before


@pytest.mark.parametrize("way", ["--rollback", "--discard-rollback"])
def test_a_copied_project_never_touches_the_one_it_was_copied_from(home: Home, way: str, tmp_path: Path) -> None:
    assert home.restore("latest").code == 0
    copy = tmp_path / "copy"
    shutil.copytree(home.env.project, copy, symlinks=True)

    done = home.cli("restore", way, "-C", copy, "--yes")

    assert done.code == 1
    assert f"was made in {home.env.data_dir}" in done.err
    assert home.look() == home.saved
    assert home.restore("--rollback").code == 0
    assert home.look() == home.since


@pytest.mark.parametrize("way", ["--rollback", "--resume"])
def test_a_project_that_was_moved_is_not_said_to_be_as_before(
    home: Home, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """Also one that has another path in a container: nothing that the journal names is there."""
    interrupt(home, monkeypatch, "_check")
    moved = home.env.project.rename(home.env.project.with_name("moved"))

    done = home.cli("restore", way, "-C", moved, "--yes")

    assert done.code == 1
    assert f"was made in {home.env.data_dir}" in done.err
    moved.rename(home.env.project)
    assert home.restore("--rollback").code == 0
    assert home.look() == home.since


def test_a_moved_project_can_be_restored_to(home: Home) -> None:
    assert home.restore("latest").code == 0
    moved = home.env.project.rename(home.env.project.with_name("moved"))

    assert home.cli("restore", "latest", "-C", moved, "--yes").code == 0
    assert home.cli("restore", "--rollback", "-C", moved, "--yes").code == 0


@pytest.mark.parametrize("way", ["--rollback", "--discard-rollback"])
def test_a_folder_of_what_is_kept_that_is_not_there_is_asked_for(home: Home, way: str) -> None:
    """As where its file system is not mounted."""
    assert home.restore("latest").code == 0
    (kept,) = home.own.glob("rollback-*")
    journal = json.loads((kept / "journal.json").read_bytes())
    journal["folders"].append(str(home.env.project / "cache" / f".{journal['run']}"))
    (kept / "journal.json").write_text(json.dumps(journal))

    refused(home, way, "mount its file system")


def test_what_was_kept_and_is_gone_is_not_said_to_be_back(home: Home) -> None:
    assert home.restore("latest").code == 0
    shutil.rmtree(next(home.own.glob("rollback-*/old/data-uploads")))

    refused(home, "--rollback", f"what was at {home.env.data_dir / 'uploads'} before")
    assert home.restore("--discard-rollback").code == 0
    assert home.look() == home.saved
