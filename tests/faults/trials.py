"""What is tried: a command on an environment, ended at some moment, and what must hold then and for the next run."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from docmind_backup.sample import build_sample

PROJECT = "docmind"
QDRANT = "qdrant-embedded"

TOOL = "from docmind_backup.cli import main; import sys; "


@dataclass(frozen=True, slots=True)
class Finding:
    """A promise that did not hold."""

    trial: str
    fault: str
    moment: str
    problem: str


@dataclass(frozen=True, slots=True)
class Trial:
    """A command, what there is before it, and what must hold whenever it ends."""

    name: str
    prepare: Callable[[Tool], None]
    command: tuple[str, ...]
    mark: str
    """Part of a path: with the first call that names it the writing begins."""
    check: Callable[[Tool, bool], str]
    """What is wrong; empty when nothing is. The flag: it had ended with exit 0."""


@dataclass(frozen=True, slots=True)
class Tool:
    """docmind-backup on the environment of one mounted disk."""

    project: Path
    broken: str = ""

    def argv(self, words: tuple[str, ...]) -> list[str]:
        code = f"{TOOL}{self.broken}sys.exit(main(sys.argv[1:]))"
        where = ("-C", str(self.project))
        return [sys.executable, "-c", code, words[0], *where, *self._embedded(words[0]), *words[1:]]

    def __call__(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self.argv(words), capture_output=True, text=True, check=False)

    def _embedded(self, command: str) -> tuple[str, ...]:
        takes = command in ("create", "restore", "restore-plan")
        return ("--qdrant-path", str(self.project / "data" / QDRANT)) if takes else ()

    @property
    def backups(self) -> list[str]:
        return sorted(path.name for path in (self.project / "data" / "backups").glob("*backup_*"))

    def must(self, *words: str) -> str:
        done = self(*words)
        assert done.returncode == 0, f"{words}: {done.returncode} {done.stderr}"
        return done.stdout


# -- what must hold ------------------------------------------------------------------------------


def _sound(tool: Tool) -> str:
    """Every backup that is listed verifies bit by bit, and nothing else has a backup's name."""
    listed = json.loads(tool.must("list", "--json"))
    if odd := [item for item in listed if item["kind"] not in ("backup", "unfinished")]:
        return f"listed: {odd}"
    done = tool("verify", "--all", "--quiet")
    return "" if done.returncode == 0 else f"verify: exit {done.returncode}: {done.stdout}{done.stderr}"


def _create_held(tool: Tool, ended: bool) -> str:
    there = tool.backups
    wanted = (2,) if ended else (1, 2)
    if len(there) not in wanted:
        return f"{len(there)} backups: {there}"
    if problem := _sound(tool):
        return problem
    done = tool("create")
    return "" if done.returncode == 0 else f"the next create: exit {done.returncode}: {done.stderr}"


def _prune_held(tool: Tool, ended: bool) -> str:
    there = tool.backups
    if not there or (ended and len(there) != 1):
        return f"{len(there)} backups: {there}"
    if problem := _sound(tool):
        return problem
    done = tool("prune", "--keep-last", "1")
    return "" if done.returncode == 0 and len(tool.backups) == 1 else f"the next prune: {done.returncode} {done.stderr}"


def _one_backup(tool: Tool) -> None:
    build_sample(tool.project, documents=40)
    tool.must("create")
    for number in range(12):
        (tool.project / "data" / "uploads" / f"new-{number}.bin").write_bytes(random.Random(number).randbytes(700_000))


def _four_backups(tool: Tool) -> None:
    build_sample(tool.project, documents=40)
    for _ in range(4):
        tool.must("create", "--no-share")


TRIALS = (
    Trial("create", _one_backup, ("create", "--no-prune"), ".staging-", _create_held),
    Trial("prune", _four_backups, ("prune", "--keep-last", "1"), ".trash", _prune_held),
)
