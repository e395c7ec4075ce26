"""A signal that is heard ends the command, wherever it comes: 128 + its number, and what was asked is not done."""

from __future__ import annotations

import shutil
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pydantic_settings
import pytest
from tests.catalogs import backups
from tests.conftest import Cli, Result
from tests.environments import DocMindV2
from tests.killing import Tree, look

from docmind_backup import journal, looking, queries, restores, restoring
from docmind_backup.catalog import Catalog
from docmind_backup.errors import DamageFound

PARTS = ("--only", "identity,chat")
HEARD = 128 + signal.SIGTERM

OFTEN = (1, 2, 3, 6, 12, 25, 50, 100, 200, 400)
"""Of a function that is called a hundred times not each call."""
INNER: dict[str, tuple[Any, str]] = {
    "a setting": (pydantic_settings.EnvSettingsSource, "get_field_value"),
    "all backups": (Catalog, "items"),
    "a record": (Catalog, "read"),
    "a backup to restore": (restores, "show"),
    "a backup by its name": (Catalog, "find"),
    "what a restore would refuse": (restores, "refuse"),
    "what restores keep": (journal.RestoreFolder, "finished"),
    "whether a restore has ended": (restores, "refuse_unfinished"),
    "the word for a backup": (looking, "word_for"),
}
COMMANDS: dict[str, tuple[str, ...]] = {
    "list": ("list",),
    "show": ("show", "latest"),
    "verify": ("verify", "latest"),
    "verify all": ("verify", "--all", "--max-age", "1d"),
    "show-config": ("show-config",),
    "create": ("create", *PARTS, "-q"),
    "prune": ("prune", "--keep-last", "1"),
    "hold": ("hold", "latest"),
    "restore-plan": ("restore-plan", "latest", *PARTS),
    "restore": ("restore", "latest", *PARTS, "--yes"),
    "rollback": ("restore", "--rollback", "--yes"),
    "discard": ("restore", "--discard-rollback", "--yes"),
}
TOLD_OF = {("rollback", "a backup by its name", 2)}
"""What comes when all is done, to tell of it."""


@dataclass(frozen=True, slots=True)
class Home:
    """An environment with three backups and a restore that can be taken back."""

    cli: Cli
    env: DocMindV2
    aside: Path
    """The same, as it was."""

    def __call__(self, *words: str) -> Result:
        return self.cli(*words, "-C", self.env.project)

    def look(self) -> tuple[Tree, list[str], list[str]]:
        """The environment with what restores keep; the backups; those that are held."""
        there = look(
            self.env.project, without=("backups", "lock", ".lock"), containers=("data", "data/.docmind-restore")
        )
        held = [path.name for path in self.env.backups.glob(".state/holds/*")]
        return there, [path.name for path in backups(self.env.backups)], held

    def as_before(self) -> None:
        shutil.rmtree(self.env.project)
        shutil.copytree(self.aside, self.env.project, symlinks=True)


@pytest.fixture
def home(offline: DocMindV2, cli: Cli, tmp_path: Path) -> Home:
    made = Home(cli, offline, tmp_path / "aside")
    for _ in range(3):
        assert made("create", *PARTS, "-q", "--no-prune").code == 0
    assert made("restore", "latest", *PARTS, "--yes").code == 0
    shutil.copytree(offline.project, made.aside, symlinks=True)
    return made


@dataclass(slots=True)
class Strike:
    """SIGTERM at one call of a function."""

    at: int
    calls: int = 0
    done: bool = False

    def __call__(self) -> None:
        self.calls += 1
        if self.calls == self.at:
            self.done = True
            signal.raise_signal(signal.SIGTERM)


@contextmanager
def striking(where: tuple[Any, str], at: int) -> Iterator[Strike]:
    owner, name = where
    really, strike = getattr(owner, name), Strike(at)

    def struck(*args: Any, **more: Any) -> Any:
        strike()
        return really(*args, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, struck)
        yield strike


@pytest.mark.parametrize("command", COMMANDS)
def test_it_ends_the_command_in_whatever_it_was_doing(command: str, home: Home) -> None:
    struck = 0
    for inner in INNER:
        home.as_before()
        before = home.look()
        for at in OFTEN:
            with striking(INNER[inner], at) as strike:
                ended = home(*COMMANDS[command])
            if not strike.done:
                assert ended.code == 0, (inner, at, ended.err)
                break
            struck += 1
            assert (ended.code, "Traceback" in ended.err) == (HEARD, False), (inner, at, ended.err)
            if "was made" in ended.err or (command, inner, at) in TOLD_OF:
                home.as_before()
            assert home.look() == before, (inner, at)
    assert struck


def test_it_ends_the_demonstration(cli: Cli, tmp_path: Path) -> None:
    with striking((Catalog, "items"), 3) as strike:
        ended = cli("demo", "--keep", tmp_path / "demo")

    assert strike.done
    assert (ended.code, "exit code" in ended.err) == (HEARD, False), ended.err


def test_while_a_failed_restore_goes_back_it_says_what_is_left_to_do(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise DamageFound("it is not right")

    before = home.look()
    monkeypatch.setattr(restoring.Restoration, "_check", fail)
    with striking((restoring.Restoration, "_clear"), 1) as strike:
        ended = home("restore", "latest", *PARTS, "--yes")

    assert strike.done
    assert (ended.code, "restore --rollback" in ended.err) == (HEARD, True), ended.err
    assert home("create", *PARTS).code == 11
    assert home("restore", "--rollback").code == 0
    assert home.look() == before


class Struck(sqlite3.Connection):
    """A signal comes while the engine is at work: Python hears of it in what the engine calls."""

    def set_progress_handler(self, progress_handler: Any, n: int) -> None:
        def struck() -> Any:
            signal.raise_signal(signal.SIGTERM)
            return progress_handler()

        super().set_progress_handler(struck, n)


@pytest.mark.parametrize("command", ["create", "restore"])
def test_it_ends_the_engines_look_at_a_database(command: str, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(sqlite3.connect(home.env.chat_db)) as database:
        database.execute("CREATE TABLE more AS SELECT 1")
    before = home.look()
    monkeypatch.setattr(queries, "EVERY", 10)
    monkeypatch.setattr(sqlite3, "connect", partial(sqlite3.connect, factory=Struck))

    ended = home(*COMMANDS[command])

    assert (ended.code, "Traceback" in ended.err) == (HEARD, False), ended.err
    assert home.look() == before


def test_what_the_caller_ignores_ends_nothing(cli: Cli, env: DocMindV2, monkeypatch: pytest.MonkeyPatch) -> None:
    """As under `nohup`: the terminal goes, and the backup is made."""
    really, sent = Catalog.new_staging, list[int]()

    def hang_up(*args: Any) -> Any:
        signal.raise_signal(signal.SIGHUP)
        sent.append(signal.SIGHUP)
        return really(*args)

    monkeypatch.setattr(Catalog, "new_staging", hang_up)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        ignored = cli("create", "-C", env.project, *PARTS, "-q")
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        heard = cli("create", "-C", env.project, *PARTS, "-q")
    finally:
        signal.signal(signal.SIGHUP, before)

    assert (ignored.code, len(sent)) == (0, 1)
    assert heard.code == 128 + signal.SIGHUP
    assert len(backups(env.backups)) == 1
