"""What holds after every case, whichever command it was: what is not ours untouched, and a run that ended tells it."""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

BACKUPS = "data/backups"
RESTORES = "data/.docmind-restore"
HOME, SCRATCH = "home", "tmp"
"""Beside the project: what the process is told to be HOME and TMPDIR."""
FULL = ("ENOSPC", "EDQUOT")
NO_SPACE = 13
PROBE = re.compile(rf"{SCRATCH}/[a-z0-9_]{{8}}")
"""What Python's tempfile makes to see whether it can, and removes: a kill comes between, or that removal fails."""
READ = " (read)"
"""After the path of a file that was opened and not made: no disk is ever too full for that."""


@dataclass(frozen=True, slots=True)
class Thing:
    """A file, a folder or a link, as somebody would miss it."""

    mode: int
    mtime_ns: int
    content: str = ""
    """A file's sha256, a link's target."""


Looked = Mapping[str, Thing]


def surroundings(place: Path) -> Path:
    """Makes HOME and TMPDIR, each with something in it that is not ours; the folder they and the project lie in."""
    for name in (HOME, SCRATCH):
        (place / name).mkdir()
        (place / name / "of-others.txt").write_text("left alone\n")
    return place


def environment(place: Path) -> dict[str, str]:
    """Of a process that is tried: what it would leave in a home or among temporary files is seen."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("XDG_")}
    return {**kept, "HOME": str(place / HOME), "TMPDIR": str(place / SCRATCH)}


def look(place: Path, project: str) -> Looked:
    """All that lies in `place` but the backups, by its path there: content, mode, mtime.

    Without SQLite's `-shm`, which its readers write, the time of the temporary folder, which anything may use, and
    what Python tries that with.
    """
    left_out = str(place / project / BACKUPS)
    found: dict[str, Thing] = {}
    for folder, folders, files in os.walk(place):
        folders[:] = [name for name in folders if f"{folder}/{name}" != left_out]
        found[os.path.relpath(folder, place)] = _thing(folder)
        names = files + [name for name in folders if os.path.islink(f"{folder}/{name}")]
        found |= {os.path.relpath(path, place): _thing(path) for name in names if (path := f"{folder}/{name}")}
    found[SCRATCH] = replace(found[SCRATCH], mtime_ns=0)
    return {path: thing for path, thing in found.items() if not path.endswith("-shm") and not PROBE.fullmatch(path)}


def _thing(path: str) -> Thing:
    at = os.lstat(path)
    if stat.S_ISLNK(at.st_mode):
        return Thing(at.st_mode, at.st_mtime_ns, os.readlink(path))
    content = hashlib.sha256(Path(path).read_bytes()).hexdigest() if stat.S_ISREG(at.st_mode) else ""
    return Thing(at.st_mode, at.st_mtime_ns, content)


def changed(before: Looked, after: Looked) -> str:
    """What was made, changed or removed; empty when nothing was."""
    differ = [path for path in sorted({*before, *after}) if before.get(path) != after.get(path)]
    words = [f"{path}: {_difference(before.get(path), after.get(path))}" for path in differ[:5]]
    return f"not ours, and changed: {'; '.join(words)} ({len(differ)} in all)" if differ else ""


def _difference(old: Thing | None, new: Thing | None) -> str:
    if old is None or new is None:
        return "made" if old is None else "removed"
    fields = ("mode", "mtime_ns", "content")
    return ", ".join(f"another {field}" for field in fields if getattr(old, field) != getattr(new, field))


def live(looked: Looked, project: str) -> Looked:
    """What a restore brings back or leaves: without its own folder and the locks of the application, and without the
    times of the folders that places lie in, which the swap renames in."""
    own = f"{project}/{RESTORES}"
    held = {project, f"{project}/data", f"{project}/cache", f"{project}/cache/ingestion"}
    return {
        path: replace(thing, mtime_ns=0) if path in held else thing
        for path, thing in looked.items()
        if path != own and not path.startswith(f"{own}/") and not path.endswith("/.lock")
    }


# -- what a run says --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ended:
    """A run that was tried."""

    code: int
    stdout: str
    stderr: str
    events: tuple[dict[str, Any], ...] = ()
    """Those of this run."""
    fault: str = ""
    """The error that was injected."""
    hit: tuple[str, ...] = ()
    """What the failed calls were about: a path, or `stdout` and `stderr`."""

    @property
    def itself(self) -> bool:
        """It was not killed."""
        return 0 <= self.code < 128


def events(root: Path) -> list[dict[str, Any]]:
    """All lines of the events; ValueError when one of them is none."""
    path = root / "events.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


TELLS = {
    "create": lambda code: True,
    "prune": lambda code: True,
    "restore": lambda code: code in (0, 3),
}
"""Whether a run with this exit code leaves an event."""


def untrue(command: tuple[str, ...], ended: Ended) -> str:
    """What a run that ended by itself says wrongly of how it ended; empty when nothing is."""
    if "Traceback" in ended.stderr:
        return f"a traceback: {ended.stderr}"
    if not ended.itself:
        return ""
    return " | ".join(
        problem for problem in (*_in_events(command, ended), *_in_words(command, ended), *_in_code(command, ended))
    )


def _in_events(command: tuple[str, ...], ended: Ended) -> Iterator[str]:
    """The last event and the exit code agree. Where the answer could not be written, the code says that."""
    if "stdout" in ended.hit or any(path.endswith("events.jsonl") for path in ended.hit):
        return
    if ended.events:
        if (told := _told(ended.events[-1])) != ended.code:
            yield f"exit {ended.code}, and the last event tells {told}: {ended.events[-1]}"
    elif TELLS.get(command[0], lambda code: False)(ended.code):
        yield f"exit {ended.code} and no event"


def _told(event: Mapping[str, Any]) -> int:
    match event["event"]:
        case "backup_created":
            return 0 if event["complete"] else 3
        case "backup_pruned":
            return 3 if event["failed"] else 0
        case "backup_restored":
            return 0 if event["complete"] else 3
        case "restore_taken_back" | "rollback_discarded":
            return 0
        case _:
            return int(event["exit_code"])


def _in_words(command: tuple[str, ...], ended: Ended) -> Iterator[str]:
    """With --json: one document on stdout, or none and an error with the exit code at the end of stderr."""
    if "--json" not in command:
        return
    lost = "stdout" in ended.hit and ended.code == 1
    try:
        if ended.code in (0, 3) or (ended.stdout and not lost):
            json.loads(ended.stdout)
        if ended.code not in (0, 3) and "stderr" not in ended.hit:
            said = json.loads(ended.stderr.splitlines()[-1])
            if said["exit_code"] != ended.code:
                yield f"exit {ended.code}, and it says {said['exit_code']}"
    except (ValueError, LookupError, TypeError) as error:
        yield f"exit {ended.code}, and what it says cannot be read ({error}): {ended.stdout!r}, {ended.stderr!r}"


def _in_code(command: tuple[str, ...], ended: Ended) -> Iterator[str]:
    """A disk that ran full is 13; 3 where what was to be removed stayed; 1 where only the answer found no room."""
    allowed = {0, NO_SPACE, 3 if command[0] == "prune" else 0, 1 if "stdout" in ended.hit else 0}
    read = any(path.endswith(READ) for path in ended.hit)
    if ended.fault in FULL and not read and ended.code not in allowed:
        yield f"{ended.fault} at {', '.join(ended.hit)} is exit {ended.code}: {ended.stderr}"


def left(project: Path, ended: Ended) -> list[str]:
    """What a run that failed by itself, at one call, should have taken away at once and did not."""
    if not ended.itself or ended.code == 0 or len(ended.hit) > 1:
        return []
    found = [*(project / BACKUPS).glob(".staging-*"), *(project / RESTORES).glob("*")]
    return [str(path.relative_to(project)) for path in found]
