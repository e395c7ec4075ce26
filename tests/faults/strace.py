"""A command is killed at a system call, or the call fails: each call of interest in turn, by strace's own injection.

strace counts the calls of each thread for itself; which thread copies what is another one each time. So a point is
a call's number in some thread of the run that was traced, and what it hits in another run may be its neighbour.
"""

from __future__ import annotations

import random
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.faults.trials import PROJECT, Finding, Tool, Trial

CALLS = (
    *("openat", "mkdir", "mkdirat", "rename", "renameat", "renameat2", "link", "linkat", "symlinkat"),
    *("unlink", "unlinkat", "rmdir", "write", "pwrite64", "fsync", "fdatasync", "ftruncate", "flock"),
)
"""What changes a disk, and what orders the changes. syncfs besides: it has no path."""
STRACE = ("strace", "-f", "-qq", "--seccomp-bpf")
"""A process is stopped at the calls that are traced and at no others: what is injected has to be traced too."""
KILL = "signal=SIGKILL"
ERRORS = {
    "ENOSPC": ("write", "pwrite64", "mkdir", "mkdirat", "openat", "fsync", "syncfs", "rename", "renameat"),
    "EIO": ("write", "pwrite64", "fsync", "syncfs", "rename", "renameat"),
    "EACCES": ("openat", "mkdir", "rename", "renameat", "unlinkat"),
}
_LINE = re.compile(r"(\d+) +(\w+)\(")


def missing() -> str:
    """Why nothing can be injected here; empty when it can."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    probe = subprocess.run([*STRACE, "-e", "trace=getppid", "true"], capture_output=True, check=False)
    return "" if probe.returncode == 0 else "strace may not trace here"


def injecting(call: str, fault: str) -> list[str]:
    """What stands before a command for `fault` to happen at `call`.

    With a filter strace injects errors and, as of 6.1, no signals.
    """
    strace = STRACE[:-1] if fault.startswith("signal") else STRACE
    return [*strace, "-o", "/dev/null", "-e", f"trace={call}", "-e", f"inject={call}:{fault}"]


@dataclass(frozen=True, slots=True)
class Point:
    """A call of the traced run, and what happens at it."""

    call: str
    number: int
    """Of this call in its thread, from 1."""
    fault: str

    @property
    def when(self) -> str:
        return f"{self.fault}:when={self.number}"


@dataclass(frozen=True, slots=True)
class Sweep:
    """One trial, below a folder."""

    folder: Path
    trial: Trial

    def base(self) -> Path:
        """The environment before the command; made where it is tried, because a scope is a path."""
        place = self._place
        place.mkdir()
        self.trial.prepare(Tool(place / PROJECT))
        return place.rename(self.folder / self.trial.name)

    def points(self, base: Path, faults: Sequence[str]) -> list[Point]:
        """Every call of interest from the first one on that writes, with each of `faults` (KILL, names of errors)."""
        log = self.folder / f"{self.trial.name}.strace"
        with self._fresh(base) as tool:
            argv = tool.argv(self.trial.command)
            watched = f"trace={','.join([*CALLS, 'syncfs'])}"
            done = subprocess.run([*STRACE, "-o", log, "-e", watched, *argv], capture_output=True, check=False)
            assert done.returncode == 0, done.stderr
        calls = list(_calls(log.read_text(errors="replace").splitlines(), self.trial.mark))
        return [
            Point(call, number, KILL if fault == KILL else f"error={fault}")
            for call, number in dict.fromkeys(calls)
            for fault in faults
            if fault == KILL or call in ERRORS[fault]
        ]

    def tried(self, base: Path, point: Point) -> Iterator[Finding]:
        with self._fresh(base) as tool:
            argv = [*injecting(point.call, point.when), *tool.argv(self.trial.command)]
            done = subprocess.run(argv, capture_output=True, text=True, check=False)
            problem = _manners(done) or self._checked(tool, ended=done.returncode == 0)
        if problem:
            yield Finding(self.trial.name, f"{point.call}:{point.when}", f"exit {done.returncode}", problem)

    def _checked(self, tool: Tool, *, ended: bool) -> str:
        try:
            return self.trial.check(tool, ended)
        except (AssertionError, OSError, ValueError) as error:
            return str(error)

    def _fresh(self, base: Path) -> _Fresh:
        return _Fresh(base, self._place)

    @property
    def _place(self) -> Path:
        return self.folder / "tried"


@dataclass(frozen=True, slots=True)
class _Fresh:
    """A copy of the environment, times and all, for one run."""

    base: Path
    place: Path

    def __enter__(self) -> Tool:
        subprocess.run(["cp", "-a", "--reflink=auto", self.base, self.place], check=True)
        return Tool(self.place / PROJECT)

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.place)


def _calls(lines: Sequence[str], mark: str) -> Iterator[tuple[str, int]]:
    """(call, its number in its thread) from the first line on that names `mark`.

    Not those with a number that the first thread has had by then: it would be hit while Python starts.
    """
    numbers: Counter[tuple[str, str]] = Counter()
    before: Counter[str] = Counter()
    begun, first = False, ""
    for line in lines:
        if found := _LINE.match(line):
            thread, call = found.groups()
            first = first or thread
            begun = begun or mark in line
            if not begun and thread == first:
                before[call] += 1
            numbers[thread, call] += 1
            if begun and numbers[thread, call] > before[call] and not (call == "openat" and "O_CREAT" not in line):
                yield call, numbers[thread, call]


def _manners(done: subprocess.CompletedProcess[str]) -> str:
    """An expected failure shows no traceback; a crash of ours is none."""
    return f"a traceback: {done.stderr}" if "Traceback" in done.stderr else ""


def thinned(points: Sequence[Point], count: int) -> list[Point]:
    """So many of them, evenly: the first and the last are among them."""
    if len(points) <= count:
        return list(points)
    return [points[i * (len(points) - 1) // (count - 1)] for i in range(count)]


def sampled(points: Sequence[Point], count: int, seed: int) -> list[Point]:
    """So many of them, by chance."""
    return random.Random(seed).sample(points, min(count, len(points)))
