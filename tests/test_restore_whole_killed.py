"""Killed by -9 anywhere, a restore of files and collections is finished or taken back: all new, or all old.

The processes are real; the moments are calls to the server, which kills its own client, and renames on the disk.
Everywhere with DOCMIND_TEST_SWEEPS=full; else at every call that changes the server, before or after it is served
by turns, and at every second rename: of the swap, and of the journal, which is replaced each time.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from tests.killed_commands import Commands
from tests.restore_worlds import (
    Template,
    World,
    in_memory,
    live_on,
    make_template,
    open_world,
    restored_server,
    with_chats_of,
)
from tests.standin import StandIn
from tests.sweep import STEP

ALL = STEP == 1
CHANGES = r"snapshots(/upload)?$|/aliases$|\.snapshot$|^/collections/[^/]+$"
SHORT = 3
"""Only one of two collections comes back, and the index snapshot does not fit the other one: said, exit 3."""
State = tuple[dict[str, Any], dict[str, Any]]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Template:
    return make_template(tmp_path_factory.mktemp("v2"))


@pytest.fixture
def world(template: Template) -> Iterator[World]:
    with StandIn() as standin, in_memory() as folder:
        made = open_world(template, folder, standin)
        live_on(made)
        yield made


@pytest.fixture
def commands(tmp_path: Path) -> Iterator[Commands]:
    made = Commands(tmp_path)
    yield made
    made.close()


class Cases:
    """What has to hold after each kill, whatever was being done."""

    def __init__(self, world: World, commands: Commands) -> None:
        self.world, self.commands = world, commands
        self.old: State = world.see()
        self.new: State = (
            with_chats_of(world.template.tree, self.old[0]),
            restored_server(world, self.old[1], (world.image,)),
        )
        self.seen = {"old": 0, "new": 0}
        self._turn = 0

    def restore(self, at: int = -1) -> int:
        return self.commands.give("restore", "latest", *self.world.where, *self.world.small, "--yes", "-q", at=at)

    def hold(self, where: object) -> None:
        """Go on or back, by turns; then back, so that the next case begins where this one did."""
        world, commands = self.world, self.commands
        self._forget_unanswered()
        self._turn += 1
        way, expected = (("--resume", self.new), ("--rollback", self.old))[self._turn % 2]
        if world.journal().exists():
            if self._turn % 4 == 0:
                assert commands.give("create", *world.where, "-q") == 11, where
                assert commands.give("prune", *world.where, "--keep-last", "1", "-q") == 11, where
            code = commands.give("restore", way, *world.where, "-q")
            assert code == (SHORT if way == "--resume" and "restored" in commands.said else 0), (where, commands.said)
        else:
            expected = self.new if world.see()[0] == self.new[0] else self.old
        self.is_(expected, (where, way))
        assert not world.journal().exists()
        if expected is self.new:
            assert commands.give("restore", "--rollback", *world.where, "-q") == 0, (where, commands.said)
            self.is_(self.old, (where, way, "and back"))

    def is_(self, expected: State, where: object) -> None:
        self.seen["new" if expected is self.new else "old"] += 1
        tree, server = self.world.see()
        assert {path for path in {*tree, *expected[0]} if tree.get(path) != expected[0].get(path)} == set(), where
        assert server == expected[1], where

    def _forget_unanswered(self) -> None:
        """Snapshots by a call whose answer nobody got may be another client's: they are left, and named."""
        files = self.world.standin.state.files
        before = {name for listed in self.old[1]["files"].values() for name, _ in listed}
        for name in (self.world.image,):
            for snapshot in [s for s in files.get(name, {}) if s not in before and s.startswith(f"{name}-")]:
                del files[name][snapshot]


def test_killed_at_calls_to_the_server(world: World, commands: Commands) -> None:
    cases = Cases(world, commands)
    pattern, methods = ("", ("*",)) if ALL else (CHANGES, ("POST", "PUT", "DELETE"))
    tried = 0

    for method in methods:
        for number in count():
            at, served = number // 2 if ALL else number, number % 2
            if served:
                world.standin.faults.after(method, pattern, commands.kill, skip=at)
            else:
                world.standin.faults.before(method, pattern, commands.kill, skip=at)
                world.standin.faults.hang_up(method, pattern, skip=at)
            code = cases.restore()
            world.standin.faults.rules.clear()
            cases.hold((method, at, served))
            if code == SHORT:
                break
            assert code == -signal.SIGKILL, commands.said
            tried += 1

    assert tried >= (100 if ALL else 7)
    assert min(cases.seen.values()) > 2


def test_killed_at_renames(world: World, commands: Commands) -> None:
    """The swap of files lies between two writes of the journal, which are renames too."""
    cases, at = Cases(world, commands), 0

    for at in count():
        if not ALL and at % 2:
            continue
        code = cases.restore(at)
        cases.hold(at)
        if code == SHORT:
            break
        assert code == -signal.SIGKILL, commands.said

    assert at > 12
    assert min(cases.seen.values()) > 2
