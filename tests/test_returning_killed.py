"""Killed between any two calls, a collection's return is gone on with or taken back by another process.

The processes are real and so is kill -9; the moments are fixed by the server, which kills its own client.
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("qdrant_edge")

from tests.returning_worlds import NAME, WORLDS, Backup, connected, everything, make_backup, points, returning
from tests.standin import StandIn

MOST = 80
MADE_HERE = f"{NAME}-2841235159689269-"
"""How the server calls the snapshots it makes of the collection; the others' have other names here."""


@pytest.fixture(scope="module")
def backup(tmp_path_factory: pytest.TempPathFactory) -> Backup:
    return make_backup(tmp_path_factory.mktemp("backup"))


class Victims:
    """Processes that take steps, one after the other."""

    def __init__(self, backup: Backup, folder: Path) -> None:
        pickled = folder / "backup.pickle"
        pickled.write_bytes(pickle.dumps(backup))
        command = [sys.executable, "-m", "tests.returning_child", str(pickled)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parent.parent
        )
        self.pid = 0

    def take(self, url: str, home: Path, steps: str) -> int:
        """The exit status; `-9` when it was killed."""
        assert self._process.stdin
        assert self._process.stdout
        task = json.dumps({"url": url, "home": str(home), "steps": steps})
        print(task, file=self._process.stdin, flush=True)
        self.pid = int(self._process.stdout.readline())
        print(file=self._process.stdin, flush=True)
        return os.waitstatus_to_exitcode(int(self._process.stdout.readline()))

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)

    def close(self) -> None:
        self._process.communicate()


@pytest.fixture
def victims(backup: Backup, tmp_path: Path) -> Iterator[Victims]:
    made = Victims(backup, tmp_path)
    yield made
    made.close()


Finish = Callable[[StandIn, Backup, Path], None]


def go_on(standin: StandIn, backup: Backup, home: Path) -> None:
    """As `--resume`: the restored collection, and after it the way back."""
    with connected(standin.url) as server:
        one = returning(server, backup, home)
        one.prepare()
        one.apply()
        assert standin.points(NAME) == points(5)
        assert standin.state.aliases["live"] == standin.state.find(NAME).name
        one.roll_back()


def take_back(standin: StandIn, backup: Backup, home: Path) -> None:
    """As `--rollback`."""
    with connected(standin.url) as server:
        returning(server, backup, home).roll_back()


def unanswered(standin: StandIn, before: dict[str, Any]) -> list[str]:
    """Made by a call whose answer nobody got: it may be another client's, so it is left, and named."""
    known = {name for name, _ in before["files"].get(NAME, [])}
    return [name for name in standin.snapshots(NAME) if name not in known and name.startswith(MADE_HERE)]


BACK_TOO = "prepare apply roll_back"


@pytest.mark.parametrize(("world", "steps"), [*((world, "prepare apply") for world in WORLDS), ("exact", BACK_TOO)])
def test_killed_at_any_call(world: str, steps: str, backup: Backup, victims: Victims, tmp_path: Path) -> None:
    """Before the server does what was asked, and after it; what rolls back only while it does so, by turns."""
    with StandIn() as standin:
        WORLDS[world](standin)
        before = everything(standin)
        first = 0
        if steps == BACK_TOO:
            assert victims.take(standin.url, tmp_path / "counted", "prepare apply") == 0
            first = len(standin.requests)
            take_back(standin, backup, tmp_path / "counted")
        for number in range(2 * MOST):
            at, served = first + number // (1 if first else 2), number % 2
            home = tmp_path / str(number)
            kill(standin, victims, at, served=bool(served))
            status = victims.take(standin.url, home, steps)
            standin.faults.rules.clear()
            if status == 0:
                take_back(standin, backup, home)
                break
            assert status == -signal.SIGKILL
            lost = unanswered(standin, before)
            finish: Finish = take_back if steps == BACK_TOO or (at + served) % 2 else go_on
            finish(standin, backup, home)
            for name in lost:
                standin.state.files[NAME].pop(name, None)
            assert everything(standin) == before, f"call {at}, {'after' if served else 'before'} it was served"
        else:
            pytest.fail("it makes more calls than were tried")
        assert number > 8


def kill(standin: StandIn, victims: Victims, at: int, *, served: bool) -> None:
    if served:
        standin.faults.after("*", "", victims.kill, skip=at)
        return
    standin.faults.before("*", "", victims.kill, skip=at)
    standin.faults.hang_up("*", "", skip=at)
