"""What is tried: a command on an environment, ended at some moment, and what must hold then and for the next run."""

from __future__ import annotations

import json
import random
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from tests.faults import warm

from docmind_backup.sample import build_sample

PROJECT = "docmind"
QDRANT = "qdrant-embedded"

TOOL = "from docmind_backup.cli import console; "


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
    before: tuple[str, ...] = ()
    """A command that every copy of what there is begins with: what a copy of its outcome would not be."""
    replaces: bool = False
    """It puts old or new in place of what is not ours; the others leave it alone."""


@dataclass(frozen=True, slots=True)
class Tool:
    """docmind-backup on the environment of one mounted disk."""

    project: Path
    broken: str = ""

    def argv(self, words: tuple[str, ...]) -> list[str]:
        """A process from its very start, as users have it."""
        code = f"{TOOL}{self.broken}console()"
        return [sys.executable, "-c", code, *self._words(words)]

    def __call__(self, *words: str) -> subprocess.CompletedProcess[str]:
        return warm.run(self._words(words))

    def _words(self, words: tuple[str, ...]) -> list[str]:
        return [words[0], "-C", str(self.project), *self._embedded(words[0]), *words[1:]]

    def _embedded(self, command: str) -> tuple[str, ...]:
        takes = command in ("create", "restore", "restore-plan")
        return ("--qdrant-path", str(self.project / "data" / QDRANT)) if takes else ()

    @property
    def root(self) -> Path:
        return self.project / "data" / "backups"

    @property
    def backups(self) -> list[str]:
        return sorted(path.name for path in self.root.glob("*backup_*"))

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
    dead = {path.name for path in tool.root.glob(".staging-*")}
    if dead != (named := {Path(item["directory"]).name for item in listed if item["kind"] == "unfinished"}):
        return f"unfinished: {dead}, and listed are {named}"
    done = tool("verify", "--all", "--quiet")
    return "" if done.returncode == 0 else f"verify: exit {done.returncode}: {done.stdout}{done.stderr}"


def _left(tool: Tool) -> list[str]:
    """What the next run should have removed: staging, trash, half-written notes."""
    found = (*tool.root.glob(".staging-*"), *tool.root.glob(".trash/*"), *(tool.project / "data").rglob(".*.tmp"))
    return [str(path.relative_to(tool.project)) for path in found]


def _next(tool: Tool, *words: str) -> str:
    """The next run needs no help, and cleans up."""
    done = tool(*words)
    if done.returncode:
        return f"the next {' '.join(words)}: exit {done.returncode}: {done.stderr}"
    left = _left(tool)
    return f"left after the next {words[0]}: {left}" if left else ""


def _create_held(tool: Tool, ended: bool) -> str:
    there = tool.backups
    wanted = (2,) if ended else (1, 2)
    if len(there) not in wanted:
        return f"{len(there)} backups: {there}"
    return _sound(tool) or _next(tool, "create")


def _prune_held(tool: Tool, ended: bool) -> str:
    there = tool.backups
    if not there or (ended and len(there) != 1):
        return f"{len(there)} backups: {there}"
    if problem := _sound(tool) or _next(tool, "prune", "--keep-last", "1"):
        return problem
    return "" if len(tool.backups) == 1 else f"after the next prune: {tool.backups}"


def _one_backup(tool: Tool) -> None:
    build_sample(tool.project, documents=40)
    tool.must("create")
    for number in range(12):
        (tool.project / "data" / "uploads" / f"new-{number}.bin").write_bytes(random.Random(number).randbytes(700_000))


def _nothing_yet(tool: Tool) -> None:
    """Files are shared with a backup that was made where it lies: a copy of one has other inodes."""
    build_sample(tool.project, documents=3)
    tool.root.mkdir(mode=0o700)


def _four_backups(tool: Tool) -> None:
    build_sample(tool.project, documents=40)
    for _ in range(4):
        tool.must("create", "--no-share")


# -- restore: old or new -------------------------------------------------------------------------


SINCE = "since the backup"


def _changed_since_a_backup(tool: Tool) -> None:
    """Every source that can be told apart says that it is the old one: what was there before the restore."""
    build_sample(tool.project, documents=12)
    tool.must("create")
    data = tool.project / "data"
    for part in ("uploads", "artifacts"):
        (data / part / "since.bin").write_text(SINCE)
        next(path for path in sorted((data / part).iterdir()) if path.name != "since.bin").unlink()
    with closing(sqlite3.connect(data / "chat.db")) as db, db:
        db.execute("CREATE TABLE since(what TEXT)")


def _marks(tool: Tool) -> set[str]:
    """`old` or `new`, for each source that can be told apart; both when they are mixed."""
    data = tool.project / "data"
    found = {"old" if (data / part / "since.bin").exists() else "new" for part in ("uploads", "artifacts")}
    with closing(sqlite3.connect(f"file:{data / 'chat.db'}?immutable=1", uri=True)) as db:
        tables = db.execute("SELECT name FROM sqlite_master WHERE name = 'since'").fetchall()
    return found | {"old" if tables else "new"}


def _restore_held(tool: Tool, ended: bool) -> str:
    journal = tool.project / "data" / ".docmind-restore" / "journal.json"
    wanted = {"new"} if ended else {"old", "new"}
    if journal.exists():
        if ended:
            return "it ended with 0 and its journal says that it did not"
        if (done := tool("create")).returncode != 11:
            return f"create while a restore is unfinished: exit {done.returncode}"
        way, wanted = ("--resume", {"new"}) if journal.stat().st_size % 2 else ("--rollback", {"old"})
        done = tool("restore", way)
        if done.returncode:
            return f"restore {way}: exit {done.returncode}: {done.stderr}"
        if way == "--resume" and "taken back" in done.stdout:
            wanted = {"old"}
    marks = _marks(tool)
    if len(marks) != 1 or not marks <= wanted:
        return f"it is {' and '.join(sorted(marks))}, not {' or '.join(sorted(wanted))}"
    return _next(tool, "create", "--accept-shrink")


# -- what is remembered beside the backups: old or new -------------------------------------------


BEFORE, AFTER = "what was there before", "what was asked for"


def _a_held_backup(tool: Tool) -> None:
    build_sample(tool.project, documents=3)
    tool.must("create")
    tool.must("hold", "latest", "--reason", BEFORE)


def _remembered(tool: Tool, field: str, old: object, new: object, *, ended: bool) -> str:
    """What `list` says of the one backup."""
    (backup,) = json.loads(tool.must("list", "--json"))
    if backup[field] not in ((new,) if ended else (old, new)):
        return f"{field} is {backup[field]!r}"
    return _sound(tool) or _next(tool, "create", "--no-prune")


def _hold_held(tool: Tool, ended: bool) -> str:
    return _remembered(tool, "held", BEFORE, AFTER, ended=ended)


def _release_held(tool: Tool, ended: bool) -> str:
    return _remembered(tool, "held", BEFORE, None, ended=ended)


def _verify_held(tool: Tool, ended: bool) -> str:
    """What it found may be forgotten, also where it ended with 0 and could not write; never half remembered."""
    return _remembered(tool, "verified", None, "intact", ended=False)


TRIALS = (
    Trial("create", _one_backup, ("create", "--no-prune", "--json"), ".staging-", _create_held),
    Trial("prune", _four_backups, ("prune", "--keep-last", "1", "--json"), ".trash", _prune_held),
    Trial(
        "restore",
        _changed_since_a_backup,
        ("restore", "latest", "--yes", "--json"),
        ".docmind-restore",
        _restore_held,
        replaces=True,
    ),
    Trial("verify", _a_held_backup, ("verify", "--all", "--json"), ".state", _verify_held),
    Trial("hold", _a_held_backup, ("hold", "latest", "--reason", AFTER), ".backup.lock", _hold_held),
    Trial("release", _a_held_backup, ("release", "latest"), ".state", _release_held),
    Trial("share", _nothing_yet, ("create", "--no-prune", "--json"), ".staging-", _create_held, before=("create",)),
)
