"""Killed by -9 at its renames, a restore of another tool's backup is finished or taken back: all new, or all old.

The renames are those of the swap and of the journal, which is replaced each time, and of the inventory and the record
that are made for such a backup. Everywhere with DOCMIND_TEST_SWEEPS=full; else at every fifth.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from tests.foreigners import ai_memory_at, docmind_at, v1_at
from tests.killed_commands import Commands
from tests.killing import Tree, look
from tests.restore_worlds import in_memory
from tests.returning_worlds import everything, fill
from tests.standin import StandIn
from tests.sweep import STEP

CONTAINERS = ("data", "cache", "cache/ingestion", "data/analytics", "logs")
MAKERS: dict[str, tuple[Callable[[Path], Path], tuple[str, ...], int]] = {
    "DocMind 2": (docmind_at, ("--only", "chat,uploads,cache"), 0),
    "DocMind 1": (v1_at, ("--only", "uploads,qdrant"), 0),
    "ai-memory": (ai_memory_at, ("--only", "logs,qdrant", "--collection", "jira-data"), 3),
}
"""How one is made, what of it comes back, and the exit code: the logs of ai-memory have no place here."""
EACH = 1 if STEP == 1 else 5


@pytest.fixture
def commands(tmp_path: Path) -> Iterator[Commands]:
    made = Commands(tmp_path)
    yield made
    made.close()


class Target:
    """An environment that has lived on since, and its server."""

    def __init__(self, folder: Path, server: StandIn) -> None:
        self.project, self.server = folder / "target", server
        (self.project / "data/uploads").mkdir(parents=True)
        (self.project / "data/uploads/since.pdf").write_bytes(b"%PDF since")
        (self.project / "data/chat.db").write_bytes(b"since")
        (self.project / "data/chat.db-wal").write_bytes(b"stale")
        (self.project / ".env").write_text(f"DOCMIND_DATABASE__QDRANT_URL={server.url}\n")
        self.where = ["-C", str(self.project), "--dest", str(folder / "root")]
        self.journal = self.project / "data/.docmind-restore/journal.json"

    def see(self) -> tuple[Tree, dict[str, Any]]:
        return look(self.project, containers=CONTAINERS), everything(self.server)


@pytest.mark.parametrize("maker", MAKERS)
def test_killed_at_renames(commands: Commands, tmp_path: Path, maker: str) -> None:
    make, chosen, short = MAKERS[maker]
    with StandIn() as server, in_memory() as folder:
        fill(server)
        backup = make(folder)
        target = Target(folder, server)
        restore = ["restore", str(backup), *chosen, *target.where, "--yes", "-q"]
        old = target.see()
        assert commands.give(*restore) == short, commands.said
        new = target.see()
        assert commands.give("restore", "--rollback", *target.where, "-q") == 0, commands.said
        assert target.see() == old
        assert new != old
        seen, at = {"--resume": 0, "--rollback": 0}, 0

        for at in count(step=EACH):
            code = commands.give(*restore, at=at)
            if code == short:
                break
            assert code == -signal.SIGKILL, commands.said
            way = ("--resume", "--rollback")[at // EACH % 2]
            if target.journal.exists():
                seen[way] += 1
                code = commands.give("restore", way, *target.where, "-q")
                assert code == (short if way == "--resume" else 0), (at, way, commands.said)
                assert target.see() == (new if way == "--resume" else old), (at, way)
            assert not target.journal.exists()
            if target.see() != old:
                assert target.see() == new, at
                assert commands.give("restore", "--rollback", *target.where, "-q") == 0, (at, commands.said)
            assert target.see() == old, (at, "and back")

        assert min(seen.values()) > 0, seen
        assert at > 8
